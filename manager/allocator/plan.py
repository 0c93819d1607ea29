"""Which addresses tasks get: NEW -> PENDING, with one on each network. Pure.

The planner keeps what is in use beside the store, change by change, so that giving out an address costs the same
in a network of ten tasks as of ten thousand.
"""

import itertools
from collections.abc import Iterable, Iterator

import msgspec

from pyswarm.common.types import Network, Service, Task, TaskNetwork, TaskState
from pyswarm.manager.allocator.pool import AddressPool, mac_of
from pyswarm.manager.allocator.subnets import (
    NetworkAllocation,
    allocate_network,
    check_subnet,
    choose_allocation,
)
from pyswarm.manager.state.tables import AddressKey, held_addresses, virtual_addresses

__all__ = [
    "AddressPlanner", "Allocation", "NetworkAllocation", "allocate_network", "check_subnet", "choose_allocation",
    "needs_allocation",
]  # fmt: skip


class Allocation(msgspec.Struct, frozen=True):
    """What becomes of one task: ``networks`` are its addresses, or ``err`` says why it has to wait for them."""

    task: Task
    networks: tuple[TaskNetwork, ...] = ()
    err: str = ""


def needs_allocation(task: Task) -> bool:
    """It waits for the allocator: it is new, or there was no address for it so far."""
    if task.desired_state.rank > TaskState.RUNNING.rank:
        return False
    if task.status.state is TaskState.NEW:
        return True
    return task.status.state is TaskState.PENDING and len(task.networks) < len(task.network_ids)


class AddressPlanner:
    """What is in use, and who waits. ``observe_...`` is told every change of the store."""

    def __init__(self) -> None:
        self._pools: dict[str, AddressPool] = {}
        self._held: dict[str, list[AddressKey]] = {}
        self._services: set[str] = set()
        self._users: dict[str, dict[AddressKey, str]] = {}
        self._new: dict[str, Task] = {}
        self._blocked: dict[str, dict[str, Task]] = {}
        self._blocked_on: dict[str, str] = {}
        self._freed: set[str] = set()

    def observe_network(self, network_id: str, network: Network | None) -> None:
        """A network was made, changed or removed."""
        pool = self._pools.get(network_id)
        if network is None or not network.subnet:
            self._pools.pop(network_id, None)
            return
        if pool is None or not pool.fits(network):
            pool = self._pools[network_id] = AddressPool(network)
            for key, task_id in self._users.get(network_id, {}).items():
                pool.hold(key[1], task_id, virtual=task_id in self._services)
        self._freed.add(network_id)

    def observe_task(self, task_id: str, task: Task | None) -> None:
        """A task was made, changed or removed."""
        held = held_addresses(task) if task is not None else []
        if held != self._held.get(task_id, []):
            self._release(task_id)
            for key in held:
                self._hold(task_id, key)
        self._new.pop(task_id, None)
        self._unblock(task_id)
        if task is not None and needs_allocation(task):
            self._new[task_id] = task

    def observe_service(self, service_id: str, service: Service | None) -> None:
        """A service was made, changed or removed: its virtual IPs are no task's."""
        held = virtual_addresses(service) if service is not None else []
        if held == self._held.get(service_id, []):
            return
        self._release(service_id)
        self._services.discard(service_id)
        if held:
            self._services.add(service_id)
        for key in held:
            self._hold(service_id, key)

    def plan(self) -> Iterator[Allocation]:
        """Give addresses to those who can have them now. They count as in use from here on; if one cannot be
        stored, ``observe_task`` with the task as it is gives them back."""
        while self._new or self._retry():
            task_id = next(iter(self._new))
            task = self._new.pop(task_id)
            self._unblock(task_id)
            allocation = self._allocate(task)
            if allocation is not None:
                yield allocation

    def _retry(self) -> bool:
        """Take up as many of those who wait for a network as there are addresses left in it, not all of them."""
        for network_id in sorted(self._freed):
            pool, waiting = self._pools.get(network_id), self._blocked.get(network_id, {})
            left = pool.capacity - pool.used if pool is not None else 0
            if not waiting or left <= 0:
                self._freed.discard(network_id)
            for task in itertools.islice(waiting.values(), max(left, 0)):
                self._new.setdefault(task.id, task)
        return bool(self._new)

    def _allocate(self, task: Task) -> Allocation | None:
        targets = task.network_ids
        for target in targets:
            pool = self._pools.get(target)
            if pool is None or pool.full:
                self._blocked.setdefault(target, {})[task.id] = task
                self._blocked_on[task.id] = target
                err = _full_message(pool) if pool is not None else f"network {target} not found"
                if task.status.state is TaskState.PENDING and task.status.err == err:
                    return None
                return Allocation(task, err=err)
        networks: list[TaskNetwork] = []
        for target in targets:
            addr = self._pools[target].take(task.id)
            if addr is None:  # not full a moment ago, and a task joins a network once
                raise AssertionError(f"no address for task {task.id} in network {target}")
            self._hold(task.id, (target, addr))
            networks.append(TaskNetwork(network_id=target, addr=addr, mac=mac_of(addr)))
        return Allocation(task, tuple(networks))

    def _hold(self, holder_id: str, key: AddressKey) -> None:
        """``holder_id`` is a task's or a service's."""
        self._held.setdefault(holder_id, []).append(key)
        self._users.setdefault(key[0], {})[key] = holder_id
        pool = self._pools.get(key[0])
        if pool is not None:
            pool.hold(key[1], holder_id, virtual=holder_id in self._services)

    def _release(self, holder_id: str) -> None:
        for key in self._held.pop(holder_id, []):
            users = self._users.get(key[0], {})
            if users.get(key) == holder_id:
                del users[key]
                if not users:
                    del self._users[key[0]]
            pool = self._pools.get(key[0])
            if pool is not None:
                pool.release(key[1], holder_id)
            self._freed.add(key[0])

    def _unblock(self, task_id: str) -> None:
        target = self._blocked_on.pop(task_id, None)
        if target is not None:
            waiting = self._blocked[target]
            waiting.pop(task_id, None)
            if not waiting:
                del self._blocked[target]

    def held(self) -> Iterable[tuple[str, list[AddressKey]]]:
        """Every task that holds addresses, with them: for tests."""
        return self._held.items()


def _full_message(pool: AddressPool) -> str:
    return f"no address left in network {pool.name} ({pool.subnet}: {pool.used} in use)"
