"""``/events``: the cluster's and the engine's in one stream, through the API and the clients."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
from support.agents import until
from support.env import require_binary
from support.gateway_fakes import PATH, Rig, run, running_gateway

from pyswarm.common.errors import Unavailable
from pyswarm.common.types import ClusterEvent

NOW_S = 1_700_000_000


def cluster_event(
    tick: int, name: str = "web", kind: str = "service", action: str = "create", **more: str
) -> ClusterEvent:
    return ClusterEvent(
        type=kind,
        action=action,
        id=f"id-of-{name}",
        time_ns=(NOW_S + tick) * 10**9 + 7,
        attributes={"name": name, **more},
        labels={"tier": "front"},
    )


def engine_event(tick: int, action: str = "start", name: str = "web.1.x") -> dict[str, Any]:
    return {
        "status": action,
        "id": "c1",
        "Type": "container",
        "Action": action,
        "Actor": {"ID": "c1", "Attributes": {"name": name}},
        "scope": "local",
        "time": NOW_S + tick,
        "timeNano": (NOW_S + tick) * 10**9,
    }


class Events:
    """A gateway, and clients that watch."""

    def __init__(self, rig: Rig, session: aiohttp.ClientSession) -> None:
        self.rig = rig
        self._session = session

    async def get(self, **query: Any) -> tuple[int, Any]:
        """A stream that ends by itself."""
        async with self._session.get(f"http://x/v1.41/events?{encoded(query)}") as reply:
            body = await reply.read()
            if reply.status != 200:
                return reply.status, json.loads(body)["message"]
            return 200, [json.loads(line) for line in body.splitlines()]

    @asynccontextmanager
    async def watch(self, **query: Any) -> AsyncIterator[list[Any]]:
        """What comes, as it comes, once the answer's head is there."""
        found: list[Any] = []

        async def read(reply: aiohttp.ClientResponse) -> None:
            async for line in reply.content:
                found.append(json.loads(line))

        async with self._session.get(f"http://x/events?{encoded(query)}") as reply:
            assert reply.headers["Content-Type"] == "application/json"
            reading = asyncio.ensure_future(read(reply))
            try:
                yield found
            finally:
                reading.cancel()


def encoded(query: dict[str, Any]) -> str:
    return "&".join(f"{k}={quote(v if isinstance(v, str) else json.dumps(v))}" for k, v in query.items())


@pytest.fixture
async def events(tmp_path: Path) -> AsyncIterator[Events]:
    async with (
        running_gateway(tmp_path) as rig,
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(rig.socket))) as session,
    ):
        rig.node.become("manager")
        yield Events(rig, session)


def actions(found: list[Any]) -> list[str]:
    return [f"{e['Type']} {e['Action']} {e['Actor']['Attributes']['name']}" for e in found]


async def test_an_event_in_dockers_form(events: Events) -> None:
    async with events.watch() as found:
        events.rig.control.happen(cluster_event(5, action="update", **{"replicas.old": "1", "replicas.new": "3"}))
        await until(lambda: found, "an event")
        assert found[0] == {
            "Type": "service",
            "Action": "update",
            "Actor": {
                "ID": "id-of-web",
                "Attributes": {"name": "web", "replicas.old": "1", "replicas.new": "3"},
            },
            "scope": "swarm",
            "time": NOW_S + 5,
            "timeNano": (NOW_S + 5) * 10**9 + 7,
        }


async def test_both_sides_come_as_they_happen(events: Events) -> None:
    async with events.watch() as found:
        events.rig.control.happen(cluster_event(1))
        await until(lambda: len(found) == 1, "the cluster's")
        events.rig.engine.coming_events.put_nowait(engine_event(2))
        await until(lambda: len(found) == 2, "the engine's")
        assert found[1] == engine_event(2), "as it is"


async def test_what_was_comes_in_the_order_of_its_times(events: Events) -> None:
    for tick in (1, 3, 5):
        events.rig.control.happen(cluster_event(tick, f"c{tick}"))
    events.rig.engine.events = [engine_event(tick, name=f"e{tick}") for tick in (2, 4)]
    status, found = await events.get(since=str(NOW_S), until=str(NOW_S + 4.5))
    assert status == 200
    assert [e["Actor"]["Attributes"]["name"] for e in found] == ["c1", "e2", "c3", "e4"]
    asked = events.rig.engine.seen[-1][1]
    assert f"since={NOW_S}.000000000&until={NOW_S + 4}.500000000" in asked
    async with events.watch(since=str(NOW_S + 3)) as watched:
        events.rig.control.happen(cluster_event(9, "new"))
        events.rig.engine.coming_events.put_nowait(engine_event(10, name="newer"))
        await until(lambda: len(watched) == 5, "all")
        assert actions(watched)[:3] == ["service create c3", "container start e4", "service create c5"]
        assert sorted(actions(watched)[3:]) == ["container start newer", "service create new"]


async def test_the_end_comes_at_the_time_given(events: Events) -> None:
    async def soon() -> None:
        await until(lambda: events.rig.control.event_watchers, "it watches")
        events.rig.control.happen(cluster_event(1))

    asyncio.get_running_loop().create_task(soon())
    status, found = await events.get(until=f"{time.time() + 0.5:.3f}")
    assert (status, actions(found)) == (200, ["service create web"])
    assert events.rig.control.event_watchers == []


