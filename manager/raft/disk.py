"""The few file operations durability rests on, in one injectable object.

A simulation or a test replaces ``Disk`` to lose what was not synced, tear writes or fill up.
"""

import errno
import fcntl
import os
import zlib
from pathlib import Path

from pyswarm.manager.raft.types import RaftStorageError, StorageFullError

_FULL = (errno.ENOSPC, errno.EDQUOT)
#: The remedy for a data folder that cannot be trusted.
START_ANEW = (
    "on another manager run 'pyswarm node demote' and then 'pyswarm node promote' for this node, and it starts "
    "anew from what the others have"
)
REMEDY = f"nothing was changed; {START_ANEW}"


def is_full(exc: OSError) -> bool:
    """Whether an error only says that there is no space at the moment."""
    return exc.errno in _FULL


def storage_error(exc: OSError, path: Path) -> Exception:
    """What a failed write means to the node: wait for space, or stop."""
    return StorageFullError(str(exc)) if is_full(exc) else RaftStorageError(f"cannot write {path}: {exc.strerror}")


class Disk:
    """The machine's file system."""

    def open_rw(self, path: Path) -> int:
        """Open an existing file for reading and writing."""
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def create(self, path: Path) -> int:
        """Create or empty a file, readable by its owner only."""
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)

    def write(self, fd: int, data: bytes, offset: int) -> None:
        """Write all of ``data`` at ``offset``."""
        view = memoryview(data)
        while view:
            done = os.pwrite(fd, view, offset)
            offset += done
            view = view[done:]

    def read(self, path: Path) -> bytes:
        """The whole content of a file."""
        return path.read_bytes()

    def exists(self, path: Path) -> bool:
        """Whether there is such a file."""
        return path.exists()

    def size(self, path: Path) -> int:
        """How long a file is."""
        return path.stat().st_size

    def files(self, folder: Path) -> list[Path]:
        """What is in a folder, in no order."""
        return list(folder.iterdir())

    def make_folder(self, path: Path) -> None:
        """Make a folder for its owner only, unless it is there."""
        path.mkdir(parents=True, exist_ok=True, mode=0o700)

    def lock(self, path: Path) -> "FolderLock":
        """Take the lock of a data folder; raises RaftStorageError if another process has it."""
        return FolderLock(path)

    def open_read(self, path: Path) -> int:
        """Open a file for ``read_at``; it stays readable when another one takes its name."""
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def read_at(self, fd: int, offset: int, size: int) -> bytes:
        """A piece of an open file."""
        return os.pread(fd, size, offset)

    def truncate(self, fd: int, size: int) -> None:
        """Cut a file."""
        os.ftruncate(fd, size)

    def sync(self, fd: int) -> None:
        """Make written data durable."""
        os.fdatasync(fd)

    def close(self, fd: int) -> None:
        """Close a descriptor."""
        os.close(fd)

    def rename(self, old: Path, new: Path) -> None:
        """Put ``old`` in the place of ``new``, durably."""
        self.replace(old, new)
        self.sync_dir(new.parent)

    def replace(self, old: Path, new: Path) -> None:
        """Put ``old`` in the place of ``new``; durable with their folder."""
        os.rename(old, new)

    def unlink(self, path: Path) -> None:
        """Remove a file, if it is there."""
        path.unlink(missing_ok=True)

    def sync_dir(self, path: Path) -> None:
        """Make the names in a folder durable."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def write_beside(self, path: Path, data: bytes) -> None:
        """Replace a small file so that after a crash either the old or the new content is there, whole."""
        temporary = path.with_name(path.name + ".tmp")
        try:
            fd = self.create(temporary)
            try:
                self.write(fd, data, 0)
                self.sync(fd)
            finally:
                self.close(fd)
            self.rename(temporary, path)
        except OSError as exc:
            raise storage_error(exc, path) from exc


def seal(magic: bytes, body: bytes) -> bytes:
    """A small file's content with its checksum."""
    return magic + zlib.crc32(body).to_bytes(4, "little") + body


def unseal(magic: bytes, data: bytes, path: Path) -> bytes:
    """The body of a sealed file; refuses one that is damaged or of another kind."""
    start = len(magic) + 4
    check_format(magic, data, path)
    if data[: len(magic)] != magic:
        raise RaftStorageError(f"{path} is damaged or of another format version (offset 0): {REMEDY}")
    body = data[start:]
    if zlib.crc32(body) != int.from_bytes(data[len(magic) : start], "little"):
        raise RaftStorageError(f"{path} is damaged (offset {start}): {REMEDY}")
    return body


def check_format(magic: bytes, data: bytes, path: Path) -> None:
    """Refuse a file of a newer release: its magic is ours but for a higher digit at the end."""
    digit = data[len(magic) - 1 : len(magic)]
    if data[: len(magic) - 1] == magic[:-1] and digit.isdigit() and digit > magic[-1:]:
        raise RaftStorageError(
            f"{path} has format {digit.decode()}, this release reads up to {magic[-1:].decode()}: it was written "
            "by a newer release of pyswarm; start that one again"
        )


class FolderLock:
    """One process per data folder; the lock goes with the process."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            os.close(self._fd)
            raise RaftStorageError(f"{path.parent} is in use by another manager process") from exc

    def release(self) -> None:
        """Let the next process in."""
        os.close(self._fd)
