"""Events as every manager tells them from its own store."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from msgspec.structs import replace
from prometheus_client import CollectorRegistry
from support.agents import until
from support.managers import Seat, TestCluster, running_cluster
from support.store import LocalProposer, local_store
from support.virtual_clock import VirtualClock

from pyswarm.common.errors import Unavailable
from pyswarm.common.types import (
    ClusterEvent,
    Node,
    NodeDescription,
    Service,
    ServiceSpec,
    Task,
    UpdateStatus,
)
from pyswarm.manager.events import EventFeed
from pyswarm.manager.events import feed as feed_module
from pyswarm.manager.state import Store, Transaction


class Raft:
    """Who leads is what the test says."""

    def __init__(self) -> None:
        self.is_leader = False
        self.leader: Seat | None = None

    async def read_barrier(self) -> None:
        """Not asked for."""


class Rig:
    """A feed of a store, in virtual time."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.store, self.proposer = local_store(self.clock)
        self.raft = Raft()
        self.current = True
        self.feed = EventFeed(
            self.store,
            self.raft,
            caught_up=lambda: self.current,
            clock=self.clock,
            registry=CollectorRegistry(),
        )

    async def change(self, *changes: Any) -> None:
        """One transaction for each."""
        for build in changes:
            await self.store.update(build)
        await self.clock.settle()

    async def remembered(self) -> list[str]:
        """Everything since the beginning of time."""
        watching = self.feed.watch(1)
        found = await anext(watching)
        await watching.aclose()
        return [short(event) for event in found]


def short(event: ClusterEvent) -> str:
    extra = ",".join(f"{k}={v}" for k, v in sorted(event.attributes.items()) if k != "name")
    return f"{event.type} {event.action} {event.attributes['name']}" + (f" {extra}" if extra else "")


def put(name: str) -> Any:
    return lambda tx: tx.create(Service(id=name, spec=ServiceSpec(name=name)))


def remove(name: str) -> Any:
    return lambda tx: tx.delete(tx.view.services.find(name))


def state(name: str, update: str) -> Any:
    return lambda tx: tx.update(replace(tx.view.services.find(name), update_status=UpdateStatus(state=update)))


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    rig = Rig()
    running = asyncio.ensure_future(rig.feed.run())
    await rig.clock.settle()
    yield rig
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_what_happens_is_told_and_remembered(rig: Rig) -> None:
    watching = rig.feed.watch(0)
    assert await anext(watching) == []
    await rig.change(put("web"), state("web", "updating"), remove("web"))
    found = [short(event) for event in await anext(watching)]
    assert found == ["service create web", "service update web updatestate.new=updating", "service remove web"]
    assert await rig.remembered() == found
    await watching.aclose()


async def test_tasks_make_no_events(rig: Rig) -> None:
    await rig.change(put("web"), *(_task(n) for n in range(20)))
    assert await rig.remembered() == ["service create web"]


def _task(number: int) -> Any:
    return lambda tx: tx.create(Task(id=f"t{number}", service_id="web", service_name="web", slot=number + 1))


async def test_since_a_time(rig: Rig) -> None:
    await rig.change(put("old"))
    await rig.clock.advance(10)
    since_ns = round(rig.clock.now() * 1e9)
    await rig.change(put("new"))
    watching = rig.feed.watch(since_ns)
    assert [short(event) for event in await anext(watching)] == ["service create new"]
    await watching.aclose()


async def test_what_was_before_the_manager_was_current_is_not_told() -> None:
    rig = Rig()
    rig.current = False
    running = asyncio.ensure_future(rig.feed.run())
    await rig.change(put("old"), put("gone"), remove("gone"))
    rig.current = True
    await rig.clock.advance(1)
    await rig.change(put("new"))
    assert await rig.remembered() == ["service create new"]
    running.cancel()


async def test_changes_that_were_missed_are_told_by_what_is_different(rig: Rig) -> None:
    await rig.change(put("stays"), put("goes"), put("changes"))
    # The same store at another manager, which sees what this one does not.
    other = Store(rig.clock)
    proposer = LocalProposer(other)
    other.bind(proposer.propose)
    for command in rig.proposer.log:
        await proposer.propose(command)
    for build in (remove("goes"), state("changes", "paused"), put("comes")):
        await other.update(build)
    rig.store.restore(other.snapshot()(), 99)
    await rig.clock.settle()
    assert sorted((await rig.remembered())[3:]) == [
        "service create comes",
        "service remove goes",
        "service update changes updatestate.new=paused",
    ]


async def test_another_leader_is_told(rig: Rig) -> None:
    def nodes(tx: Transaction) -> None:
        for name in ("h1", "h2"):
            tx.create(Node(id=name, description=NodeDescription(hostname=name)))

    await rig.change(nodes)
    for leader in (Seat("h1", ""), None, Seat("h1", ""), Seat("h2", "")):
        rig.raft.leader = leader
        await rig.clock.advance(1)
    assert (await rig.remembered())[2:] == [
        "node update h1 leader.new=true,leader.old=false",
        "node update h1 leader.new=false,leader.old=true",
        "node update h2 leader.new=true,leader.old=false",
    ]


async def test_a_watcher_that_is_too_slow_is_sent_away(rig: Rig) -> None:
    watching = rig.feed.watch(0)
    await anext(watching)
    await rig.change(*(put(f"s{n}") for n in range(feed_module.MAX_BEHIND + 5)))
    assert len(await anext(watching)) == feed_module.MAX_BEHIND
    with pytest.raises(Unavailable, match="too far behind"):
        await anext(watching)
    assert len(await rig.remembered()) == feed_module.REMEMBERED


async def test_there_is_an_end_to_watchers(rig: Rig) -> None:
    watching = [rig.feed.watch(0) for _ in range(feed_module.MAX_WATCHERS)]
    for watch in watching:
        await anext(watch)
    with pytest.raises(Unavailable, match="as many as there may be"):
        await anext(rig.feed.watch(0))
    await watching[0].aclose()
    assert await anext(rig.feed.watch(0)) == []


async def test_any_manager_tells_over_the_wire() -> None:
    async with running_cluster(2) as cluster:
        running = [asyncio.ensure_future(manager.events.run()) for manager in cluster.managers]
        found: list[list[str]] = [[], []]
        watchers = [asyncio.ensure_future(_watch(cluster, n, found[n])) for n in (0, 1)]
        await until(lambda: all("ready" in f for f in found), "both watch")
        await cluster.store.update(put("web"))
        await until(lambda: all(f[-1] == "service create web" for f in found), "both tell")
        for task in (*running, *watchers):
            task.cancel()


async def _watch(cluster: TestCluster, manager: int, found: list[str]) -> None:
    async for events in cluster.client(manager).watch_events(0):
        found.extend(short(event) for event in events)
        if not found:
            found.append("ready")
