"""Whole nodes over a network that can be cut: threads, journals and loop as in production."""

import asyncio
import errno
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.raft_cluster import Cluster, eventually

from pyswarm.common.errors import InvalidArgument, NotLeader, OutcomeUnknown, PyswarmError, Unavailable
from pyswarm.manager.raft import RaftStorageError
from pyswarm.manager.raft.disk import Disk
from pyswarm.manager.raft.messages import Append, Message, SnapshotChunk, encode


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    """An empty cluster; afterwards nothing runs, and nobody failed unexpectedly."""
    made = Cluster(tmp_path)
    yield made
    await made.close()
    assert made.failures == {}


async def test_one_node_leads_at_once_also_after_a_restart(cluster: Cluster) -> None:
    began = time.monotonic()
    node = await cluster.start("a", ["a"])
    await eventually(lambda: node.is_leader, 1.0)
    assert time.monotonic() - began < 1.0
    assert await node.propose(b"one") == b"applied one"
    assert await node.read_barrier() >= 3
    term = node.term
    await cluster.stop("a")
    began = time.monotonic()
    node = await cluster.start("a")
    await eventually(lambda: node.is_leader, 1.0)
    assert time.monotonic() - began < 1.0
    assert cluster.ledgers["a"].commands == [b"one"]
    assert node.term > term
    assert cluster.leaderships == [("a", True, term), ("a", False, term), ("a", True, node.term)]


async def test_members_join_and_all_apply_the_same(cluster: Cluster) -> None:
    leader = await cluster.form("a", "b", "c")
    assert [m.node_id for m in leader.members] == ["a", "b", "c"]
    results = await asyncio.gather(*(leader.propose(b"%d" % n) for n in range(300)))
    assert results == [b"applied %d" % n for n in range(300)]
    await cluster.settled()
    assert cluster.ledgers["c"].commands == [b"%d" % n for n in range(300)]
    for name in ("b", "c"):
        node = cluster.nodes[name]
        assert not node.is_leader
        assert node.leader == cluster.member("a")
        with pytest.raises(NotLeader) as caught:
            await node.propose(b"x")
        assert (caught.value.leader_addr, caught.value.leader_id) == ("a:2377", "a")
        with pytest.raises(NotLeader):
            await node.read_barrier()


async def test_a_new_leader_after_the_old_one_stops_and_nothing_is_lost(cluster: Cluster) -> None:
    await cluster.form("a", "b", "c")
    for n in range(20):
        await cluster.write(b"%d" % n)
    await cluster.stop("a")
    began = time.monotonic()
    leader = await cluster.new_leader()
    await leader.propose(b"after")
    assert time.monotonic() - began < 1.5
    await cluster.start("a")
    await cluster.settled()
    assert cluster.ledgers["a"].commands == [*(b"%d" % n for n in range(20)), b"after"]


async def test_a_full_restart_keeps_everything(cluster: Cluster) -> None:
    await cluster.form("a", "b", "c")
    await asyncio.gather(*(cluster.write(b"%d" % n) for n in range(100)))
    before = list(cluster.ledgers["a"].entries)
    await cluster.close()
    for name in ("a", "b", "c"):
        await cluster.start(name)
    leader = await cluster.new_leader()
    assert await leader.read_barrier() >= before[-1][0]
    await cluster.settled()
    assert cluster.ledgers["b"].entries == before
    assert [m.node_id for m in leader.members] == ["a", "b", "c"]


async def test_a_cut_off_leader_acknowledges_nothing_and_steps_down(cluster: Cluster) -> None:
    old = await cluster.form("a", "b", "c")
    await cluster.write(b"before")
    cluster.network.isolate("a")
    began = time.monotonic()
    with pytest.raises(OutcomeUnknown):
        await old.propose(b"lost")
    assert time.monotonic() - began < 2 * 0.6 + 0.3
    assert not old.is_leader
    with pytest.raises(NotLeader):
        await old.read_barrier()
    leader = await cluster.new_leader(without="a")
    await leader.propose(b"kept")
    cluster.network.heal()
    await cluster.settled()
    assert cluster.ledgers["a"].commands == [b"before", b"kept"]


