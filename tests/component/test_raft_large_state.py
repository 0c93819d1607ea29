"""What is going on while a large state is written to disk."""

import threading
from collections.abc import Callable
from pathlib import Path

from support.raft_cluster import Ledger, Sender, eventually
from support.raft_cluster import Network as RaftNetwork

from pyswarm.manager.raft import Member, RaftConfig, RaftNode

EVERY = 20
#: Fails the test instead of hanging it.
LIMIT_S = 30


class _SlowToWrite(Ledger):
    """Its state is so large that writing it lasts until the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.may_end = threading.Event()
        self.writers: list[threading.Thread] = []

    def snapshot(self) -> Callable[[], bytes]:
        serialise = super().snapshot()

        def slowly() -> bytes:
            self.writers.append(threading.current_thread())
            assert self.may_end.wait(LIMIT_S)
            return serialise()

        return slowly


def _node(folder: Path, ledger: Ledger) -> RaftNode:
    me = Member("a", "10.0.0.1:2377")
    config = RaftConfig(
        str(folder), me.node_id, me.addr, snapshot_every_entries=EVERY, trailing_entries=1, segment_bytes=500
    )
    initial = None if (folder / "meta").exists() else [me]
    return RaftNode(config, ledger, Sender(RaftNetwork(), "a"), initial_members=initial)


async def test_changes_are_stored_while_a_snapshot_is_being_written(tmp_path: Path) -> None:
    ledger = _SlowToWrite()
    node = _node(tmp_path, ledger)
    await node.start()
    try:
        await eventually(lambda: node.is_leader)
        for number in range(EVERY):
            await node.propose(b"before %d" % number)
        await eventually(lambda: bool(ledger.writers), what="a snapshot is being written")
        for number in range(3 * EVERY):
            assert await node.propose(b"meanwhile %d" % number) == b"applied meanwhile %d" % number
        assert len(ledger.writers) == 1, "one at a time"
        assert ledger.writers[0] is not threading.main_thread()
        assert list(tmp_path.glob("*.snap")) == [], "half a snapshot is none"
        assert (tmp_path / "journal-0000000001.log").exists(), "and replaces nothing"
        ledger.may_end.set()
        await eventually(lambda: not (tmp_path / "journal-0000000001.log").exists(), what="the log is compacted")
    finally:
        ledger.may_end.set()
        await node.stop()
    again = Ledger()
    node = _node(tmp_path, again)
    await node.start()
    try:
        await eventually(lambda: node.is_leader)
        assert again.restored == 1
        assert again.commands == ledger.commands
    finally:
        await node.stop()
