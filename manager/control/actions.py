"""What the leader does for each call: look, check, and commit one transaction.

Reads wait at Raft's read barrier first, so that they see everything acknowledged before they were asked; those
that may be stale do not, and any manager answers them.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Protocol, TypeVar

from msgspec.structs import replace

from pyswarm.common.clock import Clock
from pyswarm.common.errors import (
    AlreadyExists,
    FailedPrecondition,
    InUse,
    InvalidArgument,
    NotFound,
    Unavailable,
    UpdateOutOfSequence,
)
from pyswarm.common.ids import new_id
from pyswarm.common.jointoken import new_join_token
from pyswarm.common.types import (
    SECOND_NS,
    Cluster,
    ClusterSpec,
    JoinTokens,
    Network,
    NetworkAttachmentConfig,
    NetworkSpec,
    Node,
    NodeRole,
    NodeSpec,
    NodeState,
    Object,
    ReplicatedMode,
    Service,
    ServiceMode,
    ServiceSpec,
    Task,
    TaskState,
    TaskStatus,
    timestamp,
)
from pyswarm.manager.allocator.endpoints import allocate_endpoint
from pyswarm.manager.allocator.ingress import ensure_ingress, ingress_network
from pyswarm.manager.allocator.plan import allocate_network
from pyswarm.manager.control import filters, validate
from pyswarm.manager.control.file_actions import require_files
from pyswarm.manager.control.names import new_service_name
from pyswarm.manager.leadership import RaftLeadership
from pyswarm.manager.state import Store, Stored, Transaction, View

T = TypeVar("T", bound=Object)

#: How long the removal of a network waits for tasks that are stopping; Docker's grace period is half of it.
STOPPING_PATIENCE_S = 20.0
STOPPING_POLL_S = 0.25
#: What is kept of a caller's patience for the commit itself.
COMMIT_RESERVE_S = 1.0


class Managers(Protocol):
    """Raft's members, as ``manager.group.ManagerGroup`` knows them."""

    def is_reachable(self, node_id: str) -> bool:
        """Whether this manager reaches that one."""
        ...

    def require_spare(self, node_id: str) -> None:
        """Raise FailedPrecondition when the others could not decide without it."""
        ...

    async def remove(self, node_id: str) -> None:
        """Count it out; the leader itself hands over and raises NotLeader."""
        ...

    def no_leader(self) -> str:
        """Why nothing can be decided now."""
        ...


