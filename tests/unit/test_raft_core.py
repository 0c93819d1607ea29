"""One step of the Raft thread: durable first, then visible."""

import asyncio
import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyswarm.common.errors import NotLeader, OutcomeUnknown
from pyswarm.manager.raft import Member, RaftConfig
from pyswarm.manager.raft import effects as fx
from pyswarm.manager.raft.core import RaftCore
from pyswarm.manager.raft.disk import Disk
from pyswarm.manager.raft.entries import decode_members
from pyswarm.manager.raft.messages import Append, AppendAck, Vote, VoteReply, decode, encode
from pyswarm.manager.raft.storage import open_storage
from pyswarm.manager.raft.types import StorageFullError
from pyswarm.manager.raft.waiters import Barrier, Change, Proposal


class Tape(Disk):
    """Writes down what happens in which order, and may be full."""

    def __init__(self) -> None:
        self.tape: list[str] = []
        self.full = False

    def write(self, fd: int, data: bytes, offset: int) -> None:
        if self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        super().write(fd, data, offset)
        self.tape.append("write")

    def sync(self, fd: int) -> None:
        super().sync(fd)
        self.tape.append("sync")


class Rig:
    """A core with everything it touches in one transcript."""

    def __init__(self, folder: Path, *names: str) -> None:
        self.now = 1000.0
        self.disk = Tape()
        self.effects: list[fx.Effect] = []
        self.sent: list[tuple[str, object]] = []
        config = RaftConfig(str(folder), "me", "me:2377")
        self.storage = open_storage(config, tuple(Member(n, f"{n}:2377") for n in names), self.disk)
        self.core = RaftCore(config, self.storage, self, self._emit, lambda: self.now)
        self.run()
        self.sent.clear()
        self.effects.clear()
        self.disk.tape.clear()

    def send(self, node_id: str, _addr: str, payload: bytes) -> bool:
        message = decode(payload)
        self.sent.append((node_id, message))
        self.disk.tape.append(f"send {type(message).__name__}")
        return True

    def forget(self, _node_id: str) -> None:
        """Not of interest here."""

    def _emit(self, effects: list[fx.Effect]) -> None:
        self.effects += effects
        self.disk.tape += [type(e).__name__ for e in effects]

    def run(self, after_s: float = 0.0) -> None:
        """A step, and what comes of it."""
        self.now += after_s
        self.core.step()
        self.core.finish()

    def lead(self, voter: str) -> None:
        """Win an election with the voter's help."""
        self.lead_with(voter)

    def lead_with(self, *voters: str) -> None:
        """Win an election with these votes."""
        for _ in range(100):
            self.run(0.05)
            for node_id, message in self.sent:
                if node_id in voters and isinstance(message, Vote):
                    self.core.deliver(node_id, encode(VoteReply(message.term, True, message.pre)))
            if self.core.status.leading:
                return
            self.sent.clear()
        raise AssertionError("does not lead")

    def acknowledge(self, node_id: str, keep: bool = False) -> None:
        """That member has everything sent to it."""
        for to, message in self.sent:
            if to == node_id and isinstance(message, Append):
                match = message.prev_index + len(message.entries)
                self.core.deliver(node_id, encode(AppendAck(message.term, message.seq, True, match, 0)))
        if not keep:
            self.sent.clear()


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    made = asyncio.new_event_loop()
    yield made
    made.close()


def test_entries_are_durable_before_they_are_sent(tmp_path: Path, loop: asyncio.AbstractEventLoop) -> None:
    rig = Rig(tmp_path, "me", "a", "b")
    rig.lead("a")
    rig.run()
    rig.acknowledge("a")
    rig.run()
    rig.disk.tape.clear()
    for n in range(50):
        rig.core.submit(Proposal(loop.create_future(), b"%d" % n))
    rig.run()
    assert rig.disk.tape[:2] == ["write", "sync"]
    assert rig.disk.tape.count("sync") == 1, "one for the whole batch"
    assert "send Append" in rig.disk.tape[2:]
    rig.storage.close()


def test_an_acknowledgement_leaves_after_its_entries_are_durable(tmp_path: Path) -> None:
    rig = Rig(tmp_path, "me", "a", "b")
    rig.core.deliver("a", encode(Append("a:2377", 2, 1, 1, 0, 0, [(2, b"\x00x")])))
    rig.run()
    # Term and vote with their folder's entry first, then the log, then the answer.
    assert rig.disk.tape == ["write", "sync", "write", "sync", "send AppendAck"]
    rig.storage.close()


