"""One cluster of four hosts for all tests of this folder, since making it takes longer than most tests."""

from collections.abc import Iterator

import pytest
from support.cluster import Cluster
from support.env import require_binary, wait_until


@pytest.fixture(scope="session")
def formed() -> Iterator[Cluster]:
    """h1, h2, h3 are managers, h4 is a worker."""
    require_binary("tcpdump")
    with Cluster.on_a_new_lab("e2e", hosts=4, managers=3) as cluster:
        yield cluster


@pytest.fixture
def cluster(formed: Cluster) -> Iterator[Cluster]:
    """The cluster, whole and without services before and after."""
    yield formed
    for host in formed.hosts:
        formed.lab.heal(host)
        for what in ("engine", "daemon"):
            formed.lab.start(host, what)
    formed.ask = "h1"
    settle(formed)
    for service in formed.get("/services"):
        formed.request("DELETE", f"/services/{service['ID']}")


def settle(cluster: Cluster) -> None:
    """Wait until there is a leader and every node is ready."""

    def whole() -> bool:
        try:
            states = [n["Status"]["State"] for n in cluster.nodes()]
        except (AssertionError, OSError):
            return False
        return states == ["ready"] * len(cluster.hosts) and bool(cluster.leader())

    wait_until(whole, 60, "a leader and four ready nodes")
