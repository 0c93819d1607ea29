"""Linearizable reads: many at once cost what one costs."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.raft_cluster import Cluster

from pyswarm.manager.raft.messages import Append

READERS = 300


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    """Heartbeats so seldom that every message seen was sent for a reader."""
    slow = Cluster(tmp_path, heartbeat_s=2.0, election_min_s=7.0, election_max_s=9.0, quorum_timeout_s=8.0)
    yield slow
    await slow.close()
    assert slow.failures == {}


async def test_concurrent_readers_share_a_round(cluster: Cluster) -> None:
    leader = await cluster.form("a", "b", "c")
    await leader.propose(b"one")
    await cluster.settled()
    cluster.network.record = True
    one = await leader.read_barrier()
    alone = rounds(cluster)
    assert 1 <= alone <= 3
    answers = await asyncio.gather(*(leader.read_barrier() for _ in range(READERS)))
    assert set(answers) == {one}
    # A first reader may already be on its way when the others come; no more rounds than a handful.
    assert rounds(cluster) - alone <= 5


def rounds(cluster: Cluster) -> int:
    """How many messages the leader sent to the member it sent most to."""
    sent = [to for sender, to, message in cluster.network.seen if sender == "a" and isinstance(message, Append)]
    return max(sent.count(to) for to in ("b", "c"))
