"""What the gateway does not serve itself: streams to and from an engine that does exactly what a test says."""

import asyncio
import select
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from support.gateway_fakes import Rig, running_gateway

LIMIT_S = 10.0
HIJACKED = (
    b"HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.raw-stream\r\n"
    b"Connection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
)
Talk = Callable[[StreamReader, StreamWriter, bytes], Awaitable[None]]


class Engine:
    """Every connection is handed, with its first request's head, to ``talk``."""

    def __init__(self) -> None:
        self.talk: Talk | None = None
        self.failures: list[BaseException] = []
        self.heads: list[bytes] = []

    async def __call__(self, reader: StreamReader, writer: StreamWriter) -> None:
        assert self.talk is not None
        try:
            async with asyncio.timeout(LIMIT_S):
                head = await reader.readuntil(b"\r\n\r\n")
                self.heads.append(head)
                await self.talk(reader, writer, head)
        except (AssertionError, OSError, EOFError, pytest.fail.Exception) as exc:
            self.failures.append(exc)
        finally:
            writer.close()


class Gateway:
    """A gateway whose engine is scripted."""

    def __init__(self, rig: Rig, engine: Engine) -> None:
        self.rig = rig
        self.engine = engine

    @asynccontextmanager
    async def client(self, request: bytes) -> AsyncIterator[tuple[StreamReader, StreamWriter]]:
        """A connection on which ``request`` was sent."""
        reader, writer = await asyncio.open_unix_connection(str(self.rig.socket), limit=1 << 22)
        try:
            async with asyncio.timeout(LIMIT_S):
                writer.write(request)
                await writer.drain()
                yield reader, writer
        finally:
            writer.close()


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Gateway]:
    engine = Engine()
    path = tmp_path / "engine.sock"
    server = await asyncio.start_unix_server(engine, str(path), limit=1 << 22)
    try:
        async with running_gateway(tmp_path, path) as rig:
            yield Gateway(rig, engine)
    finally:
        server.close()
    assert engine.failures == []


def upgrade(path: str, body: bytes = b"", to: str = "tcp") -> bytes:
    return (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: {to}\r\nX-Mine: 1\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body


async def echo_after_eof(reader: StreamReader, writer: StreamWriter, _head: bytes) -> None:
    """Take over; answer only once the client's input has ended."""
    writer.write(HIJACKED + b"ready ")
    said = await reader.read(-1)
    writer.write(b"got " + said)
    await writer.drain()


async def test_input_may_end_before_the_output(gateway: Gateway) -> None:
    gateway.engine.talk = echo_after_eof
    async with gateway.client(upgrade("/containers/c/attach?stdin=1")) as (reader, writer):
        assert await reader.readuntil(b"\r\n\r\n") == HIJACKED
        assert await reader.readexactly(6) == b"ready "
        writer.write(b"abc")
        writer.write_eof()
        assert await reader.read(-1) == b"got abc"
    head = gateway.engine.heads[0]
    assert head.startswith(b"POST /v1.41/containers/c/attach?stdin=1 HTTP/1.1\r\n")
    assert b"Upgrade: tcp\r\n" in head
    assert b"X-Mine: 1\r\n" in head


async def test_the_body_of_a_request_comes_before_the_stream(gateway: Gateway) -> None:
    async def talk(reader: StreamReader, writer: StreamWriter, head: bytes) -> None:
        assert b"Content-Length: 15\r\n" in head
        assert await reader.readexactly(15) == b'{"Detach":false'
        await echo_after_eof(reader, writer, head)

    gateway.engine.talk = talk
    request = upgrade("/v1.41/exec/e/start", b'{"Detach":false')
    async with gateway.client(request) as (reader, writer):
        await reader.readuntil(b"ready ")
        writer.write(b"late")
        writer.write_eof()
        assert await reader.read(-1) == b"got late"


@pytest.mark.parametrize("path", ["/session", "/grpc"])
async def test_the_sessions_of_a_build_are_raw_too(gateway: Gateway, path: str) -> None:
    async def talk(reader: StreamReader, writer: StreamWriter, _head: bytes) -> None:
        writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\nPRI * HTTP/2.0"
        )
        assert await reader.readexactly(4) == b"\x00\x01\r\n"
        writer.write(b"\xff\x00")

    gateway.engine.talk = talk
    async with gateway.client(upgrade(path, to="h2c")) as (reader, writer):
        assert (await reader.readuntil(b"PRI * HTTP/2.0")).startswith(b"HTTP/1.1 101 ")
        writer.write(b"\x00\x01\r\n")
        assert await reader.read(-1) == b"\xff\x00"


