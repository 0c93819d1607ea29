"""The guards around PySyncObj, one message at a time, on a clock of the test's own."""

import pickle
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from structlog.testing import capture_logs

from pyswarm.manager.raft import Member, RaftConfig, RaftInvariantError, RaftStorageError
from pyswarm.manager.raft.disk import Disk
from pyswarm.manager.raft.engine import Engine
from pyswarm.manager.raft.entries import MEMBERSHIP, NO_OP, REGULAR, Snapshot, encode_members
from pyswarm.manager.raft.messages import (
    Append,
    AppendAck,
    Known,
    Marks,
    Message,
    Recall,
    Recalled,
    SnapshotAck,
    SnapshotChunk,
    TimeoutNow,
    Vote,
    VoteReply,
)
from pyswarm.manager.raft.snapshots import encode_snapshot
from pyswarm.manager.raft.stock import CANDIDATE, FOLLOWER, LEADER
from pyswarm.manager.raft.storage import open_storage


def members(*names: str) -> tuple[Member, ...]:
    return tuple(Member(n, f"{n}:2377") for n in names)


class Bench:
    """One engine, named ``me``, with its outbox and clock."""

    def __init__(self, folder: Path, *names: str) -> None:
        self.now = 1000.0
        self.sent: list[tuple[str, Message]] = []
        config = RaftConfig(str(folder), "me", "me:2377", heartbeat_s=0.1, append_batch_bytes=200)
        self.storage = open_storage(config, members(*names), Disk())
        self.journal = self.storage.journal
        self.engine = Engine(
            config,
            self.storage,
            lambda node_id, message: self.sent.append((node_id, message)),
            lambda: self.now,
        )

    def tick(self, after_s: float = 0.0) -> None:
        """Let time pass in small steps, as the driver does."""
        end = self.now + after_s
        while self.now + 0.05 < end:
            self.now += 0.05
            self.engine.tick(self.now)
        self.now = end
        self.engine.tick(self.now)

    def take(self, kind: type, to: str | None = None) -> list[Message]:
        """What was sent of that kind since the last call."""
        found = [m for n, m in self.sent if isinstance(m, kind) and (to is None or n == to)]
        self.sent = [(n, m) for n, m in self.sent if not (isinstance(m, kind) and (to is None or n == to))]
        return found

    def receive(self, sender: str, message: Message) -> None:
        self.engine.receive(sender, message)

    def campaign(self) -> None:
        """Wait until this node asks for votes; everybody agrees in the pre-vote."""
        for _ in range(40):
            self.tick(0.1)
            for node_id, message in list(self.sent):
                if isinstance(message, Vote) and message.pre:
                    self.receive(node_id, VoteReply(message.term, True, True))
            self.take(Vote)
            self.tick()
            if self.engine.state == CANDIDATE:
                return
        raise AssertionError("never campaigned")

    def lead(self, *voters: str) -> None:
        """Win an election."""
        self.campaign()
        for voter in voters:
            self.receive(voter, VoteReply(self.engine.term, True, False))
        assert self.engine.state == LEADER

    def acknowledge(self, node_id: str) -> None:
        """That member has everything sent to it."""
        for message in self.take(Append, node_id):
            assert isinstance(message, Append)
            match = message.prev_index + len(message.entries)
            self.receive(node_id, AppendAck(message.term, message.seq, True, match, 0))


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    """Makes engines and closes their files."""
    made: list[Bench] = []

    def make(*names: str) -> Bench:
        made.append(Bench(tmp_path / str(len(made)), *names))
        return made[-1]

    yield make
    for one in made:
        one.storage.close()


Maker = Callable[..., Bench]


def entries(term: int, count: int) -> list[tuple[int, bytes]]:
    return [(term, REGULAR + b"%d" % n) for n in range(count)]


def append(
    term: int, prev: int, prev_term: int, new: list[tuple[int, bytes]], commit: int = 0, seq: int = 1
) -> Append:
    return Append("a:2377", term, seq, prev, prev_term, commit, new)


def confirm(engine: Engine, sent: list[Message], by: str, now: float, term: int = 0, index: int = 0) -> None:
    """A restarted node asks what is known of it, and one member answers."""
    engine.tick(now)
    question = next(m for m in sent if isinstance(m, Recall))
    sent.clear()
    engine.receive(by, Recalled(term, question.run, term, index))


# -- following -------------------------------------------------------------------------------------------------