async def test_a_cut_off_leader_answers_no_reader(cluster: Cluster) -> None:
    old = await cluster.form("a", "b", "c")
    await cluster.settled()
    cluster.network.isolate("a")
    with pytest.raises((NotLeader, Unavailable)):
        await old.read_barrier(timeout_s=2.0)


async def test_a_cut_off_follower_does_not_disturb_when_it_returns(cluster: Cluster) -> None:
    leader = await cluster.form("a", "b", "c")
    await cluster.settled()
    term = leader.term
    cluster.network.isolate("c")
    # Long enough for several of its election timeouts; the others keep working.
    until = time.monotonic() + 1.5
    while time.monotonic() < until:
        await leader.propose(b"meanwhile")
        await asyncio.sleep(0.05)
    cluster.network.heal()
    await cluster.settled()
    assert leader.is_leader
    assert (leader.term, cluster.nodes["c"].term) == (term, term)


async def test_without_a_majority_writes_end_in_time(cluster: Cluster) -> None:
    leader = await cluster.form("a", "b", "c")
    await cluster.stop("b")
    await cluster.stop("c")
    with pytest.raises(OutcomeUnknown):
        await leader.propose(b"x", timeout_s=3.0)
    with pytest.raises(NotLeader) as caught:
        await leader.propose(b"y")
    assert caught.value.leader_addr == ""


async def test_replayed_old_appends_truncate_nothing(cluster: Cluster) -> None:
    leader = await cluster.form("a", "b", "c")
    cluster.network.record = True
    for n in range(30):
        await leader.propose(b"%d" % n)
    await cluster.settled()
    cluster.network.record = False
    old = [(s, t, m) for s, t, m in cluster.network.seen if isinstance(m, Append)]
    for sender, to, message in reversed(old):
        cluster.network.carry(sender, to, encode(message))
    await leader.propose(b"end")
    await cluster.settled()
    assert cluster.ledgers["b"].commands[-1] == b"end"
    assert len(cluster.ledgers["b"].commands) == 31


async def test_loss_repetition_and_delay_do_no_harm(cluster: Cluster) -> None:
    leader = await cluster.form("a", "b", "c")
    kept: list[tuple[str, str, Message]] = []
    count = 0

    def lossy(sender: str, to: str, message: Message) -> Message | None:
        nonlocal count
        count += 1
        if count % 5 == 0:
            return None
        if count % 7 == 0:
            kept.append((sender, to, message))
            return None
        if count % 11 == 0 and kept:
            late = kept.pop(0)
            if (late[0], late[1]) == (sender, to):
                return late[2]
        return message

    cluster.network.filter = lossy
    for n in range(60):
        await cluster.write(b"%d" % n)
    cluster.network.filter = None
    await cluster.settled()
    assert leader is not None
    assert set(cluster.ledgers["c"].commands) == {b"%d" % n for n in range(60)}


async def test_a_member_far_behind_is_caught_up_by_a_snapshot(tmp_path: Path) -> None:
    cluster = Cluster(
        tmp_path, snapshot_every_entries=200, trailing_entries=20, snapshot_chunk_bytes=1000, segment_bytes=20_000
    )
    try:
        await cluster.form("a", "b", "c")
        cluster.network.isolate("c")
        for n in range(5):
            await asyncio.gather(*(cluster.write(b"%d-%d-" % (n, i) + b"x" * 50) for i in range(200)))
        leader = cluster.nodes["a"]
        await eventually(lambda: not (tmp_path / "a" / "journal-0000000001.log").exists(), what="compaction")
        dropped = 0

        def lossy(_sender: str, to: str, message: Message) -> Message | None:
            nonlocal dropped
            if isinstance(message, SnapshotChunk) and message.offset == 8000 and dropped == 0:
                dropped += 1
                return None
            return message

        cluster.network.filter = lossy
        cluster.network.heal()
        await cluster.settled()
        assert dropped == 1
        assert cluster.ledgers["c"].restored == 1
        assert len(cluster.ledgers["c"].commands) == 1000
        await leader.propose(b"after")
        await cluster.settled()
        # And from the snapshot it restarts, too.
        await cluster.stop("c")
        await cluster.start("c")
        await cluster.settled()
        assert cluster.ledgers["c"].commands[-1] == b"after"
        assert [m.node_id for m in cluster.nodes["c"].members] == ["a", "b", "c"]
        assert cluster.network.largest < 1024 * 1024
        assert cluster.failures == {}
    finally:
        await cluster.close()


