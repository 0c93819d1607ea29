"""The agent's way to a container's log, on a real Docker Engine."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
from support.dockerd import Dockerd, real_engine

from pyswarm.agent.engine import DockerEngine, EngineUnavailable, LogQuery, LogsUnreadable, NoSuchContainer
from pyswarm.common.logframes import STDERR, STDOUT, Line, lines

pytestmark = pytest.mark.integration_docker


@pytest.fixture(scope="module")
def host() -> Iterator[Dockerd]:
    with real_engine() as dockerd:
        yield dockerd


@pytest.fixture
def dockerd(host: Dockerd) -> Iterator[Dockerd]:
    yield host
    host.clean()


@pytest.fixture
async def engine(dockerd: Dockerd) -> AsyncIterator[DockerEngine]:
    engine = DockerEngine(dockerd.url)
    yield engine
    await engine.close()


async def read(engine: DockerEngine, name: str, **query: object) -> list[Line]:
    frames = b""
    async for more in engine.logs(name, LogQuery(**query)):  # type: ignore[arg-type]
        frames += more
    return list(lines(frames))


def ran(dockerd: Dockerd, name: str, script: str, *options: str) -> None:
    """A container that has run to its end."""
    dockerd.docker("run", "-d", "--name", name, *options, "busybox:latest", "sh", "-c", script)
    dockerd.docker("wait", name)


async def test_lines_of_both_streams_with_their_times(engine: DockerEngine, dockerd: Dockerd) -> None:
    ran(dockerd, "both", "echo one; sleep 0.1; echo two >&2; sleep 0.1; echo three")
    found = await read(engine, "both")
    assert [(f.stream, f.text) for f in found] == [(STDOUT, b"one\n"), (STDERR, b"two\n"), (STDOUT, b"three\n")]
    assert [f.time for f in found] == sorted(f.time for f in found)
    assert [f.text for f in await read(engine, "both", tail=1)] == [b"three\n"]
    assert [f.text for f in await read(engine, "both", tail=0)] == []
    assert [f.text for f in await read(engine, "both", stderr=False)] == [b"one\n", b"three\n"]


async def test_details_come_before_the_text(engine: DockerEngine, dockerd: Dockerd) -> None:
    ran(dockerd, "detailed", "echo one", "--log-opt", "labels=a,b", "--label", "a=x y", "--label", "b=2")
    assert [f.text for f in await read(engine, "detailed", details=True)] == [b"a=x+y,b=2 one\n"]
    ran(dockerd, "plain", "echo one")
    assert [f.text for f in await read(engine, "plain", details=True)] == [b" one\n"]


async def test_a_terminal_and_long_lines(engine: DockerEngine, dockerd: Dockerd) -> None:
    script = "head -c 40000 /dev/zero | tr '\\0' x; echo; echo end"
    for name, options, feed in (("long", (), b"\n"), ("tty", ("-t",), b"\r\n")):
        ran(dockerd, name, script, *options)
        found = await read(engine, name, tty=name == "tty")
        assert [len(f.text) for f in found] == [16384, 16384, 40000 - 2 * 16384 + len(feed), 3 + len(feed)]
        assert found[-1].text == b"end" + feed
        assert len({f.time for f in found[:3]}) == 1, "the parts of one line have its time"


@pytest.mark.parametrize("driver", ["local", "json-file"])
async def test_times_compare_as_text_whatever_driver_keeps_them(
    engine: DockerEngine, dockerd: Dockerd, driver: str
) -> None:
    ran(dockerd, driver, "for i in 1 2 3; do echo $i; done", "--log-driver", driver)
    found = await read(engine, driver)
    assert [f.text for f in found] == [b"1\n", b"2\n", b"3\n"]
    assert all(f.time.endswith(b"Z") for f in found)


async def test_what_cannot_be_read(engine: DockerEngine, dockerd: Dockerd) -> None:
    with pytest.raises(NoSuchContainer):
        await read(engine, "nobody")
    ran(dockerd, "silent", "echo one", "--log-driver", "none")
    with pytest.raises(LogsUnreadable, match="configured logging driver does not support reading"):
        await read(engine, "silent")


async def test_an_engine_that_is_not_there() -> None:
    engine = DockerEngine("unix:///nonexistent/engine.sock")
    with pytest.raises(EngineUnavailable, match=r"there is no such socket; is the engine running\?"):
        await read(engine, "any")
    await engine.close()


async def test_following_ends_with_the_container_or_the_engine(engine: DockerEngine, dockerd: Dockerd) -> None:
    dockerd.docker(
        "run", "-d", "--name", "loop", "busybox:latest", "sh", "-c", "while :; do echo x; sleep 0.1; done"
    )
    stream = engine.logs("loop", LogQuery(follow=True))
    assert await anext(stream)
    dockerd.kill()
    with pytest.raises(EngineUnavailable):
        async for _ in stream:
            pass
    dockerd.start()
    stream = engine.logs("loop", LogQuery(follow=True, tail=0))
    assert await anext(stream)
    await asyncio.to_thread(dockerd.docker, "kill", "loop")
    async for _ in stream:
        pass
