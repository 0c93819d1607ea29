"""What a node checks before it changes anything: addresses, pools, availability."""

import pytest

from pyswarm.common.errors import InvalidArgument
from pyswarm.daemon.addresses import HostAddress, candidates, check_listen_addr, choose_advertise_addr
from pyswarm.daemon.initoptions import check_availability, check_etcd_endpoints, check_pools
from pyswarm.daemon.joinclient import join_endpoint

ETH0 = HostAddress("eth0", "192.0.2.1")
ETH1 = HostAddress("eth1", "198.51.100.1")


def test_the_only_address_is_taken() -> None:
    assert choose_advertise_addr("", [ETH0]) == "192.0.2.1"


def test_several_addresses_are_listed_as_docker_does() -> None:
    with pytest.raises(InvalidArgument) as refusal:
        choose_advertise_addr("", [ETH0, ETH1])
    assert str(refusal.value) == (
        "could not choose an IP address to advertise since this system has multiple addresses on different "
        "interfaces (192.0.2.1 on eth0 and 198.51.100.1 on eth1) - specify one with --advertise-addr"
    )


@pytest.mark.parametrize(
    ("wanted", "addr"), [("eth1", "198.51.100.1"), ("192.0.2.1", "192.0.2.1"), ("192.0.2.1:2377", "192.0.2.1")]
)
def test_an_address_or_an_interface_can_be_named(wanted: str, addr: str) -> None:
    assert choose_advertise_addr(wanted, [ETH0, ETH1]) == addr


@pytest.mark.parametrize("wanted", ["eth9", "192.0.2.300", "0.0.0.0", "224.0.0.1", "::1", "192.0.2.1:80", "a b"])
def test_anything_else_is_refused_by_name(wanted: str) -> None:
    with pytest.raises(InvalidArgument, match="--advertise-addr"):
        choose_advertise_addr(wanted, [ETH0, ETH1])


def test_containers_and_the_overlay_bring_no_candidates() -> None:
    def link(name: str, *addrs: str) -> dict[str, object]:
        return {"ifname": name, "addr_info": [{"family": "inet", "local": a} for a in addrs]}

    links = [
        link("lo", "127.0.0.1"),
        link("docker0", "172.17.0.1"),
        link("pswb4097", "10.0.0.1"),
        link("veth12", "10.9.9.9"),
        link("eth0", "192.0.2.1", "169.254.1.1"),
        {},
    ]
    assert candidates(links) == (ETH0,)


@pytest.mark.parametrize("value", ["0.0.0.0:80", "host:2377", "1.2.3"])
def test_listen_addresses_are_checked(value: str) -> None:
    with pytest.raises(InvalidArgument, match="--listen-addr"):
        check_listen_addr(value)


def test_the_default_pool_and_size_are_dockers() -> None:
    assert check_pools((), 0) == (("10.0.0.0/8",), 24)


@pytest.mark.parametrize(
    ("pools", "size"),
    [
        (("10.0.0.0/8", "10.1.0.0/16"), 24),
        (("x",), 24),
        (("10.0.0.1/8",), 24),
        (("10.0.0.0/28",), 24),
        ((), 30),
        ((), -1),
    ],
)
def test_pools_that_cannot_work_are_refused(pools: tuple[str, ...], size: int) -> None:
    with pytest.raises(InvalidArgument, match="--default-addr-pool"):
        check_pools(pools, size)


def test_availability_is_one_of_three() -> None:
    with pytest.raises(InvalidArgument, match="only active, pause and drain"):
        check_availability("busy")


@pytest.mark.parametrize("url", ["192.0.2.1:2379", "192.0.2.1", "ftp://a:1", "http://", "http://a:x", ""])
def test_an_etcd_endpoint_needs_a_scheme_and_a_host(url: str) -> None:
    assert check_etcd_endpoints(["http://a:2379", "https://b"]) == ("http://a:2379", "https://b")
    with pytest.raises(InvalidArgument, match="--etcd-endpoints"):
        check_etcd_endpoints([url])


@pytest.mark.parametrize("addr", ["", ":2377", "h:x", "h:0", "h:65535", "h:99999"])
def test_a_managers_address_is_checked(addr: str) -> None:
    with pytest.raises(InvalidArgument):
        join_endpoint(addr)


def test_joining_asks_the_port_after_the_clusters() -> None:
    assert join_endpoint("192.0.2.1:2377") == "192.0.2.1:2378"
    assert join_endpoint("192.0.2.1") == "192.0.2.1:2378"
