"""Whom the gateway asks, and how often."""

import asyncio
from typing import Any, cast

import pytest
from support.virtual_clock import VirtualClock

from pyswarm.common.errors import NotAManager
from pyswarm.common.nodecontrol import NodeControl, NodeInfo
from pyswarm.gateway.cluster import KNOWN_FOR_S, ClusterAccess

MANAGER = NodeInfo(local_state="active", role="manager")
WORKER = NodeInfo(local_state="active", role="worker")


class _Daemon:
    def __init__(self, answer: NodeInfo) -> None:
        self.answer = answer
        self.asked = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def info(self) -> NodeInfo:
        self.asked += 1
        answer = self.answer
        await self.gate.wait()
        return answer


async def _connect(info: NodeInfo) -> Any:
    return info


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


def access(daemon: _Daemon, clock: VirtualClock) -> ClusterAccess:
    return ClusterAccess(cast(NodeControl, daemon), _connect, clock)


async def test_many_requests_to_a_manager_ask_the_daemon_once_in_a_while(clock: VirtualClock) -> None:
    await clock.advance(1)
    daemon = _Daemon(MANAGER)
    gateway = access(daemon, clock)
    for _ in range(5):
        await gateway.control()
    assert daemon.asked == 1
    await clock.advance(2 * KNOWN_FOR_S)
    daemon.answer = WORKER
    with pytest.raises(NotAManager):
        await gateway.control()


async def test_a_node_that_is_no_manager_is_asked_each_time(clock: VirtualClock) -> None:
    """So that a node which has just become one answers at once."""
    await clock.advance(1)
    daemon = _Daemon(NodeInfo())
    gateway = access(daemon, clock)
    with pytest.raises(NotAManager):
        await gateway.control()
    daemon.answer = MANAGER
    assert await gateway.control() == cast(Any, MANAGER)


async def test_after_leaving_nothing_of_before_is_believed(clock: VirtualClock) -> None:
    """Neither what was known, nor an answer that was under way."""
    await clock.advance(1)
    daemon = _Daemon(MANAGER)
    gateway = access(daemon, clock)
    await gateway.control()
    daemon.answer = NodeInfo()
    gateway.forget()
    with pytest.raises(NotAManager):
        await gateway.control()
    daemon.answer = MANAGER
    daemon.gate.clear()
    under_way = asyncio.ensure_future(gateway.control())
    await clock.settle()
    daemon.answer = NodeInfo()
    gateway.forget()
    daemon.gate.set()
    await under_way
    with pytest.raises(NotAManager):
        await gateway.control()