async def test_a_follower_with_a_long_dead_tail_catches_up(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, append_batch_bytes=2000)
    try:
        old = await cluster.form("a", "b", "c")
        await cluster.settled()
        cluster.network.isolate("a")
        dead = [asyncio.ensure_future(old.propose(b"dead" + b"x" * 200)) for _ in range(100)]
        leader = await cluster.new_leader(without="a")
        await asyncio.gather(*(leader.propose(b"%d" % n + b"x" * 200) for n in range(200)))
        assert all(isinstance(e, OutcomeUnknown) for e in await asyncio.gather(*dead, return_exceptions=True))
        cluster.network.heal()
        await cluster.settled()
        assert not any(c.startswith(b"dead") for c in cluster.ledgers["a"].commands)
    finally:
        await cluster.close()


async def test_members_leave_and_come_back(cluster: Cluster) -> None:
    leader = await cluster.form("a", "b", "c")
    left = await leader.remove_member("c", 5.0)
    assert [m.node_id for m in left] == ["a", "b"]
    gone = cluster.nodes["c"]
    await eventually(lambda: [m.node_id for m in gone.members] == ["a", "b"], what="the removed node learns of it")
    sender = cluster.nodes["a"]._sender
    await eventually(lambda: "c" in sender.forgotten, what="the connection is closed")  # type: ignore[attr-defined]
    term = leader.term
    assert await leader.remove_member("c", 5.0) == left, "asking again changes nothing"
    await cluster.stop("b")
    with pytest.raises(OutcomeUnknown):
        await leader.propose(b"c does not count any more", timeout_s=3.0)
    await cluster.start("b")
    leader = await cluster.new_leader()
    assert leader.term > term
    members = await leader.add_member(cluster.member("c"), 5.0)
    assert [m.node_id for m in members] == ["a", "b", "c"]
    await cluster.write(b"again")
    await cluster.settled()
    assert cluster.ledgers["c"].commands[-1] == b"again"


async def test_a_member_that_cannot_be_reached_never_counts(cluster: Cluster) -> None:
    leader = await cluster.form("a")
    with pytest.raises(Unavailable, match="did not catch up"):
        await leader.add_member(cluster.member("ghost"), 0.3)
    assert [m.node_id for m in leader.members] == ["a"]
    assert await leader.propose(b"still works") == b"applied still works"


async def test_joining_at_once_happens_one_after_the_other(cluster: Cluster) -> None:
    leader = await cluster.form("a")
    names = ["b", "c", "d", "e"]
    for name in names:
        await cluster.start(name, ["a"])
    await asyncio.gather(*(leader.add_member(cluster.member(n), 10.0) for n in names))
    assert {m.node_id for m in leader.members} == {"a", *names}
    await cluster.write(b"five")
    await cluster.settled()


async def test_an_address_may_change_and_adding_twice_changes_nothing(cluster: Cluster) -> None:
    leader = await cluster.form("a", "b")
    commit = leader.commit_index
    await leader.add_member(cluster.member("b"), 5.0)
    assert leader.commit_index == commit
    moved = type(cluster.member("b"))("b", "elsewhere:2377")
    assert moved in await leader.add_member(moved, 5.0)
    assert len(leader.members) == 2


async def test_the_leader_hands_over_before_it_leaves(cluster: Cluster) -> None:
    leader = await cluster.form("a", "b", "c")
    await cluster.settled()
    began = time.monotonic()
    with pytest.raises(NotLeader):
        await leader.remove_member("a", 5.0)
    successor = await cluster.new_leader(without="a")
    assert time.monotonic() - began < 1.0
    assert [m.node_id for m in await successor.remove_member("a", 5.0)] == ["b", "c"]
    await eventually(lambda: len(cluster.nodes["a"].members) == 2)
    await cluster.write(b"without a")


