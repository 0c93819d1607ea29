"""Which services need which secrets and configs. Pure."""

from pyswarm.common.files import FileKind, FileUse, file_keys, file_uses
from pyswarm.common.types import Config, Secret, Service, ServiceSpec
from pyswarm.manager.state.view import View


def file_object(view: View, kind: FileKind, object_id: str) -> Secret | Config | None:
    """The secret or config of exactly this id."""
    return view.secrets.get(object_id) if kind == "secret" else view.configs.get(object_id)


def missing_files(view: View, spec: ServiceSpec) -> list[FileUse]:
    """What a service names that is not there, or not under that name."""
    missing = []
    for use in file_uses(spec.task_template.container_spec):
        found = file_object(view, use.kind, use.id)
        if found is None or found.spec.name != use.name:
            missing.append(use)
    return missing


def users_of(view: View, obj: Secret | Config) -> list[Service]:
    """The services whose present spec names a secret or config."""
    kind: FileKind = "secret" if isinstance(obj, Secret) else "config"
    key = (kind, obj.id)
    return [s for s in view.services.values() if key in file_keys(s.spec.task_template.container_spec)]
