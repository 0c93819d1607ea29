"""The tables as a transaction would leave them: the applied state with its changes on top. Pure."""

from collections.abc import Callable, Iterable
from typing import TypeVar

from pyswarm.common.types import Node, Service, Task
from pyswarm.manager.state.entry import Stored
from pyswarm.manager.state.naming import name_of
from pyswarm.manager.state.tables import (
    AddressKey,
    NodeTable,
    ServiceTable,
    Table,
    TaskTable,
    held_addresses,
    held_networks,
    virtual_addresses,
)

T = TypeVar("T", bound=Stored)


class StagedTable(Table[T]):
    """A live table with a transaction's changes on top; None in ``staged`` is a deleted object."""

    def __init__(self, live: Table[T]) -> None:
        super().__init__(live.kind)
        self.live = live
        self.staged: dict[str, T | None] = {}

    def stage(self, object_id: str, obj: T | None) -> None:
        """Change an object, or with None delete it."""
        self.staged[object_id] = obj

    def unstage(self, object_id: str) -> None:
        """Forget a change."""
        del self.staged[object_id]

    def get(self, object_id: str) -> T | None:
        if object_id in self.staged:
            return self.staged[object_id]
        return self.live.get(object_id)

    def values(self) -> Iterable[T]:
        return self.live.values() if not self.staged else self._merge(self.live.values(), lambda _: True)

    def __len__(self) -> int:
        added = sum(1 for obj in self.staged.values() if obj is not None)
        return len(self.live) + added - sum(1 for key in self.staged if key in self.live)

    def named(self, name: str) -> list[T]:
        wanted = name.casefold()
        return self._merge(self.live.named(name), lambda obj: name_of(obj).casefold() == wanted)

    def _merge(self, live: Iterable[T], belongs: Callable[[T], bool]) -> list[T]:
        if not self.staged:
            return list(live)
        kept = [obj for obj in live if obj.id not in self.staged]
        kept += [obj for obj in self.staged.values() if obj is not None and belongs(obj)]
        return kept


class StagedNodeTable(StagedTable[Node], NodeTable):
    """Nodes as a transaction would leave them."""

    def __init__(self, live: NodeTable) -> None:
        super().__init__(live)
        self._live_nodes = live

    def managers(self) -> list[Node]:
        return self._merge(self._live_nodes.managers(), lambda n: n.manager_status is not None)


class StagedServiceTable(StagedTable[Service], ServiceTable):
    """Services as a transaction would leave them."""

    def __init__(self, live: ServiceTable) -> None:
        super().__init__(live)
        self._live_services = live

    def by_vip(self, network_id: str, addr: str) -> Service | None:
        for service in self.staged.values():
            if service is not None and (network_id, addr) in virtual_addresses(service):
                return service
        live = self._live_services.by_vip(network_id, addr)
        return None if live is None or live.id in self.staged else live


class StagedTaskTable(StagedTable[Task], TaskTable):
    """Tasks as a transaction would leave them."""

    def __init__(self, live: TaskTable) -> None:
        super().__init__(live)
        self._live_tasks = live
        self._addresses: dict[AddressKey, str] = {}

    def stage(self, object_id: str, obj: Task | None) -> None:
        self._forget_addresses(object_id)
        super().stage(object_id, obj)
        if obj is not None:
            self._addresses.update(dict.fromkeys(held_addresses(obj), object_id))

    def unstage(self, object_id: str) -> None:
        self._forget_addresses(object_id)
        super().unstage(object_id)

    def _forget_addresses(self, object_id: str) -> None:
        former = self.staged.get(object_id)
        for key in held_addresses(former) if former is not None else ():
            if self._addresses.get(key) == object_id:
                del self._addresses[key]

    def by_service(self, service_id: str) -> list[Task]:
        return self._merge(self._live_tasks.by_service(service_id), lambda t: t.service_id == service_id)

    def by_node(self, node_id: str) -> list[Task]:
        return self._merge(self._live_tasks.by_node(node_id), lambda t: t.node_id == node_id)

    def by_slot(self, service_id: str, slot: int) -> list[Task]:
        live = self._live_tasks.by_slot(service_id, slot)
        return self._merge(live, lambda t: t.service_id == service_id and t.slot == slot)

    def by_network(self, network_id: str) -> list[Task]:
        return self._merge(self._live_tasks.by_network(network_id), lambda t: network_id in held_networks(t))

    def by_address(self, network_id: str, addr: str) -> Task | None:
        staged = self._addresses.get((network_id, addr))
        if staged is not None:
            return self.staged[staged]
        live = self._live_tasks.by_address(network_id, addr)
        return None if live is None or live.id in self.staged else live