async def test_without_upgrade_the_engine_takes_over_with_200(gateway: Gateway) -> None:
    taken = b"HTTP/1.1 200 OK\r\nContent-Type: application/vnd.docker.raw-stream\r\n\r\n"

    async def talk(_reader: StreamReader, writer: StreamWriter, _head: bytes) -> None:
        writer.write(taken + b"output")

    gateway.engine.talk = talk
    async with gateway.client(b"POST /containers/c/attach HTTP/1.1\r\nHost: x\r\n\r\n") as (reader, _):
        assert await reader.read(-1) == taken + b"output"


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_refused_takeover_is_an_answer_like_any_other(gateway: Gateway, chunked: bool) -> None:
    async def talk(reader: StreamReader, writer: StreamWriter, head: bytes) -> None:
        if b"/version" in head:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
            return
        text = b'{"message":"No such container: c"}'
        body = (
            b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(text), text)
            if chunked
            else b"Content-Length: %d\r\n\r\n%s" % (len(text), text)
        )
        writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Type: application/json\r\n" + body)
        assert await reader.read(-1) == b""

    gateway.engine.talk = talk
    async with gateway.client(upgrade("/containers/c/attach")) as (reader, writer):
        answer = await reader.readuntil(b'"No such container: c"}')
        assert answer.startswith(b"HTTP/1.1 404 Not Found\r\n")
        assert b"Api-Version: 1.41\r\n" in answer
        # The connection is still the gateway's: nothing gets past it to the engine.
        writer.write(b"GET /services HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"not a swarm manager" in await reader.readuntil(b"}\n")
    assert len(gateway.engine.heads) == 1


async def test_a_client_that_goes_ends_the_stream_at_the_engine(gateway: Gateway) -> None:
    ended = asyncio.Event()

    async def talk(reader: StreamReader, writer: StreamWriter, _head: bytes) -> None:
        writer.write(HIJACKED)
        assert await reader.read(-1) == b"last words"
        with suppress(ConnectionError):
            while True:
                writer.write(b"x" * 1000)
                await writer.drain()
                await asyncio.sleep(0)
        ended.set()

    gateway.engine.talk = talk
    async with gateway.client(upgrade("/containers/c/attach")) as (reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"last words")
    async with asyncio.timeout(LIMIT_S):
        await ended.wait()