def test_a_replayed_append_truncates_nothing_and_commits_nothing_new(bench: Maker) -> None:
    b = bench("me", "a", "b")
    b.receive("a", append(3, 1, 0, entries(3, 6), commit=6))
    b.tick()
    assert (b.journal.last_index, b.engine.commit_index) == (7, 6)
    b.take(AppendAck)
    b.receive("a", append(3, 1, 0, entries(3, 2), commit=3, seq=2))  # late, shorter
    assert (b.journal.last_index, b.engine.commit_index) == (7, 6)
    assert b.take(AppendAck) == [AppendAck(3, 2, True, 3, 0)]
    b.receive("a", append(3, 3, 3, [], commit=7, seq=3))  # a heartbeat that proves only entry 3
    assert (b.journal.last_index, b.engine.commit_index) == (7, 6)
    assert b.take(AppendAck) == [AppendAck(3, 3, True, 3, 0)]


def test_a_heartbeat_does_not_commit_a_tail_it_does_not_prove(bench: Maker) -> None:
    b = bench("me", "a", "b")
    b.receive("a", append(2, 1, 0, entries(2, 5)))
    b.receive("b", append(3, 3, 2, [], commit=6))  # the new leader has other entries after 3
    assert b.engine.commit_index == 3
    b.receive("b", append(3, 3, 2, entries(3, 1), commit=4))
    assert (b.journal.last_index, b.journal.last_term, b.engine.commit_index) == (4, 3, 4)


def test_only_a_conflict_truncates_and_never_below_the_commit(bench: Maker) -> None:
    b = bench("me", "a", "b")
    b.receive("a", append(2, 1, 0, entries(2, 5), commit=4))
    b.receive("b", append(3, 2, 2, [*entries(2, 2), (3, NO_OP)], commit=4))
    assert [b.journal.term_at(i) for i in range(2, b.journal.last_index + 1)] == [2, 2, 2, 3]
    with pytest.raises(RaftInvariantError, match="diverged"):
        b.receive("c", append(4, 2, 2, [(4, NO_OP)]))


def test_rejections_name_where_to_go_on(bench: Maker) -> None:
    b = bench("me", "a", "b")
    b.receive("a", append(2, 1, 0, entries(2, 3)))
    b.take(AppendAck)
    b.receive("a", append(2, 40, 2, [], seq=2))
    assert b.take(AppendAck) == [AppendAck(2, 2, False, 4, 5)]
    b.receive("b", append(5, 4, 4, [], seq=3))  # the whole term 2 is passed over at once
    assert b.take(AppendAck) == [AppendAck(5, 3, False, 4, 2)]
    assert b.journal.last_index == 4


def test_a_leader_of_an_old_term_is_told_and_not_followed(bench: Maker) -> None:
    b = bench("me", "a", "b")
    b.receive("a", append(5, 1, 0, entries(5, 1)))
    b.take(AppendAck)
    b.receive("b", append(4, 1, 0, entries(4, 3), seq=8))
    # Without the message's number: in this term it may have been given to another one, and prove its arrival.
    assert b.take(AppendAck) == [AppendAck(5, 0, False, 0, 0)]
    assert (b.journal.last_term, b.engine.leader_id) == (5, "a")
    b.receive("b", SnapshotChunk("b:2377", 4, 100, 4, 10, 0, b"x" * 10))
    assert b.take(SnapshotAck) == []


def test_membership_counts_when_it_is_in_the_log_and_goes_when_it_is_truncated(bench: Maker) -> None:
    b = bench("me", "a", "b")
    more = encode_members(members("me", "a", "b", "c"))
    b.receive("a", append(2, 1, 0, [(2, NO_OP), (2, more)]))
    assert [m.node_id for m in b.engine.members] == ["me", "a", "b", "c"]
    b.receive("b", append(3, 2, 2, [(3, NO_OP)]))
    assert [m.node_id for m in b.engine.members] == ["me", "a", "b"]
    assert b.engine.take_departed() == ["c"]


def test_a_pickled_membership_entry_is_never_loaded(bench: Maker) -> None:
    b = bench("me", "a", "b")
    evil = MEMBERSHIP + b"\x80\x04cos\nsystem\n(S'true'\ntR."
    with pytest.raises(msgspec.DecodeError):
        b.receive("a", append(2, 1, 0, [(2, evil)]))
    assert b.engine._SyncObj__parseChangeClusterRequest(MEMBERSHIP + pickle.dumps("loaded")) is None