def test_a_vote_leaves_after_it_is_durable(tmp_path: Path) -> None:
    rig = Rig(tmp_path, "me", "a", "b")
    rig.core.deliver("a", encode(Vote("a:2377", 5, 9, 4, False, False)))
    rig.run()
    assert rig.disk.tape == ["write", "sync", "send VoteReply"]
    rig.storage.close()


def test_a_lone_node_answers_after_its_entry_is_durable(tmp_path: Path, loop: asyncio.AbstractEventLoop) -> None:
    rig = Rig(tmp_path, "me")
    rig.run(1.0)
    rig.run()
    rig.disk.tape.clear()
    rig.core.submit(Proposal(loop.create_future(), b"x"))
    for _ in range(3):
        rig.run()
    assert rig.disk.tape == ["write", "sync", "Committed"]
    rig.storage.close()


def test_nothing_leaves_while_the_disk_is_full(tmp_path: Path, loop: asyncio.AbstractEventLoop) -> None:
    rig = Rig(tmp_path, "me", "a", "b")
    rig.disk.full = True
    rig.core.deliver("a", encode(Append("a:2377", 2, 1, 1, 0, 0, [(2, b"\x00x")])))
    rig.core.step()
    for _ in range(3):
        with pytest.raises(StorageFullError):
            rig.core.finish()
    assert rig.sent == []
    rig.disk.full = False
    rig.core.finish()
    assert rig.sent == [("a", AppendAck(2, 1, True, 2, 0))]
    rig.storage.close()


def test_who_waited_on_a_lost_leadership_is_told_that_the_outcome_is_unknown(
    tmp_path: Path, loop: asyncio.AbstractEventLoop
) -> None:
    rig = Rig(tmp_path, "me", "a", "b")
    rig.lead("a")
    appended, late = Proposal(loop.create_future(), b"x"), Proposal(loop.create_future(), b"y")
    rig.core.submit(appended)
    rig.run()
    rig.core.deliver("b", encode(Append("b:2377", 9, 1, 1, 0, 0, [])))
    rig.core.submit(late)
    rig.run()
    failed = {e.waiter: e.error for e in rig.effects if isinstance(e, fx.Fail)}
    assert isinstance(failed[appended], OutcomeUnknown)
    assert isinstance(failed[late], NotLeader)
    assert failed[late].leader_addr == "b:2377"
    rig.storage.close()


def test_a_caller_who_gave_up_in_time_leaves_no_trace(tmp_path: Path, loop: asyncio.AbstractEventLoop) -> None:
    rig = Rig(tmp_path, "me")
    rig.run(1.0)
    rig.run()
    last = rig.core.status.last_index
    waiter = Proposal(loop.create_future(), b"x")
    rig.core.submit(waiter)
    assert waiter.claim()
    rig.run()
    assert rig.core.status.last_index == last
    rig.storage.close()


def configurations(rig: Rig) -> list[tuple[int, list[str]]]:
    """Membership entries in the log after its start."""
    journal = rig.storage.journal
    found = [e for e in journal[1:] if e[0][:1] == b"\x02"]
    return [(index, [m.node_id for m in decode_members(command)]) for command, index, _ in found]


def change(rig: Rig, loop: asyncio.AbstractEventLoop, node_id: str, add: bool) -> Change:
    waiter = Change(loop.create_future(), Member(node_id, f"{node_id}:2377"), add, rig.now + 60)
    rig.core.submit(waiter)
    return waiter


def test_a_second_change_waits_until_the_first_is_committed(
    tmp_path: Path, loop: asyncio.AbstractEventLoop
) -> None:
    rig = Rig(tmp_path, "me", "a", "b", "c", "d")
    rig.lead_with("a", "b")
    for node_id in ("a", "b"):
        rig.acknowledge(node_id, keep=True)
    rig.sent.clear()
    rig.run()
    change(rig, loop, "c", add=False)
    rig.run()
    assert len(configurations(rig)) == 1
    change(rig, loop, "d", add=False)
    for _ in range(3):
        rig.run(0.01)
    assert configurations(rig) == [(3, ["me", "a", "b", "d"])], "two changes at once could split the majority"
    for node_id in ("a", "b"):
        rig.acknowledge(node_id, keep=True)
    rig.sent.clear()
    for _ in range(3):
        rig.run(0.01)
    assert configurations(rig)[1:] == [(4, ["me", "a", "b"])]
    rig.storage.close()


