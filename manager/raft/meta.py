"""Two small checksummed files: whose data this is, and the term and vote that must never be forgotten."""

from pathlib import Path

import msgspec

from pyswarm.manager.raft.disk import REMEDY, Disk, seal, unseal
from pyswarm.manager.raft.generation import Forced, Generation
from pyswarm.manager.raft.types import Member, RaftStorageError

_META_MAGIC = b"PSWMETA1"
_VOTE_MAGIC = b"PSWVOTE1"


class Meta(msgspec.Struct, frozen=True):
    """Written last when a data folder is made, without it the folder counts as empty; replaced by a rescue."""

    node_id: str
    cluster_id: str
    #: The membership before the first entry of the log.
    members: tuple[Member, ...]
    #: Of this folder, made with it: the others remember what a member had on it.
    folder_id: str = ""
    generation: Generation = Generation()
    #: The newest rescue of this folder, if there was one.
    forced: Forced | None = None


class _Vote(msgspec.Struct, frozen=True):
    term: int = 0
    voted_for: str | None = None


def is_set_up(folder: Path, disk: Disk) -> bool:
    """Whether the folder holds a node's data."""
    return disk.exists(_path(folder))


def load_meta(folder: Path, disk: Disk) -> Meta | None:
    """The folder's meta file, None when the folder was never set up."""
    if not is_set_up(folder, disk):
        return None
    path = _path(folder)
    body = unseal(_META_MAGIC, disk.read(path), path)
    return msgspec.msgpack.decode(body, type=Meta)


def save_meta(folder: Path, meta: Meta, disk: Disk) -> None:
    """Make the folder count as set up."""
    disk.write_beside(_path(folder), seal(_META_MAGIC, msgspec.msgpack.encode(meta)))


def _path(folder: Path) -> Path:
    return folder / "meta"


class HardState:
    """Current term and vote. ``set`` changes memory, ``save`` makes it durable before anything is sent."""

    def __init__(self, folder: Path, disk: Disk) -> None:
        self._path = folder / "vote"
        self._disk = disk
        self._value = _Vote()
        self._dirty = False

    def create(self) -> None:
        """Term 0, no vote."""
        self._dirty = True
        self.save()

    def load(self) -> None:
        """Read the file back; a missing or damaged one stops the node, which may have voted."""
        if not self._disk.exists(self._path):
            raise RaftStorageError(f"{self._path} is missing: {REMEDY}")
        body = unseal(_VOTE_MAGIC, self._disk.read(self._path), self._path)
        self._value = msgspec.msgpack.decode(body, type=_Vote)

    @property
    def term(self) -> int:
        """The newest term this node knows."""
        return self._value.term

    @property
    def voted_for(self) -> str | None:
        """Whom it voted for in that term."""
        return self._value.voted_for

    def set(self, term: int, voted_for: str | None) -> None:
        """A new term, or a vote in it."""
        if term != self.term or voted_for != self.voted_for:
            self._value = _Vote(term, voted_for)
            self._dirty = True

    def save(self) -> None:
        """Durable when this returns."""
        if self._dirty:
            self._disk.write_beside(self._path, seal(_VOTE_MAGIC, msgspec.msgpack.encode(self._value)))
            self._dirty = False