# -- snapshots -------------------------------------------------------------------------------------------------


def chunks(snapshot: Snapshot, term: int, data: bytes = b"state") -> list[SnapshotChunk]:
    content = encode_snapshot(snapshot, data)
    return [
        SnapshotChunk("a:2377", term, snapshot.index, snapshot.term, len(content), at, content[at : at + 16])
        for at in range(0, len(content), 16)
    ]


def test_snapshot_pieces_commit_nothing_until_all_are_verified(bench: Maker) -> None:
    b = bench("me", "a", "b")
    b.receive("a", append(2, 1, 0, entries(2, 5)))  # a dead tail
    pieces = chunks(Snapshot(4, 3, members("me", "a", "b")), term=4)
    for piece in pieces[:-1]:
        b.receive("a", piece)
        b.tick()
        assert b.engine.commit_index == 1
        assert b.engine.take_committed() == []
    b.receive("a", pieces[-1])
    assert (b.engine.commit_index, b.journal.base_index, b.journal.last_index) == (4, 4, 4)
    assert [s.index for s, _ in b.engine.take_installed()] == [4]
    assert b.take(SnapshotAck)[-1] == SnapshotAck(4, 4, pieces[0].size, True)


def test_an_old_snapshot_never_replaces_newer_state(bench: Maker) -> None:
    b = bench("me", "a", "b")
    b.receive("a", append(2, 1, 0, entries(2, 9), commit=9))
    b.tick()
    for piece in chunks(Snapshot(5, 2, members("me", "a")), term=2):
        b.receive("a", piece)
    assert (b.engine.commit_index, b.journal.last_index) == (9, 10)
    assert b.engine.take_installed() == []
    assert b.engine.members == members("me", "a", "b")


def test_a_damaged_snapshot_is_asked_for_again(bench: Maker) -> None:
    b = bench("me", "a", "b")
    pieces = chunks(Snapshot(50, 3, members("me", "a", "b")), term=4)
    broken = SnapshotChunk("a:2377", 4, 50, 3, pieces[-1].size, pieces[-1].offset, b"\0" * len(pieces[-1].data))
    for piece in [*pieces[:-1], broken]:
        b.receive("a", piece)
    assert b.take(SnapshotAck)[-1] == SnapshotAck(4, 50, 0, False)
    assert b.engine.commit_index == 1
    for piece in pieces:
        b.receive("a", piece)
    assert b.engine.commit_index == 50


# -- voting ----------------------------------------------------------------------------------------------------


def test_a_repeated_vote_counts_once(bench: Maker) -> None:
    b = bench("me", "a", "b", "c", "d")
    b.campaign()
    for _ in range(5):
        b.receive("a", VoteReply(b.engine.term, True, False))
    assert b.engine.state == CANDIDATE
    b.receive("b", VoteReply(b.engine.term, True, False))
    assert b.engine.state == LEADER


def test_votes_of_strangers_and_of_other_terms_do_not_count(bench: Maker) -> None:
    b = bench("me", "a", "b")
    b.campaign()
    b.receive("stranger", VoteReply(b.engine.term, True, False))
    b.receive("a", VoteReply(b.engine.term - 1, True, False))
    assert b.engine.state == CANDIDATE


def test_no_term_is_raised_without_a_majority_in_the_pre_vote(bench: Maker) -> None:
    b = bench("me", "a", "b")
    for _ in range(100):
        b.tick(0.1)
    assert (b.engine.term, b.engine.state) == (0, FOLLOWER)
    assert len(b.take(Vote)) >= 10
    b.receive("stranger", VoteReply(1, True, True))
    b.tick()
    assert b.engine.term == 0


def test_a_candidate_is_not_followed_while_the_leader_is_heard(bench: Maker) -> None:
    b = bench("me", "a", "b")
    b.receive("a", append(2, 1, 0, entries(2, 1)))
    for pre in (True, False):
        b.receive("b", Vote("b:2377", 9, 99, 9, pre, False))
    assert (b.engine.term, b.engine.leader_id) == (2, "a")
    assert b.take(VoteReply) == [VoteReply(2, False, True)]
    b.tick(2.0)
    b.take(Vote)
    b.receive("b", Vote("b:2377", 9, 99, 9, True, False))
    b.receive("b", Vote("b:2377", 9, 99, 9, False, False))
    assert b.take(VoteReply) == [VoteReply(9, True, True), VoteReply(9, True, False)]


