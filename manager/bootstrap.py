"""The first objects of a new cluster, handed from ``swarm init`` to the manager it starts."""

from pathlib import Path

import msgspec

from pyswarm.common.durable import read_struct
from pyswarm.common.ids import new_id
from pyswarm.common.log import get_logger
from pyswarm.common.types import Cluster, Network, Node
from pyswarm.manager.allocator.ingress import INGRESS
from pyswarm.manager.allocator.meshindex import free_mesh_index
from pyswarm.manager.allocator.subnets import allocate_network, keeps_first_subnet
from pyswarm.manager.state import Store, Transaction

log = get_logger("bootstrap")


class Bootstrap(msgspec.Struct, frozen=True):
    """Written before the manager starts, removed once the replicated store holds both objects."""

    cluster: Cluster
    node: Node


def load_bootstrap(path: Path) -> Bootstrap | None:
    """The bootstrap file's content, None when there is none; raises FailedPrecondition when it is damaged."""
    return read_struct(path, Bootstrap, "leave the swarm and initialise it again")


async def store_bootstrap(store: Store, path: Path) -> None:
    """On the first leader: put the objects into the store, unless they are there already; then forget the file."""
    bootstrap = load_bootstrap(path)
    if bootstrap is None:
        return

    ingress_id = new_id()

    def create(tx: Transaction) -> None:
        if tx.view.cluster is None:
            tx.create(bootstrap.cluster)
            tx.create(msgspec.structs.replace(bootstrap.node, mesh_index=free_mesh_index(tx.view)))
            if keeps_first_subnet(bootstrap.cluster):
                # There from the beginning, as in Docker; elsewhere it waits until a service needs it.
                tx.create(allocate_network(tx.view, Network(id=ingress_id, spec=INGRESS)))

    await store.update(create, reason="swarm init")
    path.unlink(missing_ok=True)
    log.info("cluster initialised", cluster=bootstrap.cluster.id, node=bootstrap.node.id)
