"""The engine door against an HTTP server that plays an engine: what a healthy one cannot be made to do."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from aiohttp import web
from support.agents import a_network, a_task

from pyswarm.agent.dataplane import local
from pyswarm.agent.engine import (
    Attachment,
    DockerEngine,
    EngineError,
    EngineUnavailable,
    NativeSwarmActive,
    NoSuchImage,
)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class FakeHttpEngine:
    """Answers ``version`` and ``info``; everything else as a test says. ``asked`` is every path."""

    def __init__(self) -> None:
        self.newest, self.oldest = "1.41", "1.12"
        self.swarm = "inactive"
        self.handlers: dict[str, Handler] = {}
        self.asked: list[str] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.path)
        version, _, rest = request.path.lstrip("/").partition("/")
        path = rest if version.startswith("v1.") else request.path.lstrip("/")
        for start, handler in self.handlers.items():
            if path.startswith(start):
                return await handler(request)
        if path == "version":
            return web.json_response({"ApiVersion": self.newest, "MinAPIVersion": self.oldest})
        if path == "info":
            return web.json_response({"Swarm": {"LocalNodeState": self.swarm}, "NCPU": 2, "Labels": ["a=b"]})
        return web.json_response({"message": f"No such thing: {path}"}, status=404)


def refuses(status: int, message: str) -> Handler:
    async def handler(_request: web.Request) -> web.StreamResponse:
        return web.json_response({"message": message}, status=status)

    return handler


@pytest.fixture
async def fake(tmp_path: Path) -> AsyncIterator[FakeHttpEngine]:
    fake = FakeHttpEngine()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", fake.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.UnixSite(runner, str(tmp_path / "engine.sock")).start()
    yield fake
    await runner.cleanup()


@pytest.fixture
async def engine(fake: FakeHttpEngine, tmp_path: Path) -> AsyncIterator[DockerEngine]:
    engine = DockerEngine(f"unix://{tmp_path}/engine.sock", pull_silence_s=0.2)
    yield engine
    await engine.close()


async def test_dockers_own_swarm_is_noticed(engine: DockerEngine, fake: FakeHttpEngine) -> None:
    await engine.check_usable()
    fake.swarm = "active"
    with pytest.raises(NativeSwarmActive, match="docker swarm leave"):
        await engine.check_usable()


@pytest.mark.parametrize(
    ("newest", "oldest", "spoken"),
    [("1.41", "1.12", "v1.41"), ("1.50", "1.24", "v1.44"), ("1.60", "1.50", "v1.50")],
)
async def test_a_version_the_engine_speaks_is_spoken(
    engine: DockerEngine, fake: FakeHttpEngine, newest: str, oldest: str, spoken: str
) -> None:
    fake.newest, fake.oldest = newest, oldest
    description = await engine.describe()
    assert fake.asked[-1] == f"/{spoken}/info"
    assert description.engine.labels == {"a": "b"}


async def test_a_registry_that_does_not_answer_is_given_up(engine: DockerEngine, fake: FakeHttpEngine) -> None:
    released = asyncio.Event()

    async def silent(_request: web.Request) -> web.StreamResponse:
        await released.wait()
        return web.Response()

    fake.handlers["images/create"] = silent
    async with asyncio.timeout(5):
        with pytest.raises(NoSuchImage) as caught:
            await engine.ensure_image("foo:latest")
    assert "no answer from the registry" in caught.value.reason
    released.set()


async def test_a_slow_pull_that_goes_on_is_not_given_up(engine: DockerEngine, fake: FakeHttpEngine) -> None:
    pulled = False

    async def slowly(request: web.Request) -> web.StreamResponse:
        nonlocal pulled
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(5):
            await response.write(b'{"status": "downloading"}\n')
            await asyncio.sleep(0.1)
        pulled = True
        return response

    async def inspected(_request: web.Request) -> web.StreamResponse:
        return web.json_response({"Id": "i"} if pulled else {"message": "no"}, status=200 if pulled else 404)

    fake.handlers["images/create"] = slowly
    fake.handlers["images/"] = inspected
    await engine.ensure_image("foo:latest")
    assert pulled


async def test_an_error_in_the_midst_of_a_pull_is_the_reason(engine: DockerEngine, fake: FakeHttpEngine) -> None:
    async def breaks(_request: web.Request) -> web.StreamResponse:
        return web.Response(
            text='{"status": "pulling"}\n{"errorDetail": {"message": "denied"}, "error": "denied"}\n'
        )

    fake.handlers["images/create"] = breaks
    with pytest.raises(NoSuchImage) as caught:
        await engine.ensure_image("foo:latest")
    assert caught.value.reason == "denied"


async def test_one_pull_serves_all_who_wait_for_it(engine: DockerEngine, fake: FakeHttpEngine) -> None:
    pulls = 0

    async def pull(_request: web.Request) -> web.StreamResponse:
        nonlocal pulls
        await asyncio.sleep(0.05)
        pulls += 1
        return web.Response(text='{"status": "done"}\n')

    async def inspected(_request: web.Request) -> web.StreamResponse:
        return web.json_response({"Id": "i"} if pulls else {"message": "no"}, status=200 if pulls else 404)

    fake.handlers["images/create"] = pull
    fake.handlers["images/"] = inspected
    await asyncio.gather(*(engine.ensure_image("foo:latest") for _ in range(5)))
    assert pulls == 1


async def test_an_engine_that_shuts_down_is_absent(engine: DockerEngine, fake: FakeHttpEngine) -> None:
    fake.handlers["containers/"] = refuses(503, "shutting down")
    with pytest.raises(EngineUnavailable):
        await engine.inspect("web.1.x")


async def test_a_refusal_keeps_the_engines_words_on_one_line(engine: DockerEngine, fake: FakeHttpEngine) -> None:
    fake.handlers["containers/"] = refuses(500, "OCI runtime\n create failed: why")
    with pytest.raises(EngineError, match=r"^OCI runtime create failed: why$") as caught:
        await engine.start("web.1.x")
    assert not caught.value.retryable


async def test_a_broken_connection_is_an_absent_engine(engine: DockerEngine, fake: FakeHttpEngine) -> None:
    async def cut(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    fake.handlers["containers/"] = cut
    with pytest.raises(EngineUnavailable):
        await engine.create(a_task("n" * 25), [], egress=True)


async def test_a_container_whose_networks_cannot_be_connected_is_not_left_behind(
    engine: DockerEngine, fake: FakeHttpEngine
) -> None:
    task, removed = a_task("n" * 25), []

    async def containers(request: web.Request) -> web.StreamResponse:
        if request.method == "DELETE":
            removed.append(request.path)
            return web.Response(status=204)
        if request.method == "POST":
            return web.json_response({"Id": "c1"}, status=201)
        labels = {"com.docker.swarm.task.id": task.id}
        return web.json_response(
            {"Id": "c1", "Name": "/x", "Config": {"Labels": labels}, "NetworkSettings": {"Networks": {"app": {}}}}
        )

    fake.handlers["containers/"] = containers
    attachments = [Attachment(local(a_network(name)), "10.77.1.5") for name in ("app", "back")]
    with pytest.raises(EngineError, match="No such thing: networks/back"):
        await engine.create(task, attachments, egress=False)
    assert len(removed) == 1