def test_a_leader_is_not_deposed_by_a_node_that_was_cut_off(bench: Maker) -> None:
    b = bench("me", "a", "b")
    b.lead("a")
    term = b.engine.term
    b.receive("b", Vote("b:2377", term + 5, 99, 99, False, False))
    assert (b.engine.state, b.engine.term) == (LEADER, term)


def test_one_vote_per_term_also_after_a_restart(bench: Maker, tmp_path: Path) -> None:
    b = bench("me", "a", "b")
    b.receive("a", Vote("a:2377", 4, 1, 0, False, False))
    assert b.take(VoteReply) == [VoteReply(4, True, False)]
    b.journal.sync()
    b.storage.close()
    again = open_storage(b.engine.config, None, Disk())
    sent: list[Message] = []
    engine = Engine(b.engine.config, again, lambda _n, m: sent.append(m), lambda: b.now)
    b.storage = again
    confirm(engine, sent, "a", b.now)
    b.now += 0.5
    confirm(engine, sent, "b", b.now)
    engine.receive("b", Vote("b:2377", 4, 99, 9, False, False))
    assert sent == []
    assert engine.term == 4
    engine.receive("b", Vote("b:2377", 5, 99, 9, False, False))
    assert sent == [VoteReply(5, True, False)]


def test_a_worse_log_gets_no_vote(bench: Maker) -> None:
    b = bench("me", "a", "b")
    b.receive("a", append(3, 1, 0, entries(3, 4)))
    b.tick(2.0)
    b.sent.clear()
    b.receive("b", Vote("b:2377", 9, 4, 3, True, False))
    b.receive("b", Vote("b:2377", 9, 50, 2, False, False))
    assert [m for m in b.take(VoteReply) if isinstance(m, VoteReply) and m.granted] == []


def test_who_is_no_member_never_campaigns(bench: Maker) -> None:
    b = bench("a", "b")
    for _ in range(50):
        b.tick(0.1)
    assert b.sent == []
    assert b.engine.term == 0


# -- leading ---------------------------------------------------------------------------------------------------


def test_commit_needs_a_majority_of_this_terms_entries(bench: Maker) -> None:
    b = bench("me", "a", "b", "c", "d")
    b.receive("a", append(1, 1, 0, entries(1, 3)))
    b.lead("a", "b")
    for node_id in ("a", "b"):
        b.receive(node_id, AppendAck(b.engine.term, 1, True, 4, 0))
    b.tick()
    assert b.engine.commit_index == 1, "an entry of an older term is not committed by counting"
    b.acknowledge("a")
    b.acknowledge("b")
    b.tick()
    assert b.engine.commit_index == 5


def test_acknowledgements_of_another_term_are_ignored(bench: Maker) -> None:
    b = bench("me", "a", "b")
    b.lead("a")
    b.engine.append(REGULAR + b"x")
    b.tick()
    b.receive("a", AppendAck(b.engine.term - 1, 1, True, 3, 0))
    b.tick()
    assert b.engine.commit_index == 1
    assert b.engine.match_of("a") == 0


def test_a_newer_term_in_an_acknowledgement_ends_the_leadership(bench: Maker) -> None:
    b = bench("me", "a", "b")
    b.lead("a")
    b.receive("a", AppendAck(b.engine.term + 3, 1, False, 0, 0))
    assert (b.engine.state, b.engine.term, b.engine.leader_id) == (FOLLOWER, 4, None)


def test_acknowledgements_are_clamped_and_need_a_message(bench: Maker) -> None:
    b = bench("me", "a", "b")
    b.lead("a")
    b.tick()
    b.receive("a", AppendAck(b.engine.term, 10_000, True, 2, 0))
    assert b.engine.match_of("a") == 0, "answers a message never sent"
    b.receive("a", AppendAck(b.engine.term, 1, True, 10_000, 0))
    assert b.engine.match_of("a") == b.journal.last_index
    b.receive("stranger", AppendAck(b.engine.term, 1, True, 2, 0))


def test_a_leader_without_answers_steps_down(bench: Maker) -> None:
    b = bench("me", "a", "b")
    b.lead("a")
    b.tick(0.1)
    b.acknowledge("a")
    b.tick(1.0)
    assert b.engine.state == LEADER
    b.tick(0.4)
    assert b.engine.state == FOLLOWER
    assert b.engine.leader_id is None


