"""Messages: what goes out comes in, anything else is refused, nothing is unpickled."""

import contextlib
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyswarm.common.errors import InvalidArgument
from pyswarm.common.tls import MAX_REQUEST_BYTES
from pyswarm.manager.raft import Member, RaftConfig
from pyswarm.manager.raft.entries import decode_members, encode_members
from pyswarm.manager.raft.messages import (
    Append,
    AppendAck,
    Message,
    SnapshotAck,
    SnapshotChunk,
    TimeoutNow,
    Vote,
    VoteReply,
    decode,
    encode,
)
from pyswarm.manager.state.transaction import MAX_RECORD_BYTES

MESSAGES: list[Message] = [
    Append("a:2377", 3, 9, 4, 2, 3, [(3, b"\x00command"), (3, b"\x01")]),
    AppendAck(3, 9, True, 6, 0),
    Vote("a:2377", 4, 6, 3, True, False),
    VoteReply(4, True, True),
    SnapshotChunk("a:2377", 3, 100, 2, 5000, 256, b"piece"),
    SnapshotAck(3, 100, 512, False),
    TimeoutNow("a:2377", 3),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda m: type(m).__name__)
def test_round_trip(message: Message) -> None:
    assert decode(encode(message)) == message


@pytest.mark.parametrize("message", MESSAGES, ids=lambda m: type(m).__name__)
def test_every_truncation_is_refused(message: Message) -> None:
    payload = encode(message)
    for size in range(len(payload)):
        with pytest.raises(InvalidArgument):
            decode(payload[:size])


@given(st.binary(max_size=200))
def test_noise_is_refused_or_decoded_never_anything_else(noise: bytes) -> None:
    with contextlib.suppress(InvalidArgument):
        decode(b"\x01" + noise)


def test_a_pickle_is_refused() -> None:
    class Boom:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            raise AssertionError("unpickled")

    for payload in (pickle.dumps({"type": "append_entries"}), b"\x01" + pickle.dumps([1, 2])):
        with pytest.raises(InvalidArgument):
            decode(payload)


def test_membership_entries_carry_the_whole_list() -> None:
    members = (Member("a", "10.0.0.1:2377"), Member("b", "10.0.0.2:2377"))
    assert decode_members(encode_members(members)) == members


def test_every_message_fits_into_what_a_manager_takes() -> None:
    config = RaftConfig(data_dir="", node_id="n", addr="192.0.2.1:2377")
    largest = Append(config.addr, 2**63, 2**63, 2**63, 2**63, 2**63, [(2**63, bytes(config.max_command_bytes))])
    assert len(encode(largest)) < MAX_REQUEST_BYTES * 3 // 4
    # A batch of several entries, and a piece of a snapshot, are bounded by themselves.
    assert config.append_batch_bytes < MAX_REQUEST_BYTES // 2
    assert config.snapshot_chunk_bytes < MAX_REQUEST_BYTES // 2
    assert config.max_command_bytes >= MAX_RECORD_BYTES
