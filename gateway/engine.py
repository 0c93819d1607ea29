"""The Docker Engine of this host: what is not the cluster's is streamed to it and back."""

import re
from collections.abc import AsyncGenerator
from typing import Any

import aiohttp
import msgspec
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from pyswarm.common.errors import PyswarmError, Unavailable
from pyswarm.gateway import tunnel

#: What belongs to one connection and is not passed on (RFC 9110, 7.6.1).
_HOP_BY_HOP = frozenset(
    {"connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade", "host"}
    # Answered by the gateway's own HTTP server.
    | {"expect"}
)
_CHUNK_BYTES = 64 * 1024
_CONNECT_TIMEOUT_S = 5.0
#: For the questions the gateway itself asks.
_ASK_TIMEOUT_S = 10.0
_MAX_LINE_BYTES = 4 * 1024 * 1024
_MAX_ERROR_CHARS = 1000
_VERSIONED = re.compile(r"^/v[0-9.]+(?=/)")


class NotAnswered(PyswarmError):
    """The engine refused; its status and text are passed on."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.http_status = status  # type: ignore[misc]


class Engine:
    """Connections to the engine's socket, which the daemon names and may change."""

    def __init__(self, api_version: str) -> None:
        self._sessions: dict[str, aiohttp.ClientSession] = {}
        self._prefix = f"/v{api_version}"

    def _session(self, engine: str) -> aiohttp.ClientSession:
        session = self._sessions.get(engine)
        if session is None:
            path = engine.removeprefix("unix://")
            session = self._sessions[engine] = aiohttp.ClientSession(
                # One connection each: one kept from before a restart of the engine would fail the next request.
                connector=aiohttp.UnixConnector(path, limit=0, force_close=True),
                auto_decompress=False,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_TIMEOUT_S),
                skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
            )
        return session

    async def get_json(self, engine: str, path: str) -> Any:
        """What ``GET path`` answers."""
        return await self.ask_json(engine, "GET", path)

    async def ask_json(self, engine: str, method: str, path: str) -> Any:
        """What a request without body answers; raises Unavailable when the engine does not, else its own error."""
        url = URL(f"http://engine{self._prefix}{path}", encoded=True)
        timeout = aiohttp.ClientTimeout(total=_ASK_TIMEOUT_S)
        try:
            async with self._session(engine).request(method, url, timeout=timeout) as reply:
                body = await reply.read()
        except (aiohttp.ClientError, OSError, TimeoutError) as exc:
            raise _no_answer(engine, exc) from exc
        decoded = msgspec.json.decode(body) if body else None
        if reply.status >= 400:
            message = decoded.get("message", "") if isinstance(decoded, dict) else ""
            raise NotAnswered(reply.status, message or f"the engine answered {reply.status}")
        return decoded

    async def lines(self, engine: str, path: str) -> AsyncGenerator[bytes, None]:
        """What ``GET path`` goes on saying, line by line; raises as ``get_json``."""
        url = URL(f"http://engine{self._prefix}{path}", encoded=True)
        rest = b""
        try:
            async with self._session(engine).get(url) as reply:
                if reply.status >= 400:
                    raise NotAnswered(reply.status, (await reply.text())[:_MAX_ERROR_CHARS])
                async for data in reply.content.iter_any():
                    *lines, rest = (rest + data).split(b"\n")
                    for line in lines:
                        yield line + b"\n"
                    if len(rest) > _MAX_LINE_BYTES:
                        raise Unavailable("the Docker Engine of this node says more at once than can be read")
        except (aiohttp.ClientError, OSError) as exc:
            raise _no_answer(engine, exc) from exc

    async def forward(self, request: web.Request, engine: str, body: bytes | None = None) -> web.StreamResponse:
        """Pass the request on as it is (with ``body`` if it was read already) and stream the answer back."""
        path = request.raw_path
        if not _VERSIONED.match(path):
            path = self._prefix + path
        if tunnel.is_stream(request):
            try:
                return await tunnel.forward(request, engine.removeprefix("unix://"), path)
            except (OSError, TimeoutError) as exc:
                raise _no_answer(engine, exc) from exc
        headers = CIMultiDict((k, v) for k, v in request.headers.items() if k.lower() not in _HOP_BY_HOP)
        data: Any = body
        if body is not None:
            headers.popall("Content-Length", None)
        elif request.body_exists:
            data = request.content.iter_chunked(_CHUNK_BYTES)
        url = URL(f"http://engine{path}", encoded=True)
        try:
            reply = await self._session(engine).request(
                request.method, url, headers=headers, data=data, allow_redirects=False
            )
        except (aiohttp.ClientError, OSError) as exc:
            raise _no_answer(engine, exc) from exc
        async with reply:
            response = web.StreamResponse(status=reply.status, reason=reply.reason)
            for name, value in reply.headers.items():
                if name.lower() not in _HOP_BY_HOP:
                    response.headers.add(name, value)
            if (
                "Content-Length" not in reply.headers
                and request.method != "HEAD"
                and reply.status not in (204, 304)
            ):
                response.enable_chunked_encoding()
            await response.prepare(request)
            try:
                async for chunk in reply.content.iter_any():
                    await response.write(chunk)
            except aiohttp.ClientError:
                # The status line is out; an answer cut short is all that can still be said.
                response.force_close()
                if request.transport is not None:
                    request.transport.abort()
                return response
            await response.write_eof()
            if not request.content.is_eof():
                # Answered before all was sent, and not waiting for the rest.
                reply.close()
                response.force_close()
            return response

    async def close(self) -> None:
        """Close all connections."""
        for session in self._sessions.values():
            await session.close()
        self._sessions.clear()


def _no_answer(engine: str, exc: BaseException) -> PyswarmError:
    reason = getattr(exc, "strerror", None) or str(exc) or type(exc).__name__
    return Unavailable(f"the Docker Engine of this node ({engine}) does not answer: {reason}")
