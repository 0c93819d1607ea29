"""Raw streams between client and engine: attach, exec and the sessions of a build.

The engine takes such a connection over ("hijacks" it): after its first answer there is no HTTP any more, only
bytes both ways, and each way ends by itself. ``docker run -i`` relies on that: its standard input ends long before
the output does. A client waits for that answer before it sends anything; what came earlier the HTTP server would
have taken for a next request.
"""

import asyncio
import http.client
import io
import re
import select
from contextlib import suppress
from typing import cast

from aiohttp import web

from pyswarm.common.errors import Unavailable

_STREAMS = re.compile(r"^(/v[0-9.]+)?/(containers/[^/]+/attach(/ws)?|exec/[^/]+/start|session|grpc)$")
_RAW_TYPES = ("application/vnd.docker.raw-stream", "application/vnd.docker.multiplexed-stream")
#: Said anew, or not the engine's business: the body was read, and a client that asks whether to send it was told.
_REPLACED = frozenset({b"host", b"content-length", b"transfer-encoding", b"expect"})
_CONNECT_TIMEOUT_S = 5.0
_MAX_ANSWER_BYTES = 1024 * 1024
#: How long a client may go on sending what nobody reads, before its connection is closed under it: closing at once
#: would make its kernel report a reset in place of the end of the output. The engine has as long for what a client
#: that went away had sent.
_LINGER_S = 2.0


def is_stream(request: web.Request) -> bool:
    """Whether the engine may take this request's connection over."""
    return _STREAMS.match(request.path) is not None


class Hijacked(web.StreamResponse):
    """Stands for an answer that went past the HTTP server."""

    def __init__(self) -> None:
        super().__init__()
        self.force_close()

    async def prepare(self, request: web.BaseRequest) -> None:
        """Nothing is to be sent."""

    async def write_eof(self, data: bytes | bytearray | memoryview = b"") -> None:
        """Nothing is to be sent."""


class _End(asyncio.Protocol):
    """One end of a tunnel. What arrives goes to the other, at the other's pace."""

    def __init__(self, closed: asyncio.Event) -> None:
        self.transport: asyncio.Transport | None = None
        self.other: _End | None = None
        self.ended = False
        self._closed = closed
        self._discard = False
        self._hangup: select.epoll | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if not self._discard and self.other is not None:
            self.other.write(data)

    def write(self, data: bytes) -> None:
        """Send to this end."""
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(data)

    def pause_writing(self) -> None:
        if self.other is not None:
            self.other.read(False)

    def resume_writing(self) -> None:
        if self.other is not None:
            self.other.read(True)

    def read(self, on: bool) -> None:
        """Go on reading from this end, or leave the rest in the kernel, where it slows the sender down."""
        if self.transport is None or self.transport.is_closing() or self.transport.is_reading() is on:
            return
        if on:
            self.transport.resume_reading()
        else:
            self.transport.pause_reading()

    def eof_received(self) -> bool:
        self.ended = True
        if self.other is None:
            return True
        if self._discard or self.other.ended or self._await_hangup():
            self.other.finish()
            return False
        self.other.end()
        # The other direction stays open.
        return True

    def _await_hangup(self) -> bool:
        """Whether the peer closed its socket altogether, rather than only ended what it sends.

        If it does so later, the loop, which no longer reads here, would not notice: an epoll is watched for that.
        """
        if self.transport is None:
            return True
        self._hangup = select.epoll()
        self._hangup.register(self.transport.get_extra_info("socket").fileno(), 0)
        if self._hangup.poll(0):
            return True
        asyncio.get_running_loop().add_reader(self._hangup.fileno(), self._hung_up)
        return False

    def _hung_up(self) -> None:
        self._forget_hangup()
        if self.transport is not None:
            self.transport.abort()

    def _forget_hangup(self) -> None:
        if self._hangup is not None:
            asyncio.get_running_loop().remove_reader(self._hangup.fileno())
            self._hangup.close()
            self._hangup = None

    def end(self) -> None:
        """Nothing more will be sent to this end."""
        if self.transport is not None and not self.transport.is_closing():
            # The end may have vanished meanwhile, which connection_lost tells.
            with suppress(OSError):
                self.transport.write_eof()

    def finish(self) -> None:
        """The other end is gone: send what is left, then close."""
        if self.transport is not None:
            self.transport.close()

    def connection_lost(self, exc: BaseException | None) -> None:
        self.transport = None
        self._forget_hangup()
        if self.other is not None:
            self.other.finish()
        if self.other is None or self.other.transport is None:
            self._closed.set()


