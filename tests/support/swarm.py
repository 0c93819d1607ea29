"""A leader's loops over a store, with agents in memory, in virtual time."""

import msgspec

from pyswarm.common.tasks import TaskGroupOwner
from pyswarm.common.types import (
    Cluster,
    ContainerSpec,
    IPAMConfig,
    Network,
    NetworkAttachmentConfig,
    NetworkSpec,
    ReplicatedMode,
    Service,
    ServiceMode,
    ServiceSpec,
    Task,
    TaskSpec,
    TaskState,
)
from pyswarm.manager.allocator import Allocator
from pyswarm.manager.allocator.plan import allocate_network
from pyswarm.manager.orchestrator import ReplicatedOrchestrator, TaskReaper
from pyswarm.manager.scheduler import Scheduler
from pyswarm.manager.state import StoreLoop, Transaction
from support.fake_agents import FakeAgents
from support.store import local_store
from support.virtual_clock import VirtualClock


class Swarm:
    """A leader's loops over a store, and the agents."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.store, self.proposer = local_store(self.clock)
        self.agents = FakeAgents(self.store, self.clock)
        self.failures: list[BaseException] = []
        self._leader: TaskGroupOwner | None = None
        self._others = TaskGroupOwner("agents", lambda name, error: self.failures.append(error))

    async def start(self, nodes: int) -> None:
        await self.store.update(lambda tx: tx.create(Cluster(id="cluster")))
        for number in range(1, nodes + 1):
            await self.agents.add_node(f"h{number}")
        self._others.spawn(self.agents.run(), "agents")
        self.lead()
        await self.clock.settle()

    def lead(self) -> None:
        """Start the leader's loops, as on gaining leadership."""
        self._leader = TaskGroupOwner("leader", lambda name, error: self.failures.append(error))
        for loop in self.loops():
            self._leader.spawn(loop.run(), loop.name)

    def loops(self) -> list[StoreLoop]:
        kinds: list[type[StoreLoop]] = [Allocator, Scheduler, ReplicatedOrchestrator, TaskReaper]
        return [kind(self.store, self.clock) for kind in kinds]

    async def depose(self) -> None:
        """Stop the leader's loops."""
        assert self._leader is not None
        await self._leader.stop()

    async def stop(self) -> None:
        await self.depose()
        await self._others.stop()
        self.store.validate()
        assert not self.failures, self.failures

    async def create(self, name: str, replicas: int = 1, image: str = "busybox", **spec: object) -> Service:
        service = Service(id=f"svc-{name}", spec=service_spec(name, replicas, image, **spec))
        await self.store.update(lambda tx: tx.create(service))
        return service

    async def update(self, service: Service, **changes: object) -> None:
        def build(tx: Transaction) -> None:
            current = tx.view.services.find(service.id)
            spec = service_spec(current.spec.name, **changes)  # type: ignore[arg-type]
            tx.update(msgspec.structs.replace(current, spec=spec, previous_spec=current.spec, update_status=None))

        await self.store.update(build)

    async def network(self, name: str, subnet: str = "") -> str:
        ipam = (IPAMConfig(subnet=subnet),) if subnet else ()
        network = Network(id=f"net-{name}", spec=NetworkSpec(name=name, ipam=ipam))
        await self.store.update(lambda tx: tx.create(allocate_network(tx.view, network)))
        return network.id

    def tasks(self, service: Service) -> list[Task]:
        return sorted(self.store.view.tasks.by_service(service.id), key=lambda t: (t.slot, t.created_at))

    def running(self, service: Service) -> list[Task]:
        return [
            t
            for t in self.tasks(service)
            if t.status.state is TaskState.RUNNING and t.desired_state is TaskState.RUNNING
        ]

    def update_state(self, service: Service) -> str:
        status = self.store.view.services.find(service.id).update_status
        return status.state if status is not None else ""


def service_spec(name: str, replicas: int = 1, image: str = "busybox", **more: object) -> ServiceSpec:
    networks = tuple(NetworkAttachmentConfig(target=str(n)) for n in more.pop("networks", ()))  # type: ignore[attr-defined]
    update_config = more.pop("update_config", None)
    template = TaskSpec(container_spec=ContainerSpec(image=image), networks=networks, **more)  # type: ignore[arg-type]
    return ServiceSpec(
        name=name,
        task_template=template,
        mode=ServiceMode(replicated=ReplicatedMode(replicas=replicas)),
        update_config=update_config,  # type: ignore[arg-type]
    )
