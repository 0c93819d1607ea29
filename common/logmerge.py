"""Several logs in one, by the times of their lines. Pure.

A line may go out only when every log that is still to be put in order has shown its next one. So whoever asks what
can go out is also told whose turn it is to say more, and may do without one that takes too long.
"""

import heapq
from collections.abc import Iterable
from typing import NamedTuple

from pyswarm.common.logframes import lines


class Chunk(NamedTuple):
    """Whole frames of one task's log, in its order."""

    task_id: str
    frames: bytes


class _Head(NamedTuple):
    """What a source says next: the time decides, then who spoke first."""

    time: bytes
    serial: int
    source: str
    chunk: Chunk
    start: int


class Merge:
    """Each source gives chunks that are in order among themselves, and says when it has no more."""

    def __init__(self, sources: Iterable[str] = ()) -> None:
        self._owing = set(sources)
        self._heads: list[_Head] = []
        self._serial = 0

    @property
    def owing(self) -> frozenset[str]:
        """The sources without whose next word nothing can be taken."""
        return frozenset(self._owing)

    @property
    def done(self) -> bool:
        """Whether every source has ended and everything was taken."""
        return not self._owing and not self._heads

    def put(self, source: str, chunk: Chunk) -> None:
        """The next chunk of a source that owes one. Raises InvalidArgument when it is not made of frames."""
        first = b""
        for line in lines(chunk.frames):
            first = first or line.time
        if first:
            self._owing.discard(source)
            self._serial += 1
            heapq.heappush(self._heads, _Head(first, self._serial, source, chunk, 0))

    def end(self, source: str) -> None:
        """The source has no more, or is not waited for any longer."""
        self._owing.discard(source)

    def take(self) -> list[Chunk]:
        """What can go out now; afterwards some source owes its next chunk, unless all have ended."""
        taken: list[Chunk] = []
        while self._heads and not self._owing:
            _, serial, source, chunk, start = heapq.heappop(self._heads)
            rest, cut = b"", len(chunk.frames)
            if self._heads:
                rest, cut = _up_to(chunk.frames, start, self._heads[0].time)
            taken.append(Chunk(chunk.task_id, chunk.frames[start:cut] if start or rest else chunk.frames))
            if rest:
                heapq.heappush(self._heads, _Head(rest, serial, source, chunk, cut))
            else:
                self._owing.add(source)
        return joined(taken)


def _up_to(frames: bytes, start: int, bound: bytes) -> tuple[bytes, int]:
    """Where the lines end that are not later than ``bound``, and the time of the next one, empty if there is none.

    The first line counts in any case: it is the smallest there is, or as small as another.
    """
    cut = start
    for line in lines(frames, start):
        if cut > start and line.time > bound:
            return line.time, cut
        cut = line.end
    return b"", cut


def joined(chunks: list[Chunk]) -> list[Chunk]:
    """Neighbours of one task in one chunk."""
    result: list[Chunk] = []
    parts: list[bytes] = []
    for chunk in chunks:
        if result and result[-1].task_id == chunk.task_id:
            parts.append(chunk.frames)
            continue
        if len(parts) > 1:
            result[-1] = Chunk(result[-1].task_id, b"".join(parts))
        result.append(chunk)
        parts = [chunk.frames]
    if len(parts) > 1:
        result[-1] = Chunk(result[-1].task_id, b"".join(parts))
    return result
