"""Log lines as the engine frames them, and how far a log was read. Pure.

A frame is the engine's own: which stream (1 byte, 3 of padding), the length (4 bytes), the text. Between nodes
each text begins with the line's time, 30 characters of UTC that compare as text, and a space; with details, those
and another space follow. Frames travel as they are, so that no node on the way has to take lines apart.

A line is found again by its time, which grows within one stream of one container, and by how many lines of that
very time came before it. Stdout and stderr are counted apart: between the two the order of times is not kept.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NamedTuple

from pyswarm.common.errors import InvalidArgument

STDOUT, STDERR, SYSTEM = 1, 2, 3
HEADER_BYTES = 8
TIME_CHARS = 30
#: The engine cuts lines at 16 KiB; details and drivers of one's own add to that.
MAX_TEXT_BYTES = 1024 * 1024
_HEADER = struct.Struct(">BxxxI")
_SPACE = 0x20
_Z = 0x5A


class Line(NamedTuple):
    """One line: ``text`` is what follows its time; ``end`` is where its frame ends."""

    stream: int
    time: bytes
    text: bytes
    end: int


def frame(stream: int, text: bytes) -> bytes:
    """One frame."""
    return _HEADER.pack(stream, len(text)) + text


def lines(frames: bytes, position: int = 0) -> Iterator[Line]:
    """The lines of whole frames. Raises InvalidArgument for anything else: they may come from a worker."""
    size = len(frames)
    while position < size:
        start = position + HEADER_BYTES
        if start > size:
            raise InvalidArgument("a log frame is cut short")
        end = start + int.from_bytes(frames[position + 4 : start], "big")
        stream = frames[position]
        if end > size or stream not in (STDOUT, STDERR):
            raise InvalidArgument("a log frame cannot be read")
        if (
            end - start <= TIME_CHARS
            or frames[start + TIME_CHARS] != _SPACE
            or frames[start + TIME_CHARS - 1] != _Z
        ):
            raise InvalidArgument("a log line has no time")
        yield Line(stream, frames[start : start + TIME_CHARS], frames[start + TIME_CHARS + 1 : end], end)
        position = end


def time_text(epoch_s: float) -> bytes:
    """A moment as lines have it."""
    return datetime.fromtimestamp(epoch_s, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f000Z").encode()


def epoch_text(time: bytes) -> str:
    """A line's time as the engine takes it: ``seconds.nanoseconds``."""
    text = time.decode()
    return f"{round(datetime.fromisoformat(text[:19] + '+00:00').timestamp())}.{text[20:29]}"


class Mark(NamedTuple):
    """The time of a stream's last line, and how many lines bear it; no time before the first."""

    time: bytes = b""
    lines: int = 0


@dataclass
class Cursor:
    """How far a task's log was read."""

    stdout: Mark = field(default_factory=Mark)
    stderr: Mark = field(default_factory=Mark)

    def __bool__(self) -> bool:
        return bool(self.stdout.time or self.stderr.time)

    @property
    def earliest(self) -> bytes:
        """From when on there may be lines that were not read; empty: from the beginning."""
        return min(self.stdout.time, self.stderr.time)

    @property
    def latest(self) -> bytes:
        """The time of the newest line read."""
        return max(self.stdout.time, self.stderr.time)

    def read(self, stream: int, time: bytes) -> None:
        """One more line."""
        if stream == STDOUT:
            mark = self.stdout
            self.stdout = Mark(time, mark.lines + 1 if mark.time == time else 1)
        else:
            mark = self.stderr
            self.stderr = Mark(time, mark.lines + 1 if mark.time == time else 1)

    def settle(self, time: bytes) -> None:
        """Nothing that is older is to be read any more, in a stream that has no line yet."""
        bound = min(time, self.latest) if self else time
        self.stdout = self.stdout if self.stdout.time else Mark(bound, 0)
        self.stderr = self.stderr if self.stderr.time else Mark(bound, 0)

    def copy(self) -> "Cursor":
        """As it is now."""
        return Cursor(self.stdout, self.stderr)


class Resumption:
    """Tells, of a log that is read again from a cursor's time on, which lines are new."""

    def __init__(self, cursor: Cursor) -> None:
        self._cursor = cursor
        self._known = {STDOUT: cursor.stdout, STDERR: cursor.stderr}

    def take(self, frames: bytes) -> bytes:
        """The frames whose lines are new; they count as read, which moves the cursor."""
        fresh, start, all_new = [], 0, True
        for line in lines(frames):
            if self._is_new(line.stream, line.time):
                self._cursor.read(line.stream, line.time)
                fresh.append(frames[start : line.end])
            else:
                all_new = False
            start = line.end
        return frames if all_new else b"".join(fresh)

    def _is_new(self, stream: int, time: bytes) -> bool:
        known = self._known[stream]
        if time != known.time:
            return time > known.time
        if known.lines == 0:
            return True
        self._known[stream] = Mark(known.time, known.lines - 1)
        return False