def test_late_rejections_do_not_undo_the_first(bench: Maker) -> None:
    b = bench("me", "a", "b")
    b.receive("b", append(1, 1, 0, [(1, REGULAR + b"x" * 150) for _ in range(12)]))
    b.lead("b")
    b.take(Append)
    b.tick(0.2)
    term = b.engine.term
    heartbeat = b.take(Append, "a")[-1]
    assert isinstance(heartbeat, Append)
    b.receive("a", AppendAck(term, heartbeat.seq, False, 0, 4))
    b.tick()
    (probe,) = b.take(Append, "a")
    assert isinstance(probe, Append)
    assert probe.prev_index == 3
    # Two more rejections of messages sent before, with higher hints; they change nothing.
    b.receive("a", AppendAck(term, heartbeat.seq, False, 0, 9))
    b.receive("a", AppendAck(term, heartbeat.seq - 1, False, 0, 12))
    b.receive("a", AppendAck(term, probe.seq, True, 3 + len(probe.entries), 0))
    b.tick()
    following = [m for m in b.take(Append, "a") if isinstance(m, Append)]
    assert following[0].prev_index == 3 + len(probe.entries)
    assert len(following) > 1, "after a success the window opens"


def test_an_overtaken_message_is_not_taken_for_a_loss(bench: Maker) -> None:
    b = bench("me", "a", "b")
    b.lead("a")
    b.acknowledge("a")
    with capture_logs() as logs:
        b.engine.append(REGULAR + b"x")
        b.tick()
        b.engine.append(REGULAR + b"y")
        b.tick()
        first, second = b.take(Append, "a")[-2:]
        assert isinstance(first, Append)
        assert isinstance(second, Append)
        b.receive("a", AppendAck(b.engine.term, first.seq, True, 3, 0))
        b.receive("a", AppendAck(b.engine.term, second.seq, False, 0, 3))
        assert logs == [], "the second message came first"
        b.tick(0.2)
        later = b.take(Append, "a")[-1]
        assert isinstance(later, Append)
        b.receive("a", AppendAck(b.engine.term, later.seq, False, 3, 2))
        assert logs == [], "a restarted member goes back further than it has to; it still has the entry"
        b.tick(0.2)
        later = b.take(Append, "a")[-1]
        assert isinstance(later, Append)
        b.receive("a", AppendAck(b.engine.term, later.seq, False, 2, 3))
    assert [entry["event"] for entry in logs] == ["member lost entries it had acknowledged"]


def test_an_answer_of_another_leadership_is_no_rejection(bench: Maker) -> None:
    b = bench("me", "a", "b")
    b.receive("b", append(1, 1, 0, entries(1, 5)))
    b.lead("b")
    mark = b.engine.mark()
    b.tick(0.2)
    b.take(Append)
    b.receive("a", AppendAck(b.engine.term, 0, False, 0, 0))
    assert not b.engine.answered_since("a", mark)
    b.tick(0.2)
    heartbeat = b.take(Append, "a")[-1]
    assert isinstance(heartbeat, Append)
    assert heartbeat.prev_index == b.journal.last_index, "it does not begin again at the very start"


def test_a_read_needs_answers_to_messages_sent_after_it(bench: Maker) -> None:
    b = bench("me", "a", "b")
    b.lead("a")
    b.tick()
    early = b.take(Append)
    mark = b.engine.mark()
    for message in early:
        assert isinstance(message, Append)
        b.receive("a", AppendAck(b.engine.term, message.seq, True, 2, 0))
    assert not b.engine.quorum_since(mark)
    b.engine.send_soon(beat=True)
    b.tick()
    b.acknowledge("a")
    assert b.engine.quorum_since(mark)


def test_a_learner_is_fed_but_never_counted(bench: Maker) -> None:
    b = bench("me", "a", "b")
    b.lead("a")
    b.engine.add_learner("new")
    b.tick()
    assert b.take(Append, "new")
    b.receive("new", AppendAck(b.engine.term, b.engine.mark(), True, b.journal.last_index, 0))
    b.tick()
    assert b.engine.commit_index == 1
    assert not b.engine.quorum_since(0)


