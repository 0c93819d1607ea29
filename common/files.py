"""The secrets and configs a container is given as files: which, and where in the container. Pure."""

import posixpath
from typing import Literal

import msgspec

from pyswarm.common.types import ContainerSpec, FileTarget

SECRETS_FOLDER = "/run/secrets"
#: Payloads are smaller than these.
SECRET_LIMIT_BYTES = 500 * 1024
CONFIG_LIMIT_BYTES = 1000 * 1024
#: What the kernel takes as a path, and as one name in it.
MAX_PATH_BYTES = 4095
MAX_NAME_BYTES = 255

FileKind = Literal["secret", "config"]
#: Kind and id of a secret or config.
FileKey = tuple[FileKind, str]


def limit_bytes(kind: FileKind) -> int:
    """What the payload must stay below."""
    return SECRET_LIMIT_BYTES if kind == "secret" else CONFIG_LIMIT_BYTES


def wrong_size(kind: FileKind) -> str:
    """Docker's words for a payload that is empty or too large."""
    return f"{kind} data must be larger than 0 and less than {limit_bytes(kind)} bytes"


class FileUse(msgspec.Struct, frozen=True):
    """One secret or config of a container; ``name`` is what the user called it."""

    kind: FileKind
    id: str
    name: str
    file: FileTarget

    @property
    def key(self) -> FileKey:
        """What is needed of the cluster."""
        return self.kind, self.id

    @property
    def path(self) -> str:
        """Where the container finds it, absolute. Raises ValueError, with a reason for people."""
        return container_path(self.kind, self.file.name)


def file_uses(spec: ContainerSpec) -> tuple[FileUse, ...]:
    """All secrets and configs of a container, secrets first."""
    secrets = (FileUse("secret", ref.secret_id, ref.secret_name, ref.file) for ref in spec.secrets)
    configs = (FileUse("config", ref.config_id, ref.config_name, ref.file) for ref in spec.configs)
    return (*secrets, *configs)


def file_keys(spec: ContainerSpec) -> frozenset[FileKey]:
    """Which secrets and configs a container needs."""
    if not spec.secrets and not spec.configs:
        return frozenset()
    return frozenset(use.key for use in file_uses(spec))


def container_path(kind: FileKind, target: str) -> str:
    """The absolute path a target means: relative ones lie below /run/secrets for a secret, below / for a config.

    Raises ValueError for one that names no file, or could lead elsewhere than it says.
    """
    if not target.isprintable():
        raise ValueError("it has characters that cannot be shown")
    if ".." in target.split("/"):
        raise ValueError('".." is not allowed in it')
    if target.endswith(("/", "/.")):
        raise ValueError("it names a folder, not a file")
    folder = SECRETS_FOLDER if kind == "secret" else "/"
    path = posixpath.normpath(posixpath.join(folder, target))
    # POSIX lets two slashes at the beginning stand.
    path = "/" + path.lstrip("/")
    if path in ("/", SECRETS_FOLDER):
        raise ValueError("it names a folder, not a file")
    names = path.encode().split(b"/")
    if len(path.encode()) > MAX_PATH_BYTES or any(len(name) > MAX_NAME_BYTES for name in names):
        raise ValueError(f"it is too long: {MAX_PATH_BYTES} bytes at most, {MAX_NAME_BYTES} for each name in it")
    return path
