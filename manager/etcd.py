"""The leader's care for etcd and for what is in it, and what each node is told about it."""

import asyncio
from collections.abc import Callable, Sequence

import msgspec
from prometheus_client import CollectorRegistry

from pyswarm.common.clock import Clock
from pyswarm.common.errors import PyswarmError
from pyswarm.common.log import get_logger
from pyswarm.common.metrics import CurrentFigures
from pyswarm.common.tasks import TaskGroupOwner
from pyswarm.common.tls import TLSIdentity
from pyswarm.common.types import NodeRole, NodeState
from pyswarm.manager.overlaysync import OverlaySync, OverlaySyncMetrics
from pyswarm.manager.raft import RaftNode
from pyswarm.manager.state import Store, Transaction, View
from pyswarm.overlay.registry.channel import RegistryTLS
from pyswarm.overlay.registry.client import EtcdClient
from pyswarm.overlay.registry.keeper import (
    EtcdKeeper,
    EtcdPlan,
    Managers,
    assignment_for,
    decode_plan,
    encode_plan,
)
from pyswarm.overlay.registry.model import Fence
from pyswarm.overlay.registry.writer import RegistryWriter

log = get_logger("etcd")

TICK_S = 1.0


class EtcdManagement:
    """A component of the leader, and the answer to "which etcd" for every manager."""

    def __init__(
        self,
        store: Store,
        identity: TLSIdentity,
        raft: RaftNode,
        clock: Clock,
        registry: CollectorRegistry,
        on_synced: Callable[[int, Fence], None],
    ) -> None:
        self._store = store
        self._identity = identity
        self._raft = raft
        self._clock = clock
        self._figures = CurrentFigures(registry)
        self._on_synced = on_synced
        self._sync_metrics = OverlaySyncMetrics(registry)

    def info_for(self, node_id: str) -> tuple[Sequence[str], bytes]:
        """The endpoints a node's watch uses, and what its own etcd has to be (empty: none)."""
        cluster = self._store.view.cluster
        if cluster is None:
            return (), b""
        if cluster.etcd_endpoints:
            return cluster.etcd_endpoints, b""
        plan = decode_plan(cluster.etcd_plan)
        assignment = assignment_for(plan, node_id)
        return plan.client_endpoints, msgspec.msgpack.encode(assignment) if assignment else b""

    async def run(self) -> None:
        """Keep etcd alive and filled, for as long as this manager leads."""
        cluster = self._store.view.cluster
        if cluster is not None and cluster.etcd_endpoints:
            await self._run_with_given(cluster.etcd_endpoints)
        else:
            await self._run_with_own()

    async def _run_with_given(self, endpoints: Sequence[str]) -> None:
        tls = RegistryTLS(self._identity.ca_pem, self._identity.cert_pem, self._identity.key_pem)
        client = EtcdClient(tuple(endpoints), tls)
        try:
            await self._sync(client).run()
        finally:
            await client.close()

    async def _run_with_own(self) -> None:
        registry = CollectorRegistry()
        keeper = EtcdKeeper(self._identity, self._persist, clock=self._clock, registry=registry)
        self._figures.registry = registry
        failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def on_failure(_name: str, error: BaseException) -> None:
            if not failed.done():
                failed.set_exception(error)

        owner = TaskGroupOwner("etcd", on_failure)
        try:
            owner.spawn(self._keep(keeper), "keeper")
            owner.spawn(self._sync(keeper.client).run(), "sync")
            await failed
        finally:
            await owner.stop()
            await keeper.close()
            self._figures.registry = None

    def _sync(self, client: EtcdClient) -> OverlaySync:
        raft = self._raft
        return OverlaySync(
            self._store,
            RegistryWriter(client),
            fence=lambda: (raft.term, raft.applied_index),
            clock=self._clock,
            metrics=self._sync_metrics,
            on_synced=self._on_synced,
        )

    async def _keep(self, keeper: EtcdKeeper) -> None:
        while True:
            view = self._store.view
            if view.cluster is not None:
                try:
                    await keeper.tick(
                        decode_plan(view.cluster.etcd_plan),
                        managers_of(view, self._identity.node_id),
                        roles_of(view),
                    )
                except PyswarmError as exc:
                    log.warning("etcd is not taken care of at the moment", reason=str(exc))
            await self._clock.sleep(TICK_S)

    async def _persist(self, plan: EtcdPlan) -> None:
        data = encode_plan(plan)

        def store(tx: Transaction) -> None:
            if tx.view.cluster is not None:
                tx.update(msgspec.structs.replace(tx.view.cluster, etcd_plan=data))

        await self._store.update(store, reason="etcd plan")


def managers_of(view: View, self_id: str) -> Managers:
    """The managers and which of them are heard of; the leader is, since it asks."""
    managers = view.nodes.managers()
    alive = {n.id for n in managers if n.status.state is NodeState.READY} | {self_id}
    return Managers(
        self_id=self_id,
        addrs={n.id: n.underlay_addr for n in managers},
        alive=frozenset(alive),
        failed_for_s={},
    )


def roles_of(view: View) -> dict[str, str]:
    """Node id to the role its etcd user has."""
    return {n.id: "manager" if n.spec.role is NodeRole.MANAGER else "worker" for n in view.nodes.values()}