async def test_a_client_that_goes_after_its_input_ended_is_noticed_without_output(gateway: Gateway) -> None:
    half, ended = asyncio.Event(), asyncio.Event()

    async def talk(reader: StreamReader, writer: StreamWriter, _head: bytes) -> None:
        writer.write(HIJACKED)
        assert await reader.read(-1) == b""
        half.set()
        # Nothing is written: the kernel tells.
        with select.epoll() as watch:
            watch.register(writer.get_extra_info("socket").fileno(), 0)
            asyncio.get_running_loop().add_reader(watch.fileno(), ended.set)
            await ended.wait()
            asyncio.get_running_loop().remove_reader(watch.fileno())

    gateway.engine.talk = talk
    async with gateway.client(upgrade("/containers/c/attach")) as (reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write_eof()
        await half.wait()
        assert not ended.is_set()
    async with asyncio.timeout(LIMIT_S):
        await ended.wait()


async def test_an_engine_that_goes_ends_the_stream_at_a_client_that_still_sends(gateway: Gateway) -> None:
    async def talk(reader: StreamReader, writer: StreamWriter, _head: bytes) -> None:
        writer.write(HIJACKED)
        await reader.readexactly(1)
        writer.write(b"done")
        await writer.drain()

    gateway.engine.talk = talk
    async with gateway.client(upgrade("/containers/c/attach")) as (reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"y" * 3_000_000)
        # Without a reset before the end.
        assert await reader.read(-1) == b"done"


async def test_a_stream_is_held_back_by_a_slow_reader(gateway: Gateway) -> None:
    sent = 0
    stuck, go_on = asyncio.Event(), asyncio.Event()

    async def talk(_reader: StreamReader, writer: StreamWriter, _head: bytes) -> None:
        nonlocal sent
        writer.write(HIJACKED)
        while sent < 64 << 20:
            writer.write(b"x" * 65536)
            sent += 65536
            try:
                async with asyncio.timeout(0.5):
                    await writer.drain()
            except TimeoutError:
                stuck.set()
                await go_on.wait()
                break
        await writer.drain()

    gateway.engine.talk = talk
    reader, writer = await asyncio.open_unix_connection(str(gateway.rig.socket), limit=1024)
    try:
        writer.write(upgrade("/containers/c/attach"))
        async with asyncio.timeout(LIMIT_S):
            await stuck.wait()
            # Kernel buffers and one read on each side.
            assert sent < 4 << 20
            go_on.set()
            got = 0
            while data := await reader.read(1 << 20):
                got += len(data)
        assert got == sent + len(HIJACKED)
    finally:
        writer.close()


async def test_headers_come_before_any_body_and_chunks_as_they_are(gateway: Gateway) -> None:
    go_on = asyncio.Event()

    async def talk(_reader: StreamReader, writer: StreamWriter, _head: bytes) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
        await go_on.wait()
        writer.write(b"3\r\none\r\n")
        go_on.clear()
        await go_on.wait()
        writer.write(b"3\r\ntwo\r\n0\r\n\r\n")

    gateway.engine.talk = talk
    async with gateway.client(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n") as (reader, _):
        assert b"Transfer-Encoding: chunked" in await reader.readuntil(b"\r\n\r\n")
        go_on.set()
        assert await reader.readexactly(8) == b"3\r\none\r\n"
        go_on.set()
        assert await reader.readexactly(13) == b"3\r\ntwo\r\n0\r\n\r\n"


async def test_a_request_is_streamed_while_it_is_still_being_sent(gateway: Gateway) -> None:
    arrived = asyncio.Event()

    async def talk(reader: StreamReader, writer: StreamWriter, head: bytes) -> None:
        assert b"Content-Encoding: gzip\r\n" in head
        await reader.readuntil(b"first")
        arrived.set()
        await reader.readuntil(b"0\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    gateway.engine.talk = talk
    request = (
        b"POST /build?buildargs=" + b"x" * 100_000 + b" HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n"
    )
    async with gateway.client(request) as (reader, writer):
        await arrived.wait()
        writer.write(b"6\r\nsecond\r\n0\r\n\r\n")
        assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200 OK")


async def test_an_answer_may_come_before_the_whole_request(gateway: Gateway) -> None:
    async def talk(reader: StreamReader, writer: StreamWriter, _head: bytes) -> None:
        await reader.readexactly(1000)
        writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\nnope")
        # As the engine does: says it is done, and closes a little later.
        writer.write_eof()
        await reader.read(-1)

    gateway.engine.talk = talk
    request = b"PUT /containers/c/archive?path=/x HTTP/1.1\r\nHost: x\r\nContent-Length: 3000000\r\n\r\n"
    async with gateway.client(request) as (reader, writer):
        writer.write(b"x" * 2_000_000)
        assert (await reader.readuntil(b"nope")).startswith(b"HTTP/1.1 404 Not Found")


async def test_head_keeps_its_headers(gateway: Gateway) -> None:
    async def talk(_reader: StreamReader, writer: StreamWriter, _head: bytes) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nX-Docker-Container-Path-Stat: e30=\r\nContent-Length: 77\r\n\r\n")

    gateway.engine.talk = talk
    request = b"HEAD /containers/c/archive?path=/x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    async with gateway.client(request) as (reader, _):
        answer = await reader.read(-1)
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"X-Docker-Container-Path-Stat: e30=\r\n" in answer
        assert answer.endswith(b"\r\n\r\n")


@pytest.mark.parametrize("path", ["/events", "/containers/c/logs?follow=1"])
async def test_a_client_that_goes_ends_its_request_at_the_engine(gateway: Gateway, path: str) -> None:
    ended = asyncio.Event()

    async def talk(reader: StreamReader, writer: StreamWriter, _head: bytes) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert await reader.read(-1) == b""
        ended.set()

    gateway.engine.talk = talk
    async with gateway.client(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()) as (reader, _):
        await reader.readuntil(b"\r\n\r\n")
    async with asyncio.timeout(LIMIT_S):
        await ended.wait()


async def test_an_engine_that_breaks_off_is_not_taken_for_the_end(gateway: Gateway) -> None:
    async def talk(_reader: StreamReader, writer: StreamWriter, head: bytes) -> None:
        if b"/events" in head:
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n")

    gateway.engine.talk = talk
    async with gateway.client(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n") as (reader, _):
        await reader.readuntil(b"one\r\n")
        with suppress(ConnectionResetError):
            assert b"0\r\n" not in await reader.read(-1)
    for request in (upgrade("/containers/c/attach"), b"GET /images/json HTTP/1.1\r\nHost: x\r\n\r\n"):
        async with gateway.client(request) as (reader, _):
            assert (await reader.readuntil(b"}\n")).startswith(b"HTTP/1.1 503 ")


async def test_a_gateway_that_stops_ends_its_streams(tmp_path: Path) -> None:
    engine = Engine()
    engine.talk = echo_after_eof
    server = await asyncio.start_unix_server(engine, str(tmp_path / "engine.sock"))
    try:
        async with asyncio.timeout(LIMIT_S):
            async with running_gateway(tmp_path, tmp_path / "engine.sock") as rig:
                reader, writer = await asyncio.open_unix_connection(str(rig.socket))
                writer.write(upgrade("/containers/c/attach"))
                await reader.readuntil(b"ready ")
            assert await reader.read(-1) in (b"", b"got ")
            writer.close()
    finally:
        server.close()
