"""Objects in the dispatcher's messages. What comes from an agent is bounded and checked before it is believed."""

import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import msgspec
from msgspec.structs import replace

from pyswarm.common.errors import InvalidArgument
from pyswarm.common.text import is_hostname, one_line
from pyswarm.common.types import (
    ContainerStatus,
    NodeDescription,
    Object,
    Platform,
    PortConfig,
    TaskState,
    TaskStatus,
)
from pyswarm.manager.dispatcher.assignments import Change
from pyswarm.proto.v1 import dispatcher_pb2 as pb

MAX_DESCRIPTION_BYTES = 64 * 1024
#: Above what the texts below can take up, whatever their characters.
MAX_STATUS_BYTES = 64 * 1024
#: An agent's texts are for people; a worker cannot fill the store with them.
MAX_TEXT_CHARS = 1024
MAX_WORD_CHARS = 128
MAX_LABELS = 256
MAX_LABEL_CHARS = 1024
#: A message of assignments is closed above this. The largest object, a config, is smaller; agents take far more.
MAX_MESSAGE_BYTES = 2 * 1024 * 1024
#: Beside the object: kind, id, and the message's own fields.
_CHANGE_OVERHEAD_BYTES = 64
#: Of more than so many an agent leaves out the highest; more do not fit into a description.
MAX_LISTENING = 4096
MAX_PORT_STATUS = 1024
MAX_PORT = 65_535
#: Clocks of hosts differ a little, and a node may have been on its own for months; the rest is a wrong clock.
MAX_AHEAD = timedelta(minutes=1)
MAX_BEHIND = timedelta(days=366)
_LISTENING = re.compile(r"(tcp|udp)/([1-9][0-9]{0,4})", re.ASCII)
_CONTAINER_ID = re.compile(r"[A-Za-z0-9_.-]{0,128}")
_MAX_INT32 = 2**32

T = TypeVar("T", bound=Object)


def _decode(data: bytes, kind: type[T], what: str, max_bytes: int) -> T:
    if len(data) > max_bytes:
        raise InvalidArgument(f"{what} is too large: {len(data)} bytes, at most {max_bytes} are allowed")
    try:
        return msgspec.msgpack.decode(data, type=kind)
    except (ValueError, OverflowError, RecursionError) as exc:
        raise InvalidArgument(f"{what} cannot be read: {one_line(str(exc), 200)}") from exc


def decode_description(data: bytes) -> NodeDescription:
    """Raises InvalidArgument when it is none, or not one of a host."""
    given = _decode(data, NodeDescription, "the node's description", MAX_DESCRIPTION_BYTES)
    if not is_hostname(given.hostname):
        raise InvalidArgument(f'the node\'s description has no valid host name: "{one_line(given.hostname, 64)}"')
    resources = given.resources
    if not (0 <= resources.nano_cpus < 2**63 and 0 <= resources.memory_bytes < 2**63):
        raise InvalidArgument("the node's description has impossible resources")
    return replace(
        given,
        platform=Platform(
            architecture=one_line(given.platform.architecture, MAX_WORD_CHARS),
            os=one_line(given.platform.os, MAX_WORD_CHARS),
        ),
        engine=replace(
            given.engine,
            engine_version=one_line(given.engine.engine_version, MAX_WORD_CHARS),
            labels=_labels(given.engine.labels),
        ),
        engine_error=one_line(given.engine_error, MAX_TEXT_CHARS),
        listening=_listening(given.listening),
    )


def _listening(ports: tuple[str, ...]) -> tuple[str, ...]:
    """They stand in the way of publishing, so each must be a port, once."""
    if len(ports) > MAX_LISTENING:
        raise InvalidArgument(f"the node listens on {len(ports)} ports, at most {MAX_LISTENING} are reported")
    for text in ports:
        match = _LISTENING.fullmatch(text)
        if match is None or not 1 <= int(match[2]) <= MAX_PORT:
            raise InvalidArgument(f'the node listens on "{one_line(text, 32)}", which is no port')
    return tuple(dict.fromkeys(ports))


def _labels(labels: dict[str, str]) -> dict[str, str]:
    if len(labels) > MAX_LABELS:
        raise InvalidArgument(f"the node's engine has {len(labels)} labels, at most {MAX_LABELS} are allowed")
    return {one_line(k, MAX_WORD_CHARS): one_line(v, MAX_LABEL_CHARS) for k, v in labels.items()}


def decode_status(data: bytes, now: datetime) -> TaskStatus:
    """Raises InvalidArgument when it is none, or one only managers may set. ``now`` is the manager's time."""
    given = _decode(data, TaskStatus, "the status", MAX_STATUS_BYTES)
    if not TaskState.ASSIGNED.rank <= given.state.rank < TaskState.REMOVE.rank:
        raise InvalidArgument(f"an agent cannot observe the state {given.state.value}")
    if given.container_status is not None:
        _check_container(given.container_status)
    _check_port_status(given.port_status)
    return replace(
        given,
        timestamp=_plausible(given.timestamp, now),
        message=one_line(given.message, MAX_TEXT_CHARS),
        err=one_line(given.err, MAX_TEXT_CHARS),
    )


def _check_container(status: ContainerStatus) -> None:
    if not _CONTAINER_ID.fullmatch(status.container_id):
        raise InvalidArgument("the status names no valid container")
    if not (0 <= status.pid < _MAX_INT32 and -_MAX_INT32 < status.exit_code < _MAX_INT32):
        raise InvalidArgument("the status has an impossible process id or exit code")


def _check_port_status(ports: tuple[PortConfig, ...]) -> None:
    if len(ports) > MAX_PORT_STATUS:
        raise InvalidArgument(f"the status has {len(ports)} ports, at most {MAX_PORT_STATUS} are allowed")
    for port in ports:
        words = port.protocol in ("tcp", "udp") and port.publish_mode == "host" and not port.name
        if not (words and 1 <= port.target_port <= MAX_PORT and 1 <= port.published_port <= MAX_PORT):
            raise InvalidArgument("the status has an impossible port")


def _plausible(given: datetime, now: datetime) -> datetime:
    """``given`` in UTC, or ``now`` when no host with a working clock would say so."""
    if given.tzinfo is None or not -MAX_BEHIND <= given - now <= MAX_AHEAD:
        return now
    return given.astimezone(UTC)


def in_parts(changes: Sequence[Change]) -> Iterator[tuple[list[pb.AssignmentChange], bool]]:
    """``changes`` in order, as many to a message as fit, and whether more follow; at least one message.

    Encoded one message at a time: all payloads of a node may be a great deal.
    """
    part: list[pb.AssignmentChange] = []
    size = 0
    for change in changes:
        encoded = encode_change(change)
        size += len(encoded.object) + _CHANGE_OVERHEAD_BYTES
        if part and size > MAX_MESSAGE_BYTES:
            yield part, True
            part, size = [], len(encoded.object) + _CHANGE_OVERHEAD_BYTES
        part.append(encoded)
    yield part, False


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