async def test_handing_over_is_fast_and_loses_nothing(cluster: Cluster) -> None:
    await cluster.form("a", "b", "c")
    for n in range(3):
        old = cluster.leader()
        began = time.monotonic()
        await old.transfer_leadership(5.0)
        await cluster.write(b"%d" % n)
        assert time.monotonic() - began < 1.0
        assert cluster.leader() is not old
    await cluster.settled()
    assert cluster.ledgers["a"].commands == [b"0", b"1", b"2"]


async def test_a_state_machine_that_raises_stops_nothing(cluster: Cluster) -> None:
    leader = await cluster.form("a", "b", "c")
    with pytest.raises(PyswarmError, match="could not be applied"):
        await leader.propose(b"raise")
    assert await leader.propose(b"next") == b"applied next"
    await cluster.settled()
    assert cluster.ledgers["b"].commands == [b"next"]


async def test_leadership_is_told_only_with_a_current_state(cluster: Cluster) -> None:
    seen: list[tuple[bool, int]] = []
    await cluster.form("a", "b", "c")
    for n in range(50):
        await cluster.write(b"%d" % n)
    for name in ("b", "c"):
        ledger, node = cluster.ledgers[name], cluster.nodes[name]
        node.on_leadership(lambda leads, _t, ledger=ledger: seen.append((leads, len(ledger.commands))))  # type: ignore[misc]
    await cluster.stop("a")
    await cluster.new_leader()
    assert seen == [(True, 50)]


async def test_too_large_a_change_is_refused(cluster: Cluster) -> None:
    leader = await cluster.form("a", "b")
    big = b"x" * (2 * 1024 * 1024)
    assert await leader.propose(big) == b"applied " + big
    with pytest.raises(InvalidArgument, match="at most"):
        await leader.propose(big + b"x")


async def test_noise_from_the_network_is_dropped(cluster: Cluster) -> None:
    leader = await cluster.form("a", "b")
    for noise in (b"", b"\x01", b"\x80\x04N.", b"\x01" + b"\xff" * 100):
        leader.deliver("b", noise)
    assert await leader.propose(b"fine") == b"applied fine"


async def test_callers_waiting_at_the_stop_are_told(cluster: Cluster) -> None:
    leader = await cluster.form("a", "b", "c")
    cluster.network.isolate("a")
    waiting = [asyncio.ensure_future(leader.propose(b"x")), asyncio.ensure_future(leader.read_barrier())]
    await asyncio.sleep(0)
    await cluster.stop("a")
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(r, PyswarmError) for r in results)
    with pytest.raises(Unavailable, match="stopping"):
        await leader.propose(b"x")