class _ClientEnd(_End):
    """The client's end, taken from the HTTP server, which still has to hear when the connection ends."""

    def __init__(self, closed: asyncio.Event, server: asyncio.Protocol) -> None:
        super().__init__(closed)
        self._server = server

    def finish(self) -> None:
        if self.transport is None or self.transport.is_closing() or self._discard:
            return
        if self.ended:
            self.transport.close()
            return
        self._discard = True
        self.end()
        self.read(True)
        asyncio.get_running_loop().call_later(_LINGER_S, self.transport.close)

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        self._server.connection_lost(exc)  # type: ignore[arg-type]


class _EngineEnd(_End):
    """The engine's end; until it is known whether it takes the connection over, what it says is kept."""

    def __init__(self, closed: asyncio.Event) -> None:
        super().__init__(closed)
        self._kept = bytearray()
        self._news = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        if self.other is not None:
            super().data_received(data)
            return
        self._kept += data
        if len(self._kept) >= _MAX_ANSWER_BYTES:
            self.read(False)
        self._news.set()

    def eof_received(self) -> bool:
        self._news.set()
        return super().eof_received()

    def connection_lost(self, exc: BaseException | None) -> None:
        self.ended = True
        self._news.set()
        super().connection_lost(exc)

    async def head(self) -> bytes:
        """Status line and headers, which stay among what was kept."""
        while (end := self._kept.find(b"\r\n\r\n")) < 0:
            await self._more()
        return bytes(self._kept[: end + 4])

    async def everything(self) -> bytes:
        """All it says until it closes."""
        self.end()
        while not self.ended:
            await self._more()
        return bytes(self._kept)

    async def _more(self) -> None:
        if self.ended or len(self._kept) >= _MAX_ANSWER_BYTES:
            raise Unavailable("the Docker Engine of this node broke its answer off")
        self._news.clear()
        await self._news.wait()

    def join(self, client: "_ClientEnd") -> None:
        """From now on both ends are one stream; what was kept goes first."""
        self.other, client.other = client, self
        client.write(bytes(self._kept))
        self._kept.clear()
        if self.transport is None:
            client.finish()
        elif self.ended:
            # A second time, now that there is somebody to tell.
            self.eof_received()
        else:
            self.read(True)


async def forward(request: web.Request, socket_path: str, path: str) -> web.StreamResponse:
    """Let the engine answer, and pass bytes on both ways for as long as both sides like if it takes the connection
    over. Raises OSError or TimeoutError when the engine cannot be reached."""
    body = await request.read()
    closed = asyncio.Event()
    engine = _EngineEnd(closed)
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(_CONNECT_TIMEOUT_S):
        transport, _ = await loop.create_unix_connection(lambda: engine, socket_path)
    try:
        engine.write(_request_bytes(request, path, body))
        head = await engine.head()
        if not _is_hijacked(head):
            return _as_response(request, await engine.everything())
        await _tunnel(request, engine, closed)
        return Hijacked()
    finally:
        transport.close()
        loop.call_later(_LINGER_S, transport.abort)


async def _tunnel(request: web.Request, engine: _EngineEnd, closed: asyncio.Event) -> None:
    transport, server = request.transport, request.protocol
    if transport is None:
        raise ConnectionResetError("the client is gone")
    client = _ClientEnd(closed, server)
    client.connection_made(transport)
    transport.set_protocol(client)
    client.read(True)
    try:
        engine.join(client)
        await closed.wait()
    finally:
        if client.transport is not None:
            client.transport.close()


def _request_bytes(request: web.Request, path: str, body: bytes) -> bytes:
    lines = [f"{request.method} {path} HTTP/1.1".encode(), b"Host: engine"]
    lines += [b": ".join(pair) for pair in request.raw_headers if pair[0].lower() not in _REPLACED]
    lines += [b"Content-Length: %d" % len(body), b"", body]
    return b"\r\n".join(lines)


def _is_hijacked(head: bytes) -> bool:
    status, _, headers = head.decode("latin-1").partition("\r\n")
    number = status.split(" ")[1:2]
    return number == ["101"] or (number == ["200"] and any(kind in headers.lower() for kind in _RAW_TYPES))


class _Said:
    """What ``http.client`` reads an answer from."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, _mode: str) -> io.BytesIO:
        """The answer as a file."""
        return io.BytesIO(self._data)


def _as_response(request: web.Request, said: bytes) -> web.Response:
    """An answer like any other, mostly an error."""
    try:
        answer = http.client.HTTPResponse(_Said(said), method=request.method)  # type: ignore[arg-type]
        answer.begin()
        body = answer.read()
    except http.client.HTTPException as exc:
        raise Unavailable("the Docker Engine of this node broke its answer off") from exc
    response = web.Response(status=answer.status, reason=answer.reason, body=body)
    if kind := answer.getheader("Content-Type"):
        response.headers["Content-Type"] = kind
    return response
