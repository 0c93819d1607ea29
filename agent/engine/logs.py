"""The engine's logs of a container, as frames of whole lines with their times.

They have connections of their own: a log that is followed holds one for as long as it is read, and the other
calls must not wait for it. Nothing is read ahead of whoever reads here, so a slow reader slows the engine down.
"""

import re
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from urllib.parse import quote

import aiohttp

from pyswarm.agent.engine.api import LogQuery
from pyswarm.agent.engine.client import CONNECT_LIMIT_S, EngineClient, EngineRefusal, cannot_connect, error_text
from pyswarm.agent.engine.errors import EngineError, EngineUnavailable, LogsUnreadable, NoSuchContainer
from pyswarm.common.logframes import HEADER_BYTES, MAX_TEXT_BYTES, STDERR, STDOUT, SYSTEM, TIME_CHARS, frame

#: What is there already comes without a pause, unless the engine searches through much that nobody asked for.
SILENCE_LIMIT_S = 60.0
#: The engine cuts lines here; the parts of one line have no line feed between them.
PART_BYTES = 16 * 1024
_TIME = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}(Z|[+-]\d\d:\d\d) ")


class EngineLogs:
    """Reads logs from the engine of ``client``."""

    def __init__(self, client: EngineClient, *, silence_limit_s: float = SILENCE_LIMIT_S) -> None:
        self._client = client
        self._silence_limit_s = silence_limit_s
        self._session: aiohttp.ClientSession | None = None

    async def read(self, name: str, query: LogQuery) -> AsyncGenerator[bytes, None]:
        """Whole frames, as they come. Raises NoSuchContainer, LogsUnreadable, EngineUnavailable or EngineError."""
        params = {
            "stdout": str(int(query.stdout)),
            "stderr": str(int(query.stderr)),
            "follow": str(int(query.follow)),
            "details": str(int(query.details)),
            "timestamps": "1",
            "tail": "all" if query.tail < 0 else str(query.tail),
            **({"since": query.since} if query.since else {}),
            **({"until": query.until} if query.until else {}),
        }
        timeout = aiohttp.ClientTimeout(
            total=None,
            sock_connect=CONNECT_LIMIT_S,
            # The answer's head comes at once also when following; then there may be nothing to say for days.
            sock_read=None if query.follow else self._silence_limit_s,
        )
        path = f"{self._client.base_url}/containers/{quote(name, safe='')}/logs"
        try:
            async with self._open().get(path, params=params, timeout=timeout) as reply:
                if reply.status != 200:
                    raise _refusal(name, reply.status, await reply.text())
                parser = TtyParser() if query.tty else FrameParser()
                async for data in reply.content.iter_any():
                    if frames := parser.feed(data):
                        yield frames
                if frames := parser.end():
                    yield frames
        except TimeoutError as exc:
            raise EngineUnavailable(f"the engine gave no log of {name} for {self._silence_limit_s:g} s") from exc
        except aiohttp.ClientConnectorError as exc:
            raise cannot_connect(self._client.url) from exc
        except (aiohttp.ClientError, OSError) as exc:
            raise EngineUnavailable(f"the connection to the engine broke: {exc}") from exc

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(connector=self._client.connector(), auto_decompress=False)
        return self._session

    async def close(self) -> None:
        """Close every connection."""
        if self._session is not None:
            session, self._session = self._session, None
            await session.close()


def _refusal(name: str, status: int, body: str) -> EngineError:
    text = error_text(body)
    # 409: it is being removed.
    if status in (404, 409):
        return NoSuchContainer(name)
    if status == 501 or "does not support reading" in text:
        return LogsUnreadable(text)
    if status == 503:
        return EngineUnavailable(f"the engine cannot serve now: {text}")
    return EngineRefusal(text, status)


class FrameParser:
    """The log of a container without a terminal: frames already."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> bytes:
        """The frames that are complete now. Raises EngineError with what the engine said went wrong."""
        data = self._rest + data if self._rest else data
        position, size, is_plain = 0, len(data), True
        while (start := position + HEADER_BYTES) <= size:
            end = start + int.from_bytes(data[position + 4 : start], "big")
            if end - start > MAX_TEXT_BYTES:
                raise EngineError(f"a line of the log has {end - start} bytes, at most {MAX_TEXT_BYTES} are read")
            if end > size:
                break
            kind = data[position]
            if kind == SYSTEM:
                raise EngineError(data[start:end].decode(errors="replace").strip())
            # The usual time: 30 characters, of which the last says that it is UTC.
            if not (kind in (STDOUT, STDERR) and data[start + TIME_CHARS - 1 : start + TIME_CHARS + 1] == b"Z "):
                is_plain = False
            position = end
        self._rest = data[position:]
        frames = data[:position] if self._rest else data
        return frames if is_plain else _in_utc(frames)

    def end(self) -> bytes:
        """The engine is done: a frame that was cut short is none."""
        return b""


class TtyParser:
    """The log of a container with a terminal: each line with its time, one after the other.

    A line too long for the engine comes in parts of equal size, each with a time of its own, which is otherwise
    not to be told from text.
    """

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> bytes:
        """The lines that are complete now, as frames."""
        self._rest += data
        frames = []
        while (size := self._first_line()) and self._rest:
            text, self._rest = self._rest[:size], self._rest[size:]
            frames.append(frame(STDOUT, text))
        return _in_utc(b"".join(frames))

    def _first_line(self) -> int:
        """How long the first line is; 0 while that cannot be known."""
        newline = self._rest.find(b"\n") + 1
        begun = _TIME.match(self._rest)
        part = begun.end() + PART_BYTES if begun else 0
        if part and (not newline or newline > part) and _TIME.match(self._rest, part):
            return part
        if part and len(self._rest) < part + TIME_CHARS + 6 and (not newline or newline > part):
            return 0
        if not newline and len(self._rest) > MAX_TEXT_BYTES:
            raise EngineError(f"a line of the log has more than {MAX_TEXT_BYTES} bytes")
        return newline

    def end(self) -> bytes:
        """What was left: a line without its end."""
        text, self._rest = self._rest, b""
        parts = []
        while (begun := _TIME.match(text)) and _TIME.match(text, part := begun.end() + PART_BYTES):
            parts.append(frame(STDOUT, text[:part]))
            text = text[part:]
        return _in_utc(b"".join([*parts, frame(STDOUT, text)])) if text else b""


def _in_utc(frames: bytes) -> bytes:
    """The same with times in UTC: one log driver gives its host's. What has no time belongs to the line before."""
    result: list[bytes] = []
    position, time, stream = 0, b"", STDOUT
    while position < len(frames):
        start = position + HEADER_BYTES
        position, kind = start + int.from_bytes(frames[position + 4 : start], "big"), frames[position]
        text = frames[start:position]
        if (found := _TIME.match(text)) is not None:
            time = text[: found.end() - 1]
            time = time if time.endswith(b"Z") else _utc(time)
            text = text[found.end() :]
        elif not time:
            continue
        stream = kind if kind in (STDOUT, STDERR) else stream
        result.append(frame(stream, time + b" " + text))
    return b"".join(result)


def _utc(time: bytes) -> bytes:
    """``2026-01-02T03:04:05.000000006+01:00`` -> ``2026-01-02T02:04:05.000000006Z``."""
    text = time.decode()
    moment = datetime.fromisoformat(text[:19] + text[29:]).astimezone(UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}{text[19:29]}Z".encode()