def test_a_hand_over_starts_an_election_at_once_and_only_on_the_leaders_word(bench: Maker) -> None:
    b = bench("me", "a", "b")
    b.receive("a", append(2, 1, 0, entries(2, 1)))
    b.receive("b", TimeoutNow("b:2377", 2))
    b.tick()
    assert b.engine.state == FOLLOWER
    b.receive("a", TimeoutNow("a:2377", 2))
    b.tick()
    assert (b.engine.state, b.engine.term) == (CANDIDATE, 3)
    votes = b.take(Vote)
    assert all(isinstance(v, Vote) and v.transfer and not v.pre for v in votes)


def test_a_long_pause_of_the_process_is_not_taken_for_a_silent_leader(bench: Maker) -> None:
    b = bench("me", "a", "b")
    b.receive("a", append(2, 1, 0, entries(2, 1)))
    b.now += 30.0
    b.engine.tick(b.now)
    assert b.take(Vote) == []


def test_replacing_members_forgets_what_they_had(bench: Maker) -> None:
    b = bench("me", "a", "b")
    b.lead("a")
    b.tick()
    b.acknowledge("b")
    assert b.engine.match_of("b") == 2
    b.engine.append(encode_members(members("me", "a")))
    b.engine.adopt_membership()
    assert b.engine.match_of("b") == 0
    b.receive("b", AppendAck(b.engine.term, 1, True, 3, 0))
    b.tick()
    assert b.engine.commit_index == 1


# -- a disk that was put back to an earlier state ----------------------------------------------------------------


def restarted(b: Bench) -> tuple[Engine, list[Message]]:
    """The same node in a new process."""
    b.journal.sync()
    b.storage.close()
    b.storage = open_storage(b.engine.config, None, Disk())
    b.journal = b.storage.journal
    sent: list[Message] = []
    return Engine(b.engine.config, b.storage, lambda _n, m: sent.append(m), lambda: b.now), sent


def test_a_restarted_node_does_not_vote_before_the_others_said_what_it_had(bench: Maker) -> None:
    b = bench("me", "a", "b", "c", "d")
    engine, sent = restarted(b)
    engine.receive("a", Vote("a:2377", 3, 9, 2, True, False))
    engine.receive("a", Vote("a:2377", 3, 9, 2, False, False))
    assert sent == [VoteReply(0, False, True)]
    assert engine.term == 0
    confirm(engine, sent, "a", b.now)
    b.now += 1
    engine.tick(b.now)
    sent.clear()
    engine.receive("a", Vote("a:2377", 3, 9, 2, False, False))
    assert sent == [], "one of four others is no majority"
    confirm(engine, sent, "b", b.now + 1)
    engine.receive("a", Vote("a:2377", 3, 9, 2, False, False))
    assert sent == [VoteReply(3, True, False)]


def test_a_restarted_node_waits_a_moment_for_all_others(bench: Maker) -> None:
    b = bench("me", "a", "b")
    engine, sent = restarted(b)
    confirm(engine, sent, "a", b.now)
    engine.receive("a", Vote("a:2377", 3, 9, 2, False, False))
    assert sent == []
    b.now += 0.3
    confirm(engine, sent, "b", b.now)
    engine.receive("a", Vote("a:2377", 3, 9, 2, False, False))
    assert sent == [VoteReply(3, True, False)], "all have answered"


def test_a_restarted_node_does_not_campaign_before_the_others_said_what_it_had(bench: Maker) -> None:
    b = bench("me", "a", "b")
    engine, sent = restarted(b)
    for _ in range(60):
        b.now += 0.05
        engine.tick(b.now)
    assert not [m for m in sent if isinstance(m, Vote)]
    assert len([m for m in sent if isinstance(m, Recall)]) > 4, "it keeps asking"
    b.now += 1
    confirm(engine, sent, "b", b.now)
    for _ in range(60):
        b.now += 0.05
        engine.tick(b.now)
    assert [m for m in sent if isinstance(m, Vote)]


def test_answers_to_an_earlier_process_do_not_count(bench: Maker) -> None:
    b = bench("me", "a", "b")
    engine, sent = restarted(b)
    engine.tick(b.now)
    question = next(m for m in sent if isinstance(m, Recall))
    engine.receive("a", Recalled(0, question.run + 1, 0, 0))
    engine.receive("a", Vote("a:2377", 3, 9, 2, False, False))
    assert engine.term == 0


