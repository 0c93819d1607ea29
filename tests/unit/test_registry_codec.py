"""Keys, values, fences, and the command line of etcd."""

import msgspec
import pytest
from aetcd import rpc
from hypothesis import given
from hypothesis import strategies as st

from pyswarm.common.errors import InvalidArgument
from pyswarm.overlay.registry.channel import RegistryTLS, parse_endpoint
from pyswarm.overlay.registry.client import prefix_end
from pyswarm.overlay.registry.codec import Keys, Mirror, decode_fence, difference, encode_fence
from pyswarm.overlay.registry.model import EndpointEntry, NetworkEntry, NodeEntry, OverlayState
from pyswarm.overlay.registry.server import EtcdServerConfig, EtcdTLSFiles, etcd_argv
from pyswarm.proto.v1 import dispatcher_pb2

KEYS = Keys()
ids = st.text("0123456789abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=25)
texts = st.text(max_size=10)
fences = st.tuples(st.integers(0, 2**63), st.integers(0, 2**63))


@st.composite
def states(draw: st.DrawFn) -> OverlayState:
    """Any state."""
    nodes = {i: NodeEntry(i, draw(texts), draw(texts)) for i in draw(st.lists(ids, max_size=3))}
    networks = {
        i: NetworkEntry(i, draw(texts), draw(st.integers(0, 2**24)), "s", "g", 1450)
        for i in draw(st.lists(ids, max_size=3))
    }
    endpoints = {
        (n, e): EndpointEntry(e, n, draw(texts), draw(texts), "node", slot=3, ready=draw(st.booleans()))
        for n, e in draw(st.lists(st.tuples(ids, ids), max_size=5))
    }
    return OverlayState(nodes, networks, endpoints)


@given(states(), states())
def test_a_mirror_follows_from_any_state_to_any_other(first: OverlayState, second: OverlayState) -> None:
    mirror = Mirror(KEYS)
    mirror.load(KEYS.flatten(first).items())
    assert mirror.snapshot() == first
    before = mirror.snapshot()
    puts, deletes = difference(KEYS.flatten(first), KEYS.flatten(second))
    for key in deletes:
        assert mirror.apply(key, None)
    for key, value in puts.items():
        assert mirror.apply(key, value)
    assert mirror.snapshot() == second
    assert before == first, "a snapshot changed after it was given away"
    assert difference(KEYS.flatten(second), KEYS.flatten(second)) == ({}, [])


@given(fences, fences)
def test_fences_order_as_text(one: tuple[int, int], other: tuple[int, int]) -> None:
    assert (encode_fence(one) < encode_fence(other)) == (one < other)
    assert decode_fence(encode_fence(one)) == one


def test_a_foreign_fence_is_none() -> None:
    assert decode_fence(b"hello") is None


def test_the_encoding_of_version_1_stays_readable() -> None:
    golden = {
        b"/pyswarm/v1/nodes/n1": b'{"node_id":"n1","hostname":"h1","underlay_addr":"10.0.0.1"}',
        b"/pyswarm/v1/networks/net": b'{"network_id":"net","name":"app","vni":4097,"subnet":"10.1.0.0/16",'
        b'"gateway":"10.1.0.1","mtu":1450}',
        b"/pyswarm/v1/endpoints/net/t1": b'{"endpoint_id":"t1","network_id":"net","addr":"10.1.0.2",'
        b'"mac":"02:42:0a:01:00:02","node_id":"n1","service_id":"s","service_name":"web","slot":2,"ready":true}',
    }
    mirror = Mirror(KEYS)
    mirror.load(golden.items())
    state = mirror.snapshot()
    assert state.endpoints["net", "t1"].service_name == "web"
    assert KEYS.flatten(state) == golden


def test_values_of_a_newer_writer() -> None:
    mirror = Mirror(KEYS)
    known = b'{"node_id":"n1","hostname":"h1","underlay_addr":"10.0.0.1"'
    assert mirror.apply(KEYS.root + b"nodes/n1", known + b',"future":{"x":1}}')
    assert mirror.snapshot().nodes["n1"].hostname == "h1"
    assert not mirror.apply(KEYS.root + b"volumes/v1", b"{}")
    assert mirror.apply(KEYS.root + b"nodes/n1", b"not json")
    assert mirror.snapshot().nodes == {}
    assert mirror.invalid_total == 1


def test_the_marker_decides_whether_a_fill_is_whole() -> None:
    mirror = Mirror(KEYS)
    mirror.load([(KEYS.fence, b"x"), (KEYS.root + b"nodes/n1", b"{}")])
    assert not mirror.complete
    assert mirror.apply(KEYS.complete, b"x")
    assert mirror.complete
    assert not KEYS.is_entry(KEYS.complete)
    assert not KEYS.is_entry(KEYS.fence)


def test_endpoints() -> None:
    assert parse_endpoint("10.0.0.1:2379") == ("own", "10.0.0.1:2379")
    assert parse_endpoint("https://etcd.example") == ("https", "etcd.example:2379")
    assert parse_endpoint("http://[fd00::1]:5") == ("http", "[fd00::1]:5")
    for wrong in ("", "ftp://x:1", "https://x:99999", "https://x:1/path"):
        with pytest.raises(InvalidArgument):
            parse_endpoint(wrong)
    assert prefix_end(b"/pyswarm/v1/") == b"/pyswarm/v10"


def test_the_stubs_share_a_process_with_our_own() -> None:
    ours = set(dispatcher_pb2.DESCRIPTOR.message_types_by_name)
    assert rpc.WatchRequest().ByteSize() == 0
    assert ours
    assert rpc.WatchRequest.DESCRIPTOR.file.package == "etcdserverpb"
    assert dispatcher_pb2.DESCRIPTOR.package != "etcdserverpb"


def test_no_key_in_repr() -> None:
    assert "SECRET" not in repr(RegistryTLS(b"ca", b"cert", b"SECRET", "name"))


def test_argv() -> None:
    config = EtcdServerConfig(
        node_id="n1",
        ip="10.0.0.1",
        data_dir="/d",
        tls=EtcdTLSFiles("/ca", "/cert", "/key"),
        manager_name="swarm-manager.c1",
        initial_cluster="n1=https://10.0.0.1:2380",
        state="new",
        token="t",
    )
    argv = etcd_argv(config)
    assert argv[:5] == ["setpriv", "--pdeathsig", "KILL", "--", "etcd"]
    for flag in (
        "--listen-client-urls=https://10.0.0.1:2379",
        "--listen-peer-urls=https://10.0.0.1:2380",
        "--client-cert-auth=true",
        "--peer-client-cert-auth=true",
        "--peer-cert-allowed-hostname=swarm-manager.c1",
        "--enable-v2=false",
        "--enable-grpc-gateway=false",
    ):
        assert flag in argv
    assert not any(a.startswith(("--client-cert-allowed-hostname", "--unsafe")) for a in argv)
    sealed = etcd_argv(msgspec.structs.replace(config, sealed=True))
    assert sealed[-1] == "--client-cert-allowed-hostname=swarm-manager.c1"
    assert "--listen-client-urls=https://[fd00::1]:2379" in etcd_argv(
        msgspec.structs.replace(config, ip="fd00::1")
    )
