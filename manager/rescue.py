"""``--force-new-cluster`` in the replicated store: what follows from being the only manager.

The Raft log has been made this node's own by then (``manager.raft.rescue``). Services, tasks, networks, secrets,
tokens and the CA stay as they are. The other managers become workers in the store, so that a certificate of theirs
opens no manager's door, and etcd is founded anew: its quorum was the managers'.
"""

from pathlib import Path

import msgspec
from msgspec.structs import replace

from pyswarm.common.durable import read_struct, remove_durably
from pyswarm.common.log import get_logger
from pyswarm.common.types import ManagerStatus, NodeRole
from pyswarm.manager.raft import RaftStorageError
from pyswarm.manager.raft.disk import Disk
from pyswarm.manager.raft.meta import load_meta
from pyswarm.manager.state import Store, Transaction
from pyswarm.overlay.registry.keeper import decode_plan, encode_plan

log = get_logger("rescue")


class RescueOrder(msgspec.Struct, frozen=True):
    """``id`` is one rescue's: repeating the order after a crash is not another one. ``addr`` is this node's."""

    id: str
    addr: str


def load_order(path: Path) -> RescueOrder | None:
    """The order, None when there is none; raises FailedPrecondition when it is damaged."""
    return read_struct(path, RescueOrder, "remove it and give the order again")


def has_begun(raft_folder: Path, order: RescueOrder) -> bool:
    """Whether the log is of the new generation already: then there is no way back."""
    try:
        meta = load_meta(raft_folder, Disk())
    except RaftStorageError:
        return False
    return meta is not None and meta.generation.id == order.id


async def carry_out(store: Store, path: Path, node_id: str, manager_addr: str) -> None:
    """As the leader: bring the store in line with the rescue, if one is ordered; then forget the order."""
    order = load_order(path)
    if order is None:
        return

    def build(tx: Transaction) -> None:
        for node in tx.view.nodes.values():
            if node.id == node_id:
                changed = replace(
                    node,
                    spec=replace(node.spec, role=NodeRole.MANAGER),
                    status=replace(node.status, addr=order.addr),
                    underlay_addr=order.addr,
                    manager_status=ManagerStatus(addr=manager_addr),
                )
            else:
                changed = replace(node, spec=replace(node.spec, role=NodeRole.WORKER), manager_status=None)
            if changed != node:
                tx.update(changed)
        cluster = tx.view.cluster
        if cluster is not None:
            plan = decode_plan(cluster.etcd_plan)
            if plan.members:
                tx.update(replace(cluster, etcd_plan=encode_plan(replace(plan, members=()))))

    await store.update(build, reason="force new cluster")
    remove_durably(path)
    log.warning("this is the swarm's only manager now; promote nodes to have more", node=node_id)
