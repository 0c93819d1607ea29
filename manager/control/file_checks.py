"""What secrets, configs and the references to them may say. Pure; texts are Docker's where Docker has one."""

import re
from collections.abc import Iterator
from itertools import pairwise

from pyswarm.common.errors import InvalidArgument
from pyswarm.common.files import FileKind, FileUse, file_uses, limit_bytes, wrong_size
from pyswarm.common.types import ConfigSpec, ContainerSpec, SecretSpec

MAX_NAME_CHARS = 64
#: One number of 32 bits means "nobody in particular" to the kernel.
MAX_OWNER = 2**32 - 2
MAX_MODE = 0o777

# Docker's ^[a-zA-Z0-9]+(?:[a-zA-Z0-9-_.]*[a-zA-Z0-9])?$.
_NAME = re.compile(r"[a-zA-Z0-9](?:[a-zA-Z0-9_.-]*[a-zA-Z0-9])?")
_OWNER = re.compile(r"[0-9]{1,10}")


def check_file_spec(spec: SecretSpec | ConfigSpec) -> None:
    """A new secret or config. No text holds anything of the payload."""
    kind: FileKind = "secret" if isinstance(spec, SecretSpec) else "config"
    if not spec.name:
        raise InvalidArgument("name must be provided")
    if len(spec.name) > MAX_NAME_CHARS or not _NAME.fullmatch(spec.name):
        raise InvalidArgument(
            "invalid name, only 64 [a-zA-Z0-9-_.] characters allowed, and the start and end character must be "
            "[a-zA-Z0-9]"
        )
    check_file_labels(spec)
    if not 0 < len(spec.data) < limit_bytes(kind):
        raise InvalidArgument(wrong_size(kind))


def check_file_labels(spec: SecretSpec | ConfigSpec) -> None:
    """The only part that may be changed later."""
    if any(not key for key in spec.labels):
        raise InvalidArgument("meta: a label must have a name")


def check_file_update(old: SecretSpec | ConfigSpec, new: SecretSpec | ConfigSpec) -> None:
    """A client that sends the payload back, or leaves it out, changes nothing of it."""
    if new.name != old.name or (new.data and new.data != old.data):
        raise InvalidArgument("only updates to Labels are allowed")
    check_file_labels(new)


def check_references(spec: ContainerSpec) -> None:
    """What needs no look at the cluster: owners, permissions, and that each file has a place of its own."""
    uses = file_uses(spec)
    for use in uses:
        _check_reference(use)
    for one, other, path in _conflicts(uses):
        if one.kind == other.kind:
            names = f"{one.kind} references '{one.name}' and '{other.name}'"
        else:
            names = f"references to {one.kind} '{one.name}' and {other.kind} '{other.name}'"
        raise InvalidArgument(f"{names} have a conflicting target: '{path}'")


def _check_reference(use: FileUse) -> None:
    if not use.id or not use.name:
        raise InvalidArgument(f"malformed {use.kind} reference")
    if not use.file.name:
        raise InvalidArgument(f"malformed file {use.kind} reference, invalid target file name provided")
    shown = ascii(use.file.name[:200])
    try:
        _ = use.path
    except ValueError as exc:
        raise InvalidArgument(f"invalid target {shown} of {use.kind} {use.name}: {exc}") from exc
    for what, owner in (("uid", use.file.uid), ("gid", use.file.gid)):
        if not _OWNER.fullmatch(owner) or int(owner) > MAX_OWNER:
            raise InvalidArgument(
                f"invalid {what} {owner[:40]!a} of {use.kind} {use.name}: "
                f"it must be a number from 0 to {MAX_OWNER}"
            )
    if not 0 <= use.file.mode <= MAX_MODE:
        raise InvalidArgument(
            f"invalid mode {use.file.mode:#o} of {use.kind} {use.name}: it must be from 0000 to {MAX_MODE:04o}"
        )


def _conflicts(uses: tuple[FileUse, ...]) -> Iterator[tuple[FileUse, FileUse, str]]:
    """Uses that meet at one path, or where one's file would be the other's folder."""
    # Ordered by their parts, a folder stands right before what is in it.
    placed = sorted(((tuple(use.path.split("/")), use) for use in uses), key=lambda pair: pair[0])
    for (path, one), (other_path, other) in pairwise(placed):
        if other_path[: len(path)] == path:
            yield one, other, "/".join(path)