async def test_filters(events: Events) -> None:
    for name, kind in (("web", "service"), ("db", "service"), ("web", "node")):
        events.rig.control.happen(cluster_event(1, name, kind))
    events.rig.engine.events = [engine_event(2, name="web.1.x"), engine_event(3, name="other")]
    span = {"since": str(NOW_S), "until": str(NOW_S + 9)}
    for filters, expected in (
        ({"type": {"service": True}}, ["service create web", "service create db"]),
        ({"type": ["service"], "service": ["we"]}, ["service create web"]),
        ({"scope": ["swarm"], "label": ["tier=front"], "name": ["d"]}, ["service create db"]),
        ({"name": ["web"]}, ["service create web", "node create web", "container start web.1.x"]),
    ):
        assert actions((await events.get(**span, filters=filters))[1]) == expected
    assert "filters=" not in events.rig.engine.seen[-1][1], "the engine knows no such filter"
    assert len(events.rig.engine.seen) == 1, "what only the cluster has is not asked of the engine"
    await events.get(**span, filters={"container": ["x"]})
    assert events.rig.engine.seen[-1][1].startswith("/v1.41/events?since=1700000000&until=1700000009&filters=")


async def test_bad_parameters(events: Events) -> None:
    assert await events.get(since="9", until="8") == (400, "`since` time (9) cannot be after `until` time (8)")
    for query in ({"since": "yesterday"}, {"filters": "abc"}, {"filters": {"colour": ["red"]}}):
        status, message = await events.get(**query)
        assert status == 400
        assert message.startswith("invalid")


async def test_an_engine_that_is_away_does_not_keep_the_cluster_silent(tmp_path: Path) -> None:
    async with (
        running_gateway(tmp_path, engine_socket=tmp_path / "nobody.sock") as rig,
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(rig.socket))) as session,
    ):
        rig.node.become("manager")
        rig.control.happen(cluster_event(1))
        async with Events(rig, session).watch(since=str(NOW_S)) as found:
            await until(lambda: found, "what was")
            rig.control.happen(cluster_event(2, "new"))
            await until(lambda: len(found) == 2, "what comes")


async def test_a_manager_that_is_away_is_asked_again(events: Events) -> None:
    events.rig.control.events_error = Unavailable("restarting")
    async with events.watch() as found:
        events.rig.engine.coming_events.put_nowait(engine_event(1))
        await until(lambda: found, "the engine's come meanwhile")
        events.rig.control.events_error = None
        await until(lambda: events.rig.control.event_watchers, "it is asked again")
        events.rig.control.happen(cluster_event(2))
        await until(lambda: len(found) == 2, "the cluster's")


async def test_a_worker_forwards_to_its_engine(events: Events) -> None:
    events.rig.node.state = type(events.rig.node.state)(
        engine=events.rig.node.state.engine, local_state="active", role="worker"
    )
    events.rig.engine.events = [engine_event(1)]
    assert await events.get(since="1", until="5", filters={"colour": ["red"]}) == (200, [engine_event(1)])


# --- the clients


async def client(events: Events, program: str, *argv: str) -> tuple[int, str, str]:
    if program == "docker":
        require_binary("docker")
    env = {"DOCKER_HOST": events.rig.host, "PYSWARM_HOST": events.rig.host, "DOCKER_CONFIG": "/nonexistent"}
    return await run(program, "events", *argv, **env, TZ="UTC")


@pytest.mark.parametrize("program", ["pyswarm", "docker"])
async def test_the_clients(events: Events, program: str) -> None:
    events.rig.control.happen(cluster_event(1, **{"replicas.new": "3", "replicas.old": "1"}))
    events.rig.engine.events = [engine_event(2)]
    span = ("--since", str(NOW_S), "--until", str(NOW_S + 9))
    assert await client(events, program, *span) == (
        0,
        "2023-11-14T22:13:21.000000007Z service create id-of-web (name=web, replicas.new=3, replicas.old=1)\n"
        "2023-11-14T22:13:22.000000000Z container start c1 (name=web.1.x)\n",
        "",
    )
    _, out, _ = await client(events, program, *span, "--filter", "type=service", "--format", "{{json .}}")
    assert json.loads(out)["Actor"]["Attributes"]["replicas.new"] == "3"
    form = '{{.Type}}/{{.Action}}/{{.Actor.ID}}/{{.Scope}}/{{.TimeNano}}/{{index .Actor.Attributes "name"}}'
    _, out, _ = await client(events, program, *span, "-f", "scope=swarm", "--format", form)
    assert out == f"service/create/id-of-web/swarm/{(NOW_S + 1) * 10**9 + 7}/web\n"


async def test_events_show_as_they_come_and_ctrl_c_ends_them(events: Events) -> None:
    process = await asyncio.create_subprocess_exec(
        "pyswarm",
        "events",
        stdout=asyncio.subprocess.PIPE,
        env={"PATH": PATH, "PYSWARM_HOST": events.rig.host, "TZ": "Europe/Berlin"},
    )
    assert process.stdout is not None
    try:
        await until(lambda: events.rig.control.event_watchers, "it watches")
        events.rig.control.happen(cluster_event(1))
        line = await asyncio.wait_for(process.stdout.readline(), 10)
        assert line == b"2023-11-14T23:13:21.000000007+01:00 service create id-of-web (name=web)\n"
        process.send_signal(2)
        assert await asyncio.wait_for(process.wait(), 10) == 130
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_bad_options_are_named(events: Events) -> None:
    code, _, err = await client(events, "pyswarm", "--since", "soon")
    assert (code, "failed to parse value as time or duration" in err) == (2, True)
    code, _, err = await client(events, "pyswarm", "--filter", "colour=red")
    assert (code, err) == (1, "Error response from daemon: invalid filter 'colour'\n")
