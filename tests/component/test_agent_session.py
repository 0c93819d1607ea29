"""An agent with managers on real gRPC: sessions, redirects, failover, reports. Its engine is a double."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support.agents import RememberingOverlay, a_network, a_task, an_agent, until
from support.dispatcher import FakeDispatcher, agent_identity, gone
from support.fake_engine import FakeEngine
from support.pki import Pki

from pyswarm.agent import session
from pyswarm.agent.agent import Agent
from pyswarm.agent.goodbye import LIMIT_S
from pyswarm.agent.reports import StatusReports
from pyswarm.common.errors import FailedPrecondition, InvalidArgument, OutcomeUnknown, Unavailable
from pyswarm.common.tls import MAX_REQUEST_BYTES
from pyswarm.common.types import TaskState, TaskStatus

S = TaskState


class Node:
    """An agent and what it is made of."""

    def __init__(self, pki: Pki, folder: Path) -> None:
        self.pki = pki
        self.identity = agent_identity(pki)
        self.node_id = self.identity.node_id
        self.engine = FakeEngine()
        self.overlay = RememberingOverlay()
        self.folder = folder
        self.messages: list[Any] = []

    @asynccontextmanager
    async def running(self, *managers: FakeDispatcher) -> AsyncIterator[Agent]:
        addrs = [manager.addr for manager in managers]
        for manager in managers:
            manager.managers = addrs
        agent = an_agent(self.identity, addrs, self.engine, self.folder, self.overlay, self.messages.append)
        await agent.start()
        try:
            yield agent
        finally:
            await agent.stop()


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(Pki(), tmp_path)


@pytest.fixture
async def leader(node: Node) -> AsyncIterator[FakeDispatcher]:
    async with FakeDispatcher(node.pki) as dispatcher:
        yield dispatcher


async def test_a_task_runs_and_each_step_is_reported_in_order(node: Node, leader: FakeDispatcher) -> None:
    task = a_task(node.node_id)
    async with node.running(leader) as agent:
        await until(lambda: agent.connected, "a session")
        leader.assign(items=[task])
        await leader.until((task, S.RUNNING))
        ranks = [status.state.rank for status in leader.statuses[task.id]]
        assert ranks == sorted(ranks)
        node.engine.exit(task.container_name, 7)
        await leader.until((task, S.FAILED))
        last = leader.statuses[task.id][-1]
        assert last.err == "task: non-zero exit (7)"
        assert last.container_status is not None
        assert last.container_status.exit_code == 7


async def test_the_leader_learns_what_the_host_is_and_when_it_changes(node: Node, leader: FakeDispatcher) -> None:
    async with node.running(leader) as agent:
        await until(lambda: leader.heartbeats > 1, "heartbeats")
        assert leader.descriptions[-1].hostname == "h1"
        assert leader.descriptions[-1].resources.nano_cpus == 2_000_000_000
        node.engine.go_down()
        await until(lambda: "cannot connect" in leader.descriptions[-1].engine_error, "the engine's absence")
        node.engine.come_back()
        await until(lambda: not leader.descriptions[-1].engine_error, "the engine's return")
        assert len(leader.sessions) == 1
        assert agent.connected


async def test_managers_of_the_session_message_are_handed_on(node: Node, leader: FakeDispatcher) -> None:
    async with node.running(leader):
        await until(lambda: node.messages, "a session message")
        assert [peer.addr for peer in node.messages[0].managers] == [leader.addr]


async def test_a_manager_that_does_not_lead_redirects(node: Node, leader: FakeDispatcher) -> None:
    async with FakeDispatcher(node.pki) as follower:
        follower.leads, follower.leader_addr = False, leader.addr
        async with node.running(follower) as agent:
            await until(lambda: agent.connected, "a session with the leader")
        assert leader.sessions
        assert not follower.sessions


async def test_two_managers_that_point_at_each_other_are_left_in_time(node: Node, leader: FakeDispatcher) -> None:
    async with FakeDispatcher(node.pki) as other:
        leader.leads = other.leads = False
        leader.leader_addr, other.leader_addr = other.addr, leader.addr
        async with node.running(leader, other) as agent:
            await until(lambda: "not the leader" in agent.error, "a reason")
            other.leads = True
            await until(lambda: agent.connected, "a session")


async def test_when_the_leader_dies_tasks_go_on_and_the_next_one_hears_everything(
    node: Node, leader: FakeDispatcher
) -> None:
    task, short = a_task(node.node_id), a_task(node.node_id, slot=2)
    async with FakeDispatcher(node.pki) as follower:
        follower.leads = False
        async with node.running(leader, follower) as agent:
            leader.assign(items=[task, short])
            await leader.until((task, S.RUNNING), (short, S.RUNNING))
            await leader.kill()
            await until(lambda: not agent.connected, "the loss of the session")
            node.engine.exit(short.container_name, 5)
            await until(lambda: agent.statuses[short.id].state is S.FAILED, "the exit to be seen")
            assert node.engine.found[task.container_name].running
            assert node.engine.count("stop") == 0
            follower.objects = dict(leader.objects)
            follower.leads = True
            await follower.until((short, S.FAILED), timeout_s=5)
            assert node.engine.count("start") == 2


async def test_a_silent_leader_is_left_within_seconds(node: Node, leader: FakeDispatcher) -> None:
    async with FakeDispatcher(node.pki) as follower:
        follower.leads = False
        async with node.running(leader, follower) as agent:
            await until(lambda: agent.connected, "a session")
            leader.silent = True
            follower.leads = True
            await until(lambda: follower.sessions, "a session with the next leader", timeout_s=6)


async def test_reports_are_repeated_until_they_are_acknowledged(node: Node, leader: FakeDispatcher) -> None:
    task = a_task(node.node_id)
    leader.refusals = [Unavailable("no quorum"), OutcomeUnknown("leadership was lost")]
    async with node.running(leader):
        leader.assign(items=[task])
        await leader.until((task, S.RUNNING))
    assert not leader.refusals


async def test_a_report_refused_for_good_does_not_hold_up_others(node: Node, leader: FakeDispatcher) -> None:
    tasks = [a_task(node.node_id, slot=slot) for slot in (1, 2)]
    async with node.running(leader) as agent:
        await until(lambda: agent.connected, "a session")
        leader.refusals = [InvalidArgument("no"), InvalidArgument("no")]
        leader.assign(items=tasks)
        await leader.until((tasks[1], S.RUNNING))
        node.engine.exit(tasks[0].container_name, 1)
        await leader.until((tasks[0], S.FAILED))
        assert len(leader.sessions) == 1


async def test_a_gap_in_the_sequence_asks_for_the_full_set(node: Node, leader: FakeDispatcher) -> None:
    one, two = a_task(node.node_id), a_task(node.node_id, slot=2)
    async with node.running(leader):
        leader.assign(items=[one])
        await leader.until((one, S.RUNNING))
        leader.skip_sequence = True
        leader.assign(items=[two])
        await leader.until((two, S.RUNNING))
        assert len(leader.sessions) == 1


async def test_a_renewed_certificate_is_used_at_once(node: Node, leader: FakeDispatcher) -> None:
    async with node.running(leader) as agent:
        await until(lambda: agent.connected, "a session")
        agent.set_identity(node.pki.identity("worker", node.node_id))
        await until(lambda: len(leader.sessions) == 2, "a new session")
        await until(lambda: agent.connected, "to be connected")


async def test_a_manager_of_another_swarm_is_not_believed(node: Node) -> None:
    async with FakeDispatcher(Pki()) as stranger, node.running(stranger) as agent:
        await until(lambda: agent.error, "a reason")
        assert not stranger.sessions
        assert "certificate" in agent.error


async def test_unreachable_managers_are_named(node: Node, leader: FakeDispatcher) -> None:
    await leader.kill()
    async with node.running(leader) as agent:
        await until(lambda: leader.addr in agent.error, "the address in the reason")


async def test_networks_come_before_and_go_after_their_tasks(node: Node, leader: FakeDispatcher) -> None:
    network = a_network()
    task = a_task(node.node_id, networks=[(network, 5)])
    async with node.running(leader) as agent:
        leader.assign(items=[network, task])
        await leader.until((task, S.RUNNING))
        assert set(node.overlay.networks) == {network.id}
        calls = [call.partition(" ")[0] for call in node.engine.calls]
        assert calls.index("network") < calls.index("create") < calls.index("start")
        assert node.engine.egress[task.container_name]
        leader.assign(gone(task), gone(network))
        await until(lambda: not agent.statuses and not node.engine.networks, "task and network to be gone")
        assert not node.overlay.networks
        assert not node.engine.found


async def test_a_node_that_leaves_tells_the_leader_what_became_of_its_tasks(
    node: Node, leader: FakeDispatcher
) -> None:
    task = a_task(node.node_id)
    async with FakeDispatcher(node.pki) as follower, node.running(leader) as agent:
        leader.assign(items=[task])
        await leader.until((task, S.RUNNING))
        follower.leads, follower.leader_addr = False, leader.addr
        assert await agent.leave([follower.addr]) == ""
        # Before its tasks are stopped, so that nobody is led to them any more, and with the last of them.
        assert leader.left == [node.node_id, node.node_id]
        assert leader.state(task) is S.SHUTDOWN
        assert node.engine.found == {}


async def test_leaving_without_an_engine_says_what_stays(node: Node, leader: FakeDispatcher) -> None:
    network = a_network()
    task = a_task(node.node_id, networks=[(network, 5)])
    async with node.running(leader) as agent:
        leader.assign(items=[network, task])
        await leader.until((task, S.RUNNING))
        node.engine.go_down()
        async with asyncio.timeout(LIMIT_S):  # also when the engine goes at the very moment of leaving
            warning = await agent.leave([leader.addr])
    assert "stay on this host (cannot connect to the Docker Engine)" in warning
    assert leader.left == [node.node_id, node.node_id]
    assert leader.state(task) is S.RUNNING, "its container may still run"
    assert (node.overlay.networks, node.overlay.kept) == ({}, set()), "the devices go, with or without an engine"


async def test_leaving_takes_not_long_when_no_manager_is_there(node: Node, leader: FakeDispatcher) -> None:
    async with node.running(leader) as agent:
        await until(lambda: agent.connected, "a session")
        await leader.kill()
        async with asyncio.timeout(LIMIT_S + 2):
            assert await agent.leave([leader.addr]) == ""


async def test_a_refused_status_is_reported_again_later(
    node: Node, leader: FakeDispatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "REFUSED_AGAIN_S", 0.2)
    task = a_task(node.node_id)
    async with node.running(leader) as agent:
        leader.assign(items=[task])
        await leader.until((task, S.RUNNING))
        leader.refusals = [FailedPrecondition("this change is too large")] * 3
        node.engine.exit(task.container_name, 1)
        await leader.until((task, S.FAILED))
        assert not leader.refusals
        assert agent.connected


def test_reports_are_split_below_what_a_manager_takes() -> None:
    reports = StatusReports()
    for number in range(200):
        reports.put(f"t{number:03}", TaskStatus(state=S.FAILED, err="x" * 50_000))
    sent = 0
    while batch := reports.batch():
        assert 0 < sum(len(msgspec.msgpack.encode(status)) for _, status in batch) <= MAX_REQUEST_BYTES // 2
        sent += len(batch)
        reports.acknowledged(batch)
    assert sent == 200


def test_what_was_refused_is_kept_until_it_changes() -> None:
    reports = StatusReports()
    old, new = TaskStatus(state=S.RUNNING), TaskStatus(state=S.FAILED)
    reports.put("t", old)
    reports.refused("t", old)
    assert reports.batch() == []
    reports.again()
    assert reports.batch() == [("t", old)]
    reports.refused("t", old)
    reports.put("t", new)
    reports.again()
    assert reports.batch() == [("t", new)]
    reports.refused("t", new)
    reports.forget("t")
    reports.again()
    assert reports.batch() == []