async def test_a_damaged_journal_stops_the_start(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    await cluster.form("a")
    for n in range(10):
        await cluster.write(b"%d" % n)
    await cluster.close()
    path = next((tmp_path / "a").glob("journal-*.log"))
    data = bytearray(path.read_bytes())
    data[80] ^= 1
    path.write_bytes(data)
    for _ in range(2):
        with pytest.raises(RaftStorageError, match="damaged"):
            await cluster.start("a")


class FaultyDisk(Disk):
    """Fails when told to."""

    error: int | None = None

    def write(self, fd: int, data: bytes, offset: int) -> None:
        if self.error is not None:
            raise OSError(self.error, os.strerror(self.error))
        super().write(fd, data, offset)


async def test_a_leader_without_space_is_replaced_and_comes_back(cluster: Cluster) -> None:
    disk = FaultyDisk()
    first = await cluster.start("a", ["a"], disk)
    await eventually(lambda: first.is_leader)
    await cluster.join("b")
    await cluster.join("c")
    await cluster.write(b"before")
    disk.error = errno.ENOSPC
    lost = asyncio.ensure_future(first.propose(b"no space", timeout_s=2.0))
    leader = await cluster.new_leader(without="a")
    await leader.propose(b"meanwhile")
    with pytest.raises(OutcomeUnknown):
        await lost
    disk.error = None
    await cluster.settled()
    assert cluster.ledgers["a"].commands == [b"before", b"meanwhile"]
    assert not first.is_leader


async def test_a_broken_disk_stops_the_node_and_says_so(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    disk = FaultyDisk()
    node = await cluster.start("a", ["a"], disk)
    try:
        await eventually(lambda: node.is_leader)
        disk.error = errno.EIO
        with pytest.raises(OutcomeUnknown):
            await node.propose(b"x")
        await eventually(lambda: "a" in cluster.failures)
        assert isinstance(cluster.failures["a"], RaftStorageError)
        assert not node.is_leader
        with pytest.raises(Unavailable, match="cannot write"):
            await node.propose(b"y")
    finally:
        await cluster.close()


async def test_many_bytes_are_a_reason_for_a_snapshot_too(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, snapshot_every_bytes=50_000, trailing_bytes=5_000, segment_bytes=20_000)
    try:
        await cluster.form("a")
        for n in range(100):
            await cluster.write(b"%d" % n + b"x" * 1000)
        await eventually(lambda: not (tmp_path / "a" / "journal-0000000001.log").exists(), what="compaction")
    finally:
        await cluster.close()


WRITER = textwrap.dedent(
    """
    import asyncio, sys
    from pathlib import Path
    sys.path.insert(0, sys.argv[2])
    from support.raft_cluster import Cluster, eventually

    async def main() -> None:
        cluster = Cluster(Path(sys.argv[1]), snapshot_every_entries=100, trailing_entries=10, segment_bytes=4000)
        fresh = not (Path(sys.argv[1]) / "a" / "meta").exists()
        node = await cluster.start("a", ["a"] if fresh else None)
        await eventually(lambda: node.is_leader)
        number = len(cluster.ledgers["a"].commands)
        print("has", *(c.decode() for c in cluster.ledgers["a"].commands), flush=True)

        async def write() -> None:
            nonlocal number
            while True:
                mine, number = number, number + 1
                await node.propose(str(mine).encode() + b"-" + b"x" * 20)
                print("ok", mine, flush=True)

        await asyncio.gather(*(write() for _ in range(8)))

    asyncio.run(main())
    """
)


async def test_kill_9_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    support = str(Path(__file__).parent.parent)
    acknowledged: set[str] = set()
    for kills in range(4):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", WRITER, str(tmp_path), support, stdout=subprocess.PIPE, limit=1 << 24
        )
        assert process.stdout is not None
        try:
            first = (await asyncio.wait_for(process.stdout.readline(), 20)).decode().split()
            assert first[0] == "has"
            stored = {c.split("-")[0] for c in first[1:]}
            assert acknowledged <= stored, f"lost {sorted(acknowledged - stored)[:5]} after {kills} kills"
            for _ in range(150 + 37 * kills):
                line = (await asyncio.wait_for(process.stdout.readline(), 20)).decode().split()
                acknowledged.add(line[1])
        finally:
            process.send_signal(signal.SIGKILL)
            # What was printed before the kill was acknowledged before it.
            rest = (await process.stdout.read()).decode().splitlines()
            await process.wait()
        acknowledged |= {line.split()[1] for line in rest if line.startswith("ok ") and len(line.split()) == 2}


async def test_callers_of_a_full_leader_are_told_soon_and_it_leads_again_with_space(
    tmp_path: Path,
) -> None:
    cluster = Cluster(tmp_path)
    disk = FaultyDisk()
    node = await cluster.start("a", ["a"], disk)
    try:
        await eventually(lambda: node.is_leader)
        disk.error = errno.ENOSPC
        began = time.monotonic()
        with pytest.raises(OutcomeUnknown, match="it may still happen: no space left on"):
            await node.propose(b"one", timeout_s=30.0)
        # Refused at once by then: it leads nobody while it can promise nothing.
        assert not node.is_leader
        with pytest.raises(Unavailable, match="no space left on this manager"):
            await node.propose(b"two", timeout_s=30.0)
        assert time.monotonic() - began < 8
        disk.error = None
        await eventually(lambda: node.is_leader, what="it leads again")
        assert node.trouble == ""
        await node.propose(b"three")
        # The one in the log is stored after all; the one that was refused is not.
        assert cluster.ledgers["a"].commands == [b"one", b"three"]
        told = [leads for name, leads, _ in cluster.leaderships if name == "a"]
        assert told == [True, False, True]
    finally:
        await cluster.close()
    assert cluster.failures == {}
