"""A disk that forgets what was not synced.

``Platter`` outlives the processes of a machine. A killed process leaves everything behind that it wrote; a power
cut keeps what was synced, and of the rest, sector by sector and name by name, what chance wants.
"""

import errno
import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pyswarm.manager.raft.disk import Disk, FolderLock
from pyswarm.manager.raft.types import RaftStorageError
from sim.loop import PowerCut, Process

SECTOR_BYTES = 512
_ORDINARY_SYNC_S = 0.0004


class File:
    """Content as programs see it, and as it is on the medium."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.synced = bytearray()
        self._dirty: set[int] = set()

    @property
    def is_durable(self) -> bool:
        """Whether a power cut would change nothing."""
        return not self._dirty and len(self.data) == len(self.synced)

    def write(self, data: bytes, offset: int) -> None:
        """Change what programs see."""
        if len(self.data) < offset:
            self.data.extend(bytes(offset - len(self.data)))
        self.data[offset : offset + len(data)] = data
        self._dirty.update(range(offset // SECTOR_BYTES, (offset + len(data) - 1) // SECTOR_BYTES + 1))

    def truncate(self, size: int) -> None:
        """Cut, or fill up with zeros."""
        first = min(size, len(self.data)) // SECTOR_BYTES
        last = max(size, len(self.data)) // SECTOR_BYTES
        del self.data[size:]
        self.data.extend(bytes(size - len(self.data)))
        self._dirty.update(range(first, last + 1))

    def sync(self) -> None:
        """Bring it to the medium."""
        self.synced[:] = self.data
        self._dirty.clear()

    def lose(self, rng: random.Random) -> None:
        """The power goes: sectors that were not synced are there or not, and so is a new length."""
        if not self.is_durable:
            fate = rng.random()
            if fate < 0.25:
                self.data[:] = self.synced
            elif fate < 0.75:
                self._mix(rng)
        self.sync()

    def _mix(self, rng: random.Random) -> None:
        old, new = self.synced, self.data
        low, high = sorted((len(old), len(new)))
        size = rng.choice((len(old), len(new), rng.randint(low, high)))
        mixed = bytearray((old + bytes(size))[:size])
        kept_part = rng.choice((0.2, 0.5, 0.9))
        for sector in sorted(self._dirty):
            start = sector * SECTOR_BYTES
            piece = new[start : min(start + SECTOR_BYTES, size)]
            if rng.random() < kept_part:
                mixed[start : start + len(piece)] = piece
        self.data = mixed


#: A change of a folder: the name, and what it stands for afterwards.
_NameChange = tuple[str, File | None]


class Platter:
    """One machine's medium."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.names: dict[str, File] = {}
        self._durable_names: dict[str, File] = {}
        self._unsynced: list[list[_NameChange]] = []
        self.locked_by: Process | None = None
        self.full = False
        self.broken = False
        self.slow_s = 0.0
        self.operations = 0
        self.lost_bytes = 0
        self._crash_in = 0
        self._crash: Callable[[], None] = lambda: None

    def arm(self, operations: int, crash: Callable[[], None]) -> None:
        """Crash during the operation that many from now; 0 disarms."""
        self._crash_in, self._crash = operations, crash

    def sync_delay(self) -> float:
        """How long making something durable takes."""
        return self.rng.expovariate(1 / (_ORDINARY_SYNC_S + self.slow_s))

    def change_names(self, *changes: _NameChange) -> None:
        """Create, rename or remove; all of it or nothing survives."""
        for name, file in changes:
            if file is None:
                self.names.pop(name, None)
            else:
                self.names[name] = file
        self._unsynced.append(list(changes))

    def sync_names(self) -> None:
        """The folder is durable."""
        self._durable_names = dict(self.names)
        self._unsynced.clear()

    def lose_power(self) -> None:
        """Keep what is durable, and by chance some of the rest; nobody promises that names change in order."""
        self.arm(0, lambda: None)
        rng, fate = self.rng, self.rng.random()
        survivors = self._unsynced
        if fate < 0.3:
            survivors = []
        elif fate < 0.6:
            survivors = survivors[: rng.randint(0, len(survivors))]
        elif fate < 0.9:
            survivors = [change for change in survivors if rng.random() < 0.5]
        names = self._durable_names
        for changes in survivors:
            for name, file in changes:
                if file is None:
                    names.pop(name, None)
                else:
                    names[name] = file
        for name in sorted(names):
            before = bytes(names[name].data)
            names[name].lose(rng)
            self.lost_bytes += before != bytes(names[name].data)
        self.names = dict(names)
        self._unsynced.clear()

    @contextmanager
    def operation(self, process: Process) -> Iterator[None]:
        """One thing asked of the disk: the armed crash comes before or after it."""
        if not process.alive:
            raise PowerCut
        self.operations += 1
        crashes = False
        if self._crash_in:
            self._crash_in -= 1
            crashes = self._crash_in == 0
        if crashes and self.rng.random() < 0.5:
            self._crash()
            raise PowerCut
        yield
        if crashes:
            self._crash()
            raise PowerCut


