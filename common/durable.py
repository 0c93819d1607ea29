"""Small files that must be whole after any crash."""

import os
from pathlib import Path
from typing import TypeVar

import msgspec

from pyswarm.common.errors import FailedPrecondition

T = TypeVar("T")


def read_struct(path: Path, of: type[T], remedy: str) -> T | None:
    """What a MessagePack file holds, None when there is no file.

    Raises FailedPrecondition, with ``remedy`` at its end, when the file is damaged.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        return msgspec.msgpack.decode(data, type=of)
    except msgspec.DecodeError as exc:
        raise FailedPrecondition(f"{path} is damaged: {exc}; {remedy}") from exc


def write_durably(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Replace ``path`` in one step: after a crash it holds the old content or the new, never part of it."""
    aside = path.with_name(path.name + ".new")
    fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        os.write(fd, data)
        os.fsync(fd)
    finally:
        os.close(fd)
    aside.rename(path)
    _sync_folder(path.parent)


def remove_durably(path: Path) -> None:
    """Remove a file, if it is there; after a crash it does not come back."""
    path.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _sync_folder(path: Path) -> None:
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
