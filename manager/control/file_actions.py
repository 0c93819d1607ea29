"""What the leader does with secrets and configs."""

from msgspec.structs import replace

from pyswarm.common.errors import InUse, InvalidArgument, UpdateOutOfSequence
from pyswarm.common.files import FileKind
from pyswarm.common.ids import new_id
from pyswarm.common.types import Config, ConfigSpec, Secret, SecretSpec, ServiceSpec
from pyswarm.manager.control.file_checks import check_file_spec, check_file_update
from pyswarm.manager.state import Store, Transaction, View
from pyswarm.manager.state.references import file_object, missing_files, users_of


def find_file(view: View, kind: FileKind, ref: str) -> Secret | Config:
    """By id, name or id prefix; with its payload."""
    return view.secrets.find(ref) if kind == "secret" else view.configs.find(ref)


def require_files(view: View, spec: ServiceSpec) -> None:
    """Raises unless everything a service refers to is there, under the name it says."""
    missing = missing_files(view, spec)
    for kind in ("secret", "config"):
        names = [use.name for use in missing if use.kind == kind]
        if names:
            raise InvalidArgument(f"{kind if len(names) == 1 else kind + 's'} not found: {', '.join(names)}")


def require_unused(view: View, obj: Secret | Config) -> None:
    """Raises InUse, naming the services, while there are any."""
    names = sorted(service.spec.name for service in users_of(view, obj))
    if names:
        kind = "secret" if isinstance(obj, Secret) else "config"
        noun = "service" if len(names) == 1 else "services"
        raise InUse(f"{kind} '{obj.spec.name}' is in use by the following {noun}: {', '.join(names)}")


class FileActions:
    """Runs on the leader only; every method may raise NotLeader. What is returned has its payload."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def create(self, spec: SecretSpec | ConfigSpec) -> Secret | Config:
        """Store a new one; its name must be free."""
        check_file_spec(spec)
        file_id = new_id()
        new: Secret | Config
        new = Secret(id=file_id, spec=spec) if isinstance(spec, SecretSpec) else Config(id=file_id, spec=spec)
        kind: FileKind = "secret" if isinstance(new, Secret) else "config"

        def build(tx: Transaction) -> None:
            tx.create(new)

        await self._store.update(build, reason=f"{kind} create")
        return file_object(self._store.view, kind, file_id) or new

    async def update(
        self, kind: FileKind, ref: str, version: int, spec: SecretSpec | ConfigSpec
    ) -> Secret | Config:
        """Change labels; anything else is refused."""

        def build(tx: Transaction) -> Secret | Config:
            found = find_file(tx.view, kind, ref)
            check_file_update(found.spec, spec)
            if found.version.index != version:
                raise UpdateOutOfSequence
            if isinstance(found, Secret):
                tx.update(replace(found, spec=replace(found.spec, labels=spec.labels)))
            else:
                tx.update(replace(found, spec=replace(found.spec, labels=spec.labels)))
            return found

        former = await self._store.update(build, reason=f"{kind} update")
        return file_object(self._store.view, kind, former.id) or former

    async def remove(self, kind: FileKind, ref: str) -> None:
        """Remove one that no service uses."""

        def build(tx: Transaction) -> None:
            found = find_file(tx.view, kind, ref)
            require_unused(tx.view, found)
            tx.delete(found)

        await self._store.update(build, reason=f"{kind} remove")