class SimLock(FolderLock):
    """The lock of a simulated folder goes with its process, too."""

    def __init__(self, platter: Platter, process: Process, path: Path) -> None:
        if platter.locked_by is not None and platter.locked_by.alive:
            raise RaftStorageError(f"{path.parent} is in use by another manager process")
        self._platter = platter
        platter.locked_by = process

    def release(self) -> None:
        """Let the next process in."""
        self._platter.locked_by = None


class SimDisk(Disk):
    """What one process sees of a platter."""

    def __init__(self, platter: Platter, process: Process) -> None:
        self._platter = platter
        self._process = process
        self._open: dict[int, File] = {}
        self._opened = 0

    def _find(self, path: Path) -> File:
        file = self._platter.names.get(str(path))
        if file is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        return file

    def _descriptor(self, file: File) -> int:
        self._opened += 1
        self._open[self._opened] = file
        return self._opened

    def open_rw(self, path: Path) -> int:
        return self._descriptor(self._find(path))

    def open_read(self, path: Path) -> int:
        return self._descriptor(self._find(path))

    def create(self, path: Path) -> int:
        with self._platter.operation(self._process):
            file = self._platter.names.get(str(path))
            if file is not None:
                file.truncate(0)
            else:
                if self._platter.full and self._platter.rng.random() < 0.5:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
                file = File()
                self._platter.change_names((str(path), file))
            return self._descriptor(file)

    def write(self, fd: int, data: bytes, offset: int) -> None:
        with self._platter.operation(self._process):
            file = self._open[fd]
            if self._platter.full and offset + len(data) > len(file.data):
                part = data[: self._platter.rng.randint(0, len(data) - 1)]
                if part:
                    file.write(part, offset)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            file.write(data, offset)

    def read(self, path: Path) -> bytes:
        return bytes(self._find(path).data)

    def read_at(self, fd: int, offset: int, size: int) -> bytes:
        return bytes(self._open[fd].data[offset : offset + size])

    def exists(self, path: Path) -> bool:
        return str(path) in self._platter.names

    def size(self, path: Path) -> int:
        return len(self._find(path).data)

    def files(self, folder: Path) -> list[Path]:
        found = [Path(name) for name in sorted(self._platter.names)]
        self._platter.rng.shuffle(found)
        return [path for path in found if path.parent == folder]

    def make_folder(self, path: Path) -> None:
        """Every folder is there."""

    def lock(self, path: Path) -> FolderLock:
        return SimLock(self._platter, self._process, path)

    def truncate(self, fd: int, size: int) -> None:
        with self._platter.operation(self._process):
            self._open[fd].truncate(size)

    def sync(self, fd: int) -> None:
        with self._platter.operation(self._process):
            if self._platter.broken:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            self._open[fd].sync()

    def close(self, fd: int) -> None:
        self._open.pop(fd, None)

    def replace(self, old: Path, new: Path) -> None:
        with self._platter.operation(self._process):
            self._platter.change_names((str(new), self._find(old)), (str(old), None))

    def unlink(self, path: Path) -> None:
        with self._platter.operation(self._process):
            if str(path) in self._platter.names:
                self._platter.change_names((str(path), None))

    def sync_dir(self, path: Path) -> None:
        with self._platter.operation(self._process):
            self._platter.sync_names()
