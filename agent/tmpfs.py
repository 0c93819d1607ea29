"""The agent's door to mounts: folders in memory, one per task, that nobody but root can enter.

A container is given parts of its folder by bind mounts, which hold the memory until it ends; so a folder may go as
soon as its task has ended, and outlives this process as long as it has not. A folder is complete or not there at
all: one that was being made when the host or this process died lacks the mark, and is made anew.
"""

import ctypes
import errno
import os
import shutil
import stat
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

_MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 0x2, 0x4, 0x8
_MNT_DETACH, _UMOUNT_NOFOLLOW = 0x2, 0x8
_FLAGS = _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
_COMPLETE = "complete"
#: Beyond the files themselves, in pages and in inodes.
_SPARE = 8
#: Several mounts on one folder come from an interrupted removal; a bound, should the kernel never say it is none.
_MAX_STACKED = 16

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class FileInMemory:
    """A file to make; ``path`` is relative. The content is kept out of ``repr``."""

    path: str
    uid: int
    gid: int
    mode: int
    data: bytes = field(repr=False)


class TmpfsFolders:
    """Folders by task id below ``root``, each a file system of its own. Every method blocks for a moment."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def path(self, name: str) -> Path:
        """Where the folder is, or would be."""
        return self._root / name

    def is_complete(self, name: str) -> bool:
        """Whether everything is there."""
        return os.path.ismount(self.path(name)) and (self.path(name) / _COMPLETE).exists()

    def build(self, name: str, files: Sequence[FileInMemory]) -> None:
        """Make the folder with just these files, in place of an earlier one. Raises OSError, leaving nothing."""
        self.remove(name)
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._root.chmod(0o700)
        folder = self.path(name)
        folder.mkdir(mode=0o700)
        try:
            _mount(folder, files)
            for file in files:
                _write(folder, file)
            (folder / _COMPLETE).touch(mode=0o400)
        except BaseException:
            self.remove(name)
            raise

    def remove(self, name: str) -> None:
        """Empty the folder, so that nothing stays where its mount was copied to, and unmount it; none is fine."""
        folder = self.path(name)
        for _ in range(_MAX_STACKED):
            if not folder.is_dir():
                return
            _empty(folder)
            if not _unmount(folder):
                break
        folder.rmdir()

    def names(self) -> list[str]:
        """The folders there are, complete or not."""
        try:
            return sorted(os.listdir(self._root))
        except FileNotFoundError:
            return []


def _mount(folder: Path, files: Sequence[FileInMemory]) -> None:
    page = os.sysconf("SC_PAGE_SIZE")
    pages = sum(-(-len(file.data) // page) for file in files) + _SPARE
    inodes = sum(len(Path(file.path).parts) for file in files) + _SPARE
    options = f"mode=0700,size={pages * page},nr_inodes={inodes}"
    try:
        _mount_tmpfs(folder, f"{options},noswap")
    except OSError as exc:
        # Kernels before 6.4 do not know how to keep one out of the swap space.
        if exc.errno != errno.EINVAL:
            raise
        _mount_tmpfs(folder, options)


def _mount_tmpfs(folder: Path, options: str) -> None:
    if _libc.mount(b"pyswarm", os.fsencode(folder), b"tmpfs", ctypes.c_ulong(_FLAGS), options.encode()) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"cannot mount a tmpfs: {os.strerror(number)}", str(folder))


def _unmount(folder: Path) -> bool:
    """Whether there was a mount to take away."""
    if _libc.umount2(os.fsencode(folder), _MNT_DETACH | _UMOUNT_NOFOLLOW) == 0:
        return True
    number = ctypes.get_errno()
    if number not in (errno.EINVAL, errno.ENOENT):
        raise OSError(number, f"cannot unmount: {os.strerror(number)}", str(folder))
    return False


def _write(folder: Path, file: FileInMemory) -> None:
    target = folder / file.path
    for parent in reversed(target.relative_to(folder).parents[:-1]):
        with suppress(FileExistsError):
            (folder / parent).mkdir()
            # Whatever the umask: the container's users must get to their files.
            (folder / parent).chmod(0o755)
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as opened:
        opened.write(file.data)
        opened.flush()
        os.fchown(descriptor, file.uid, file.gid)
        os.fchmod(descriptor, file.mode)


def _empty(folder: Path) -> None:
    for entry in os.scandir(folder):
        if stat.S_ISDIR(entry.stat(follow_symlinks=False).st_mode):
            shutil.rmtree(entry.path)
        else:
            os.unlink(entry.path)