class Actions:
    """Runs on the leader only; every method may raise NotLeader. What is returned is whole, secrets included: who
    passes it on leaves out what its caller must not have."""

    def __init__(
        self,
        store: Store,
        raft: RaftLeadership,
        clock: Clock,
        managers: Managers | None = None,
    ) -> None:
        self._store = store
        self._raft = raft
        self._clock = clock
        self._managers = managers

    async def get(self, kind: str, ref: str, *, stale: bool = False) -> Object:
        """One object by id, name or id prefix; ``cluster`` needs no reference."""
        await self._ready_to_read(stale)
        view = self._store.view
        if kind == "service":
            return view.services.find(ref)
        if kind == "task":
            return view.tasks.find(ref)
        if kind == "network":
            return view.networks.find(ref)
        if kind == "node":
            return self._shown_node(view.nodes.find(ref))
        if kind == "cluster":
            return _cluster(view)
        if kind == "secret":
            return view.secrets.find(ref)
        if kind == "config":
            return view.configs.find(ref)
        raise InvalidArgument(f'there are no objects of kind "{kind}"')

    async def list(
        self, kind: str, wanted: Mapping[str, Sequence[str]], *, stale: bool = False
    ) -> Sequence[Stored]:
        """The objects of ``kind`` that pass the filters, oldest first."""
        await self._ready_to_read(stale)
        found = filters.select(self._store.view, kind, wanted)
        return [self._shown_node(obj) if isinstance(obj, Node) else obj for obj in found]

    async def _ready_to_read(self, stale: bool) -> None:
        if not stale:
            await self._raft.read_barrier()
        elif self._store.view.cluster is None:
            # Which entries of its log are agreed upon, a manager learns from a leader after each start.
            raise Unavailable(
                "this manager was started while nobody leads, and cannot tell yet what was agreed upon: "
                "ask one that was not restarted"
            )

    def _shown_node(self, node: Node) -> Node:
        """Who leads and who is reachable is known now, not stored."""
        if node.manager_status is None:
            return node
        leader = self._raft.leader
        if leader is not None and self._managers is not None and not self._managers.is_reachable(leader.node_id):
            leader = None
        leads = leader is not None and leader.node_id == node.id
        # A follower has streams to its leader only; without one it asks all for their votes.
        knows = self._managers is not None and (self._raft.is_leader or leader is None)
        connected = self._managers is None or not knows or self._managers.is_reachable(node.id)
        reachable = leads or (connected and node.status.state is not NodeState.DOWN)
        status = replace(
            node.manager_status, leader=leads, reachability="reachable" if reachable else "unreachable"
        )
        return replace(node, manager_status=status)

    async def create_service(self, spec: ServiceSpec) -> Service:
        """Store a new service; the orchestrator does the rest. One without a name is given one."""
        if not spec.name:
            services = self._store.view.services
            spec = replace(spec, name=new_service_name(lambda name: services.by_name(name) is not None))
        validate.check_service(spec)
        service_id, ingress_id = new_id(), new_id()

        def build(tx: Transaction) -> Service:
            if tx.view.services.by_name(spec.name) is not None:
                raise AlreadyExists(
                    "rpc error: code = AlreadyExists desc = name conflicts with an existing object: "
                    f"service {spec.name} already exists"
                )
            ensure_ingress(tx, spec, ingress_id)
            service = allocate_endpoint(tx.view, Service(id=service_id, spec=_stored_spec(tx.view, spec)))
            tx.create(service)
            return service

        built = await self._store.update(build, reason="service create")
        return self._store.view.services.get(service_id) or built

    async def update_service(self, ref: str, version: int, spec: ServiceSpec) -> Service:
        """Give a service a new spec; the present one becomes its previous one."""
        validate.check_service(spec)

        def change(view: View, service: Service) -> ServiceSpec:
            if spec.name != service.spec.name:
                raise InvalidArgument("renaming services is not supported")
            return _stored_spec(view, spec)

        return await self._change_service(ref, version, change)

    async def rollback_service(self, ref: str, version: int) -> Service:
        """Swap the present and the previous spec."""

        def change(view: View, service: Service) -> ServiceSpec:
            if service.previous_spec is None:
                raise FailedPrecondition(f"service {service.spec.name} does not have a previous spec")
            # A network of then may be gone by now.
            return _stored_spec(view, service.previous_spec)

        return await self._change_service(ref, version, change)

    async def _change_service(
        self, ref: str, version: int, change: Callable[[View, Service], ServiceSpec]
    ) -> Service:
        ingress_id = new_id()

        def build(tx: Transaction) -> Service:
            service = tx.view.services.find(ref)
            _require_version(service, version)
            spec = change(tx.view, service)
            ensure_ingress(tx, spec, ingress_id)
            changed = allocate_endpoint(
                tx.view, replace(service, spec=spec, previous_spec=service.spec, update_status=None)
            )
            tx.update(changed)
            return changed

        built = await self._store.update(build, reason="service update")
        return self._store.view.services.get(built.id) or built

    async def remove_service(self, ref: str) -> None:
        """Remove the service; the orchestrator ends its tasks."""

        def build(tx: Transaction) -> None:
            tx.delete(tx.view.services.find(ref))

        await self._store.update(build, reason="service remove")

    async def create_network(self, spec: NetworkSpec) -> Network:
        """Store a new network with its subnet and VNI."""
        validate.check_network(spec)
        network_id = new_id()

        def build(tx: Transaction) -> Network:
            if tx.view.networks.by_name(spec.name) is not None:
                raise AlreadyExists(f"network with name {spec.name} already exists")
            if spec.ingress and (present := ingress_network(tx.view)) is not None:
                raise AlreadyExists(f"ingress network ({present.id}) is already present")
            network = allocate_network(tx.view, Network(id=network_id, spec=spec))
            tx.create(network)
            return network

        built = await self._store.update(build, reason="network create")
        return self._store.view.networks.get(network_id) or built

    async def remove_network(self, ref: str, timeout_s: float) -> None:
        """Remove a network no service uses. Tasks that are stopping still hold addresses in it, so it waits for
        them: scripts remove a service and its network in one breath."""
        deadline_s = self._clock.monotonic() + min(STOPPING_PATIENCE_S, timeout_s - COMMIT_RESERVE_S)
        await self._raft.read_barrier()

        def build(tx: Transaction) -> None:
            network = tx.view.networks.find(ref)
            _require_unused(tx.view, network)
            user = _task_in(tx.view, network)
            if user is not None:
                raise InUse(f"network {network.spec.name} is in use by task {user.name} ({_doing(tx.view, user)})")
            tx.delete(network)

        while self._clock.monotonic() < deadline_s:
            view = self._store.view
            network = view.networks.find(ref)
            _require_unused(view, network)
            if _task_in(view, network) is None:
                break
            await self._clock.sleep(STOPPING_POLL_S)
        await self._store.update(build, reason="network remove")

    async def update_node(self, ref: str, version: int, spec: NodeSpec) -> Node:
        """Set a node's availability, labels and role. A node that is demoted is counted out of Raft's members."""
        validate.check_node(spec)
        demoted = await self._prepare_demotion(ref, version, spec)

        def build(tx: Transaction) -> Node:
            node = tx.view.nodes.find(ref)
            _require_version(node, version)
            # One that is promoted is a manager's in all respects once it has been counted in.
            status = node.manager_status if spec.role is NodeRole.MANAGER else None
            changed = replace(node, spec=spec, manager_status=status)
            tx.update(changed)
            return changed

        built = await self._store.update(build, reason="node update")
        if demoted and self._managers is not None:
            await self._managers.remove(demoted)
        return self._shown_node(self._store.view.nodes.get(built.id) or built)

    async def _prepare_demotion(self, ref: str, version: int, spec: NodeSpec) -> str:
        """The id of the manager that ``spec`` demotes, if any. Refuses what would cost the quorum; a leader that
        is itself demoted hands over, and raises NotLeader for the call to go on with its successor."""
        await self._raft.read_barrier()
        node = self._store.view.nodes.find(ref)
        if self._managers is None or spec.role is NodeRole.MANAGER or node.spec.role is not NodeRole.MANAGER:
            return ""
        _require_version(node, version)
        self._managers.require_spare(node.id)
        leader = self._raft.leader
        if leader is not None and leader.node_id == node.id:
            await self._managers.remove(node.id)
        return node.id

    async def remove_node(self, ref: str, *, force: bool) -> None:
        """Forget a node: its certificate is refused from then on, its tasks are given up in the same step."""
        now = timestamp(self._clock.now())
        counted_out = await self._count_out_lost_manager(ref, force=force)

        def build(tx: Transaction) -> None:
            node = tx.view.nodes.find(ref)
            if _is_manager(node) and node.id != counted_out:
                raise FailedPrecondition(_still_a_manager(node))
            if node.status.state is not NodeState.DOWN and not force:
                raise FailedPrecondition(f"node {node.id} is not down and can't be removed")
            for task in tx.view.tasks.by_node(node.id):
                if not task.status.state.ended:
                    status = TaskStatus(
                        timestamp=now,
                        state=TaskState.ORPHANED,
                        message="the task's node was removed from the swarm",
                        container_status=task.status.container_status,
                    )
                    tx.update(replace(task, status=status, networks=()))
            cluster = _cluster(tx.view)
            # A certificate that ran out needs no entry any more.
            oldest = now - timedelta(seconds=2 * cluster.spec.node_cert_expiry_ns / SECOND_NS)
            removed = {node_id: at for node_id, at in cluster.removed_nodes.items() if at > oldest}
            tx.update(replace(cluster, removed_nodes={**removed, node.id: now}))
            tx.delete(node)

        await self._store.update(build, reason="node remove")

    async def _count_out_lost_manager(self, ref: str, *, force: bool) -> str:
        """A manager that is down for good must not stand in the quorum for ever. Returns its id, or nothing.

        Raft forgets it first: a removal that is interrupted after that can be repeated, the other way round a
        member without a node would be left.
        """
        await self._raft.read_barrier()
        node = self._store.view.nodes.find(ref)
        lost = _is_manager(node) and node.status.state is NodeState.DOWN
        if not (force and lost) or self._managers is None:
            return ""
        self._managers.require_spare(node.id)
        await self._managers.remove(node.id)
        return node.id

    async def update_cluster(
        self,
        version: int,
        spec: ClusterSpec | None,
        *,
        rotate_worker_token: bool,
        rotate_manager_token: bool,
    ) -> Cluster:
        """Change settings and, if asked, make new join tokens; the old ones are worthless from then on."""
        if spec is not None:
            validate.check_cluster(spec)

        def build(tx: Transaction) -> None:
            cluster = _cluster(tx.view)
            if version:
                _require_version(cluster, version)
            root, tokens = cluster.root_ca_cert, cluster.join_tokens
            tokens = JoinTokens(
                worker=new_join_token(root) if rotate_worker_token else tokens.worker,
                manager=new_join_token(root) if rotate_manager_token else tokens.manager,
            )
            tx.update(replace(cluster, spec=spec or cluster.spec, join_tokens=tokens))

        await self._store.update(build, reason="swarm update")
        return _cluster(self._store.view)


