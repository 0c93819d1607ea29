"""A manager whose disk was put back to an earlier state: it stops, and nothing that was acknowledged is lost."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.raft_cluster import Cluster, eventually

from pyswarm.manager.raft import RaftStorageError


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    """An empty cluster; afterwards nothing runs."""
    made = Cluster(tmp_path)
    yield made
    await made.close()


async def with_an_old_backup_of_b(cluster: Cluster) -> None:
    """Three members; c lacks the newest entries, and b's folder is as it was before it acknowledged them."""
    await cluster.form("a", "b", "c")
    await cluster.write(b"before")
    await cluster.settled()
    shutil.copytree(cluster.folder / "b", cluster.folder / "backup")
    await asyncio.gather(*(cluster.write(b"%d" % n) for n in range(20)))
    await cluster.settled()


async def put_back(cluster: Cluster) -> None:
    shutil.rmtree(cluster.folder / "b")
    shutil.copytree(cluster.folder / "backup", cluster.folder / "b")


async def test_it_stops_when_the_leader_remembers_more(cluster: Cluster) -> None:
    await with_an_old_backup_of_b(cluster)
    leader = cluster.leader()
    await cluster.stop("b")
    await put_back(cluster)
    await cluster.start("b")
    await eventually(lambda: "b" in cluster.failures, what="b has noticed")
    assert isinstance(cluster.failures["b"], RaftStorageError)
    assert "was put back to an earlier state: it ends at entry" in str(cluster.failures["b"])
    assert leader.is_leader
    assert await leader.propose(b"goes on") == b"applied goes on"
    await cluster.stop("b")
    # What the message says helps.
    await leader.remove_member("b", 5.0)
    shutil.rmtree(cluster.folder / "b")
    await cluster.join("b")
    await cluster.settled()
    assert cluster.ledgers["b"].commands[-1] == b"goes on"


async def test_it_does_not_elect_a_leader_that_lacks_what_it_forgot(cluster: Cluster) -> None:
    await with_an_old_backup_of_b(cluster)
    leader = cluster.leader()
    # Every follower has heard from the leader how far the others are.
    for name in ("b", "c"):
        witness = cluster.nodes[name]._storage.witness  # type: ignore[union-attr]
        other = {"b": "c", "c": "b"}[name]
        await eventually(lambda w=witness, o=other: any(k.node_id == o and k.index > 20 for k in w.known()))  # type: ignore[misc]
    cluster.network.isolate("c")
    await leader.propose(b"known to a and b only")
    await cluster.close()
    await put_back(cluster)
    cluster.network.heal()
    await cluster.start("c")
    await cluster.start("b")
    await eventually(lambda: "b" in cluster.failures, what="c remembers what b had")
    assert not any(n.is_leader for n in cluster.nodes.values())
    await cluster.stop("b")
    await cluster.start("a")
    await cluster.new_leader()
    await eventually(lambda: cluster.ledgers["c"].commands[-1:] == [b"known to a and b only"])


async def test_a_restart_with_what_it_had_is_no_reason_to_stop(cluster: Cluster) -> None:
    await with_an_old_backup_of_b(cluster)
    for name in ("b", "c", "a", "b"):
        await cluster.stop(name)
        await cluster.start(name)
        await cluster.write(b"after " + name.encode())
    await cluster.settled()
    assert cluster.failures == {}


async def test_what_was_noticed_once_holds_also_where_nobody_knows_it(cluster: Cluster) -> None:
    await with_an_old_backup_of_b(cluster)
    await cluster.stop("b")
    await put_back(cluster)
    await cluster.start("b")
    await eventually(lambda: "b" in cluster.failures, what="b has noticed")
    await cluster.close()
    with pytest.raises(RaftStorageError, match="was put back to an earlier state"):
        await cluster.start("b")