@pytest.mark.parametrize(
    ("term", "index", "what"),
    [(1, 9, "it ends at entry 4, and this manager had acknowledged 9"), (7, 3, "it is at term 1, and .* term 7")],
)
def test_a_disk_that_was_put_back_stops_the_node(bench: Maker, term: int, index: int, what: str) -> None:
    b = bench("me", "a", "b")
    b.receive("a", append(1, 1, 0, entries(1, 3)))
    engine, sent = restarted(b)
    with pytest.raises(RaftStorageError, match=f"put back to an earlier state: {what}.*known by b"):
        confirm(engine, sent, "b", b.now, term, index)


def test_members_note_what_others_had_and_tell_it(bench: Maker) -> None:
    b = bench("me", "a", "b")
    b.receive("a", Recall("a:2377", 0, 77, "disk-1"))
    assert b.take(Recalled) == [Recalled(0, 77, 0, 0)]
    b.receive("b", Recall("b:2377", 0, 78, "disk-2"))
    b.lead("a")
    term = b.engine.term
    index, _ = b.engine.append(REGULAR + b"x")
    for _ in range(3):
        b.tick(0.2)
        b.acknowledge("a")
    b.receive("a", Recall("a:2377", 0, 79, "disk-1"))
    assert b.take(Recalled)[-1] == Recalled(term, 79, term, index)
    b.receive("a", Recall("a:2377", 0, 80, "another disk"))
    assert b.take(Recalled) == [Recalled(term, 80, 0, 0)], "a new folder has nothing to remember"
    b.tick(1.5)
    told = [m for m in b.take(Marks, "b") if isinstance(m, Marks)]
    assert Known("a", "disk-1", term, index) in told[-1].known


def test_what_the_leader_knows_is_remembered_across_a_restart(bench: Maker) -> None:
    b = bench("me", "a", "b")
    b.receive("b", Recall("b:2377", 0, 1, "disk-2"))
    b.receive("a", append(3, 1, 0, []))
    b.receive("b", Marks("b:2377", 3, [Known("b", "disk-2", 9, 99)]))
    b.receive("a", Marks("a:2377", 3, [Known("b", "disk-2", 3, 14), Known("me", "disk-0", 3, 99)]))
    b.storage.witness.save(b.now + 20)
    engine, sent = restarted(b)
    engine.receive("b", Recall("b:2377", 0, 2, "disk-2"))
    assert sent == [Recalled(3, 2, 3, 14)], "from the leader only, and not of oneself"


def test_an_uncommitted_removal_forgets_nothing(bench: Maker) -> None:
    b = bench("me", "a", "b")
    b.receive("b", Recall("b:2377", 0, 1, "disk-2"))
    b.receive("a", append(3, 1, 0, []))
    b.receive("a", Marks("a:2377", 3, [Known("b", "disk-2", 3, 14)]))
    b.receive("a", append(3, 1, 0, [(3, encode_members(members("me", "a")))]))
    b.receive("c", append(4, 1, 0, [(4, NO_OP)]))
    assert [m.node_id for m in b.engine.members] == ["me", "a", "b"]
    b.take(Recalled)
    b.receive("b", Recall("b:2377", 0, 2, "disk-2"))
    assert b.take(Recalled) == [Recalled(4, 2, 3, 14)]


def test_what_only_may_be_replaced_is_not_noted(bench: Maker) -> None:
    b = bench("me", "a", "b", "c", "d")
    b.receive("a", Recall("a:2377", 0, 1, "disk-1"))
    b.lead("a", "b")
    b.engine.append(REGULAR + b"x")
    for _ in range(3):
        b.tick(0.2)
        b.acknowledge("a")
    assert b.engine.match_of("a") == 3
    b.take(Recalled)
    b.receive("a", Recall("a:2377", 0, 2, "disk-1"))
    assert b.take(Recalled) == [Recalled(b.engine.term, 2, b.engine.term, 1)], "two of five have it: not committed"


def test_an_answer_to_an_earlier_membership_does_not_count(bench: Maker) -> None:
    b = bench("me", "a", "b")
    b.lead("a")
    for _ in range(3):
        b.tick(0.2)
        b.acknowledge("a")
    (old, *_) = b.take(Append, "b")
    assert isinstance(old, Append)
    b.engine.append(encode_members(members("me", "a")))
    b.engine.adopt_membership()
    b.tick(0.2)
    b.engine.add_learner("b")
    b.receive("b", AppendAck(b.engine.term, old.seq, True, 2, 0))
    assert b.engine.match_of("b") == 0
