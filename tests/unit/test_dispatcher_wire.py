"""What is believed of an agent's messages, and what is not."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from pyswarm.common.errors import FailedPrecondition, InvalidArgument
from pyswarm.common.tls import MAX_REQUEST_BYTES
from pyswarm.common.types import (
    ContainerStatus,
    EngineDescription,
    Node,
    NodeDescription,
    NodeState,
    NodeStatus,
    PortConfig,
    Resources,
    TaskState,
    TaskStatus,
)
from pyswarm.manager.dispatcher import wire
from pyswarm.manager.dispatcher.underlay import check_free, check_underlay_addr

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
HOST = NodeDescription(hostname="h1")
RUNNING = TaskStatus(state=TaskState.RUNNING, timestamp=NOW)


def decoded(status: TaskStatus) -> TaskStatus:
    return wire.decode_status(msgspec.msgpack.encode(status), NOW)


def described(**fields: Any) -> NodeDescription:
    return wire.decode_description(msgspec.msgpack.encode(replace(HOST, **fields)))


def test_texts_are_one_line_and_bounded() -> None:
    status = decoded(replace(RUNNING, message="a\x1b[2J\r\nb\x00\x9b\x7f", err="e" * 5000))
    assert status.message == "a[2J b"
    assert status.err == "e" * 1024
    found = described(
        engine_error="x\ny" * 2000,
        engine=EngineDescription(engine_version="\x1b" + "9" * 500, labels={"a\n": "b\x1b"}),
    )
    assert len(found.engine_error) == 1024
    assert found.engine_error.isprintable()
    assert found.engine == EngineDescription(engine_version="9" * 128, labels={"a": "b"})


@pytest.mark.parametrize(
    "container",
    [
        ContainerStatus(container_id="c" * 129), ContainerStatus(container_id="c\x1b"),
        ContainerStatus(pid=2**40), ContainerStatus(exit_code=-(2**40)),
    ],
)  # fmt: skip
def test_a_container_that_cannot_be_is_refused(container: ContainerStatus) -> None:
    with pytest.raises(InvalidArgument):
        decoded(replace(RUNNING, container_status=container))


@pytest.mark.parametrize(
    "fields",
    [
        {"hostname": ""}, {"hostname": "h\x1b[1m"}, {"hostname": "h1\n"}, {"hostname": "h" * 254},
        {"hostname": "-h"},
        {"resources": Resources(memory_bytes=-1)}, {"resources": Resources(nano_cpus=2**63)},
        {"engine": EngineDescription(labels={str(n): "" for n in range(257)})},
        {"engine_error": "x" * 70_000},
    ],
)  # fmt: skip
def test_a_description_of_no_host_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument) as caught:
        described(**fields)
    assert str(caught.value).isprintable()


def test_size_is_looked_at_before_anything_is_decoded() -> None:
    for data in (b"\xc1" * 100_000, b"\x81\xa1x" + b"\x91" * 5000 + b"\x01", b"\xc1"):
        with pytest.raises(InvalidArgument):
            wire.decode_status(data, NOW)
        with pytest.raises(InvalidArgument):
            wire.decode_description(data)
    assert wire.MAX_STATUS_BYTES < MAX_REQUEST_BYTES


def test_a_time_is_in_utc_and_plausible_or_the_manager_s() -> None:
    for text in ("2026-05-01T11:00:00", "0001-01-01T00:00:00+05:00", "9999-12-31T23:59:59-05:00"):
        data = msgspec.msgpack.encode({"Timestamp": text, "State": "running"})
        assert wire.decode_status(data, NOW).timestamp == NOW
    no_time = msgspec.msgpack.encode({"Timestamp": msgspec.msgpack.Ext(-1, b"\x7f" * 12), "State": "running"})
    with pytest.raises(InvalidArgument):
        wire.decode_status(no_time, NOW)
    for nonsense in (
        datetime(9999, 12, 31, 23, tzinfo=UTC),
        NOW + timedelta(minutes=2),
        datetime(1970, 1, 1, tzinfo=UTC),
    ):
        assert decoded(replace(RUNNING, timestamp=nonsense)).timestamp == NOW
    earlier = NOW - timedelta(days=30)
    found = decoded(replace(RUNNING, timestamp=earlier.astimezone(timezone(timedelta(hours=-7))))).timestamp
    assert (found, found.tzinfo) == (earlier, UTC)


@pytest.mark.parametrize(
    "addr",
    ["", "x", "10.0.0", "10.0.0.1:80", "0.0.0.0", "0.1.2.3", "224.0.0.1", "255.255.255.255", "::1", "10.0.0.1\n"],
)
def test_an_underlay_address_is_that_of_one_host(addr: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid underlay address"):
        check_underlay_addr(addr)
    check_underlay_addr("10.0.0.1")


def test_nobody_takes_the_address_of_another_node() -> None:
    mine = Node(id="mine", underlay_addr="10.0.0.9")

    def check(state: NodeState, *, peer: str, stored: str = "10.0.0.9") -> None:
        other = Node(id="other", underlay_addr="10.0.0.1", status=NodeStatus(state=state))
        check_free([mine, other], replace(mine, underlay_addr=stored), "10.0.0.1", peer)

    for state in (NodeState.READY, NodeState.DISCONNECTED):
        with pytest.raises(FailedPrecondition, match="that of node other"):
            check(state, peer="10.0.0.1")
    with pytest.raises(FailedPrecondition, match="that of node other"):
        check(NodeState.DOWN, peer="10.0.0.9")
    check(NodeState.DOWN, peer="10.0.0.1")
    check(NodeState.DOWN, peer="", stored="10.0.0.1")
    check(NodeState.UNKNOWN, peer="")


@pytest.mark.parametrize(
    "ports",
    [
        ("tcp/0",),
        ("tcp/65536",),
        ("sctp/80",),
        ("tcp/22\n",),
        ("22",),
        ("tcp/",),
        ("tcp/²",),
        tuple(["tcp/1"] * 4097),
    ],
)
def test_what_is_no_port_stands_in_nobody_s_way(ports: tuple[str, ...]) -> None:
    with pytest.raises(InvalidArgument) as caught:
        described(listening=ports)
    assert str(caught.value).isprintable()


def test_as_many_ports_as_are_allowed_fit_into_a_description() -> None:
    ports = tuple(f"tcp/{number}" for number in range(61_440, 61_440 + wire.MAX_LISTENING))
    assert described(listening=ports).listening == ports
    assert described(listening=("tcp/22", "udp/53", "tcp/22")).listening == ("tcp/22", "udp/53")


@pytest.mark.parametrize(
    "fields",
    [
        {"protocol": "sctp"}, {"publish_mode": "ingress"}, {"name": "x"}, {"target_port": 0},
        {"published_port": 0}, {"published_port": 65_536},
    ],
)  # fmt: skip
def test_a_port_that_no_host_lends_is_refused(fields: dict[str, Any]) -> None:
    good = PortConfig(target_port=80, published_port=8080, publish_mode="host")
    assert decoded(replace(RUNNING, port_status=(good,))).port_status == (good,)
    for bad in ((good, replace(good, **fields)), (good,) * 1025):
        with pytest.raises(InvalidArgument):
            decoded(replace(RUNNING, port_status=bad))
