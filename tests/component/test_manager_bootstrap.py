"""What a new cluster begins with."""

from pathlib import Path

import msgspec
import pytest
from support.store import local_store
from support.virtual_clock import VirtualClock

from pyswarm.common.types import Cluster, Node
from pyswarm.manager.bootstrap import Bootstrap, store_bootstrap


@pytest.mark.parametrize(
    ("pool", "subnets"),
    [
        (("10.0.0.0/8",), ["10.0.0.0/24"]),
        (("10.7.0.0/23", "10.9.0.0/16"), ["10.7.0.0/24"]),
        (("10.7.0.0/24",), []),
    ],
)
async def test_the_first_host_is_number_one_and_the_ingress_network_is_there_unless_it_takes_the_only_subnet(
    tmp_path: Path, pool: tuple[str, ...], subnets: list[str]
) -> None:
    store, _ = local_store(VirtualClock())
    path = tmp_path / "bootstrap"
    cluster = Cluster(id="c", default_addr_pool=pool)
    path.write_bytes(msgspec.msgpack.encode(Bootstrap(cluster=cluster, node=Node(id="n1"))))
    await store_bootstrap(store, path)
    assert store.view.nodes.find("n1").mesh_index == 1
    assert [(n.spec.name, n.subnet, n.vni) for n in store.view.networks.values()] == [
        ("ingress", subnet, 4096) for subnet in subnets
    ]
    assert not path.exists()
    await store_bootstrap(store, path)
    store.validate()