def test_no_change_before_an_entry_of_the_leaders_own_term_is_committed(
    tmp_path: Path, loop: asyncio.AbstractEventLoop
) -> None:
    rig = Rig(tmp_path, "me", "a", "b")
    rig.lead("a")
    change(rig, loop, "b", add=False)
    for _ in range(3):
        rig.run(0.01)
    assert configurations(rig) == []
    rig.acknowledge("a")
    for _ in range(3):
        rig.run(0.01)
    assert configurations(rig) == [(3, ["me", "a"])]
    rig.storage.close()


def test_a_new_member_does_not_count_before_it_has_the_log(
    tmp_path: Path, loop: asyncio.AbstractEventLoop
) -> None:
    rig = Rig(tmp_path, "me")
    rig.run(1.0)
    for n in range(400):
        rig.core.submit(Proposal(loop.create_future(), b"%d" % n))
    rig.run()
    waiter = change(rig, loop, "new", add=True)
    for _ in range(3):
        rig.run(0.05)
    assert configurations(rig) == []
    assert rig.core.status.members == (Member("me", "me:2377"),)
    # It answers that it has nothing yet, then that it has all.
    heartbeat = next(m for n, m in rig.sent if n == "new" and isinstance(m, Append))
    rig.core.deliver("new", encode(AppendAck(heartbeat.term, heartbeat.seq, False, 0, 2)))
    rig.sent.clear()
    rig.run(0.01)
    assert configurations(rig) == []
    rig.acknowledge("new")
    rig.run(0.01)
    assert [names for _, names in configurations(rig)] == [["me", "new"]]
    assert not any(isinstance(e, fx.Committed) and waiter in e.waiters.values() for e in rig.effects)
    rig.storage.close()


def test_a_leader_does_not_lead_a_membership_without_itself(
    tmp_path: Path, loop: asyncio.AbstractEventLoop
) -> None:
    rig = Rig(tmp_path, "me", "a", "b")
    rig.lead("a")
    rig.acknowledge("a")
    rig.run()
    waiter = change(rig, loop, "me", add=False)
    rig.run()
    assert configurations(rig) == []
    assert [type(e.error) for e in rig.effects if isinstance(e, fx.Fail) and e.waiter is waiter] == [NotLeader]
    rig.storage.close()


def test_a_reader_waits_for_answers_to_later_messages(tmp_path: Path, loop: asyncio.AbstractEventLoop) -> None:
    rig = Rig(tmp_path, "me", "a", "b")
    rig.lead("a")
    rig.run()
    early = [m for n, m in rig.sent if n == "a" and isinstance(m, Append)]
    rig.sent.clear()
    barrier = Barrier(loop.create_future())
    rig.core.submit(barrier)
    rig.run()
    for message in early:
        match = message.prev_index + len(message.entries)
        rig.core.deliver("a", encode(AppendAck(message.term, message.seq, True, match, 0)))
    rig.run()
    assert not any(isinstance(e, fx.Readable) for e in rig.effects), (
        "answers to what was sent before prove nothing"
    )
    rig.acknowledge("a")
    rig.run()
    assert [e.index for e in rig.effects if isinstance(e, fx.Readable)] == [2]
    rig.storage.close()


def test_what_was_not_made_durable_is_not_answered_when_the_node_stops(
    tmp_path: Path, loop: asyncio.AbstractEventLoop
) -> None:
    rig = Rig(tmp_path, "me")
    rig.run(1.0)
    rig.run()
    rig.effects.clear()
    waiter = Proposal(loop.create_future(), b"x")
    rig.core.submit(waiter)
    rig.disk.full = True
    rig.core.step()
    with pytest.raises(StorageFullError):
        rig.core.finish()
    rig.core.abandon()
    assert not any(isinstance(e, fx.Committed) for e in rig.effects)
    assert [type(e.error) for e in rig.effects if isinstance(e, fx.Fail) and e.waiter is waiter] == [
        OutcomeUnknown
    ]
    rig.storage.close()
