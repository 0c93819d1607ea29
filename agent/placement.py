"""Where a task's secrets and configs lie in its folder on this host, and where the container sees them. Pure."""

import msgspec

from pyswarm.common.files import SECRETS_FOLDER, FileKey, file_uses
from pyswarm.common.types import ContainerSpec

_SECRETS = "secrets"
_SINGLE = "single"


class PlacedFile(msgspec.Struct, frozen=True):
    """A file below the task's folder: which payload, whose it is, who may read it."""

    path: str
    key: FileKey
    name: str
    uid: int
    gid: int
    mode: int


class Bind(msgspec.Struct, frozen=True):
    """A file or folder below the task's folder, and its path in the container."""

    source: str
    target: str


class Placement(msgspec.Struct, frozen=True):
    """All files of one task, each with its folders named by its path, and what the container is given of them."""

    files: tuple[PlacedFile, ...] = ()
    binds: tuple[Bind, ...] = ()


def placement(spec: ContainerSpec) -> Placement:
    """What lies below /run/secrets comes as that folder, whether secret or config: nothing can be bound into a
    folder that is read-only. Everything else is bound file by file."""
    files, binds = [], []
    for number, use in enumerate(file_uses(spec)):
        below = use.path.removeprefix(f"{SECRETS_FOLDER}/")
        if below != use.path:
            path = f"{_SECRETS}/{below}"
        else:
            path = f"{_SINGLE}/{number}"
            binds.append(Bind(path, use.path))
        owner = int(use.file.uid), int(use.file.gid)
        files.append(PlacedFile(path, use.key, use.name, *owner, use.file.mode))
    if any(file.path.startswith(f"{_SECRETS}/") for file in files):
        binds.insert(0, Bind(_SECRETS, SECRETS_FOLDER))
    return Placement(tuple(files), tuple(binds))
