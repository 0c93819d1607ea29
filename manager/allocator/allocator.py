"""The loop that gives tasks their addresses."""

from collections.abc import Sequence

import msgspec

from pyswarm.common.clock import Clock
from pyswarm.common.errors import NotLeader, OutcomeUnknown, PyswarmError, Unavailable
from pyswarm.common.log import get_logger
from pyswarm.common.types import Network, Service, Task, TaskState, TaskStatus
from pyswarm.manager.allocator.plan import AddressPlanner, Allocation, allocate_network, needs_allocation
from pyswarm.manager.state import MAX_CHANGES, Event, Store, StoreLoop, Transaction, View

log = get_logger("allocator")


class Allocator(StoreLoop):
    """NEW -> PENDING. A task without a free address is PENDING too, says why, and is tried again when one is
    freed; the scheduler leaves it alone until it has its addresses."""

    name = "allocator"

    def __init__(self, store: Store, clock: Clock) -> None:
        super().__init__(store, clock)
        self._planner = AddressPlanner()
        self._bare: dict[str, Network] = {}

    async def begin(self, view: View) -> None:
        networks, tasks = list(view.networks.values()), list(view.tasks.values())
        services = list(view.services.values())
        self._planner = AddressPlanner()
        self._bare = {}
        for network in networks:
            self._observe_network(network.id, network)
        for service in services:
            self._planner.observe_service(service.id, service)
        # In the order of their creation, so that who came first is served first.
        for task in sorted(tasks, key=lambda t: t.created_at):
            self._planner.observe_task(task.id, task)
            await self.slices.pause()

    def handle(self, event: Event) -> None:
        new = event.new
        if isinstance(event.obj, Task):
            self._planner.observe_task(event.obj.id, new if isinstance(new, Task) else None)
        elif isinstance(event.obj, Service):
            self._planner.observe_service(event.obj.id, new if isinstance(new, Service) else None)
        elif isinstance(event.obj, Network):
            self._observe_network(event.obj.id, new if isinstance(new, Network) else None)

    def _observe_network(self, network_id: str, network: Network | None) -> None:
        self._planner.observe_network(network_id, network)
        self._bare.pop(network_id, None)
        if network is not None and not (network.subnet and network.vni):
            self._bare[network_id] = network

    async def tick(self) -> None:
        for network_id in list(self._bare):
            await self._complete_network(network_id)
        batch: list[Allocation] = []
        for allocation in self._planner.plan():
            batch.append(allocation)
            if len(batch) >= MAX_CHANGES:
                await self._commit(batch)
                batch = []
            await self.slices.pause()
        if batch:
            await self._commit(batch)

    async def _commit(self, batch: Sequence[Allocation]) -> None:
        for allocation in await self.store.update_each(batch, _carry_out, reason="allocator"):
            task_id = allocation.task.id
            self._planner.observe_task(task_id, self.store.view.tasks.get(task_id))

    async def _complete_network(self, network_id: str) -> None:
        """Networks are given their subnet when they are made; this is for one that was stored without."""

        def build(tx: Transaction) -> None:
            network = tx.view.networks.get(network_id)
            if network is not None and not (network.subnet and network.vni):
                tx.update(allocate_network(tx.view, network))

        network = self._bare.pop(network_id)
        try:
            await self.store.update(build, reason="allocator")
        except (NotLeader, OutcomeUnknown, Unavailable):
            raise
        except PyswarmError as exc:
            log.warning("a network cannot be given a subnet", network=network.spec.name, reason=str(exc))


def _carry_out(tx: Transaction, allocation: Allocation) -> bool:
    task = tx.view.tasks.get(allocation.task.id)
    if task is None or task.version != allocation.task.version or not needs_allocation(task):
        return False
    for attached in allocation.networks:
        key = (attached.network_id, attached.addr)
        if tx.view.tasks.by_address(*key) is not None or tx.view.services.by_vip(*key) is not None:
            return False
    message = "waiting for an address" if allocation.err else "pending task scheduling"
    status = TaskStatus(timestamp=tx.now, state=TaskState.PENDING, message=message, err=allocation.err)
    tx.update(msgspec.structs.replace(task, status=status, networks=allocation.networks))
    return True
