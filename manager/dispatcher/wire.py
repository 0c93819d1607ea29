"""Objects in the dispatcher's messages. What comes from an agent is bounded and checked before it is believed."""

import msgspec

from pyswarm.common.errors import InvalidArgument
from pyswarm.common.types import NodeDescription, TaskState, TaskStatus
from pyswarm.manager.dispatcher.assignments import Change
from pyswarm.proto.v1 import dispatcher_pb2 as pb

MAX_DESCRIPTION_BYTES = 64 * 1024


def decode_description(data: bytes) -> NodeDescription:
    """Raises InvalidArgument when it is none, or larger than any host's could be."""
    if len(data) > MAX_DESCRIPTION_BYTES:
        raise InvalidArgument("the node's description is too large")
    try:
        return msgspec.msgpack.decode(data, type=NodeDescription)
    except msgspec.DecodeError as exc:
        raise InvalidArgument(f"the node's description cannot be read: {exc}") from exc


def decode_status(data: bytes) -> TaskStatus:
    """Raises InvalidArgument when it is none, or one only managers may set."""
    try:
        status = msgspec.msgpack.decode(data, type=TaskStatus)
    except msgspec.DecodeError as exc:
        raise InvalidArgument(f"the status cannot be read: {exc}") from exc
    if not TaskState.ASSIGNED.rank <= status.state.rank < TaskState.REMOVE.rank:
        raise InvalidArgument(f"an agent cannot observe the state {status.state.value}")
    return status


def encode_change(change: Change) -> pb.AssignmentChange:
    """One line of an assignments message."""
    if change.new is None:
        return pb.AssignmentChange(action=pb.AssignmentChange.REMOVE, kind=change.kind, id=change.id)
    return pb.AssignmentChange(
        action=pb.AssignmentChange.UPDATE,
        kind=change.kind,
        id=change.id,
        object=msgspec.msgpack.encode(change.new),
    )