def _still_a_manager(node: Node) -> str:
    return (
        f"node {node.id} is a cluster manager and is a member of the raft cluster. "
        "It must be demoted to worker before removal; one that is down for good may also be removed with --force"
    )


def _is_manager(node: Node) -> bool:
    return node.spec.role is NodeRole.MANAGER or node.manager_status is not None


def _cluster(view: View) -> Cluster:
    if view.cluster is None:
        raise NotFound("the swarm is not initialised yet")
    return view.cluster


def _require_version(obj: Service | Node | Cluster, version: int) -> None:
    if obj.version.index != version:
        raise UpdateOutOfSequence


def _stored_spec(view: View, spec: ServiceSpec) -> ServiceSpec:
    """The spec with networks named by id and the number of replicas written out; its files must be there."""
    require_files(view, spec)
    targets: dict[str, NetworkAttachmentConfig] = {}
    for attachment in spec.task_template.networks:
        network = view.networks.find(attachment.target)
        if network.spec.ingress:
            raise InvalidArgument(
                f'Service cannot be explicitly attached to the ingress network "{network.spec.name}"'
            )
        if network.id in targets:
            raise InvalidArgument(f"network {network.spec.name} is given more than once")
        targets[network.id] = replace(attachment, target=network.id)
    return replace(
        spec,
        task_template=replace(spec.task_template, networks=tuple(targets.values())),
        mode=ServiceMode(replicated=ReplicatedMode(replicas=spec.replicas)),
    )


def _require_unused(view: View, network: Network) -> None:
    users = [
        service.spec.name
        for service in view.services.values()
        if service.endpoint.mesh_network_id == network.id
        or any(a.target == network.id for a in service.spec.task_template.networks)
    ]
    if users:
        noun = "service" if len(users) == 1 else "services"
        raise InUse(f"network {network.spec.name} is in use by {noun} {', '.join(sorted(users))}")


def _task_in(view: View, network: Network) -> Task | None:
    return next(iter(view.tasks.by_network(network.id)), None)


def _doing(view: View, task: Task) -> str:
    node = view.nodes.get(task.node_id)
    if node is not None and node.status.state is NodeState.DOWN:
        return f"its node {node.description.hostname} is down"
    return "still stopping" if task.desired_state.rank > TaskState.RUNNING.rank else task.status.state.value
