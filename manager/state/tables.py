"""Objects by id, with the indexes that keep every lookup off a full scan. Pure.

``Live...`` tables hold the applied state; those in ``staged`` show it as a transaction would leave it.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

from pyswarm.common.errors import InvalidArgument, NotFound
from pyswarm.common.types import Node, Service, Task
from pyswarm.manager.state.entry import Stored
from pyswarm.manager.state.naming import name_of

T = TypeVar("T", bound=Stored)

#: A task's slot: service id, slot number.
SlotKey = tuple[str, int]
#: An address in use: network id, address with mask.
AddressKey = tuple[str, str]


class Table(ABC, Generic[T]):
    """All objects of one kind. Reading never copies more than it returns."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    @abstractmethod
    def get(self, object_id: str) -> T | None:
        """The object with exactly this id."""

    @abstractmethod
    def values(self) -> Iterable[T]:
        """All objects, in no particular order. Valid until the next change."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def named(self, name: str) -> list[T]:
        """All objects of that name: several only where names need not be unique."""

    def by_name(self, name: str) -> T | None:
        """The object of that name; where several share it, any of them."""
        found = self.named(name)
        return found[0] if found else None

    def __contains__(self, object_id: object) -> bool:
        return isinstance(object_id, str) and self.get(object_id) is not None

    def find(self, ref: str) -> T:
        """By full id, exact name, or the unique beginning of an id. Raises NotFound or InvalidArgument."""
        found = self.get(ref) if ref else None
        if found is not None:
            return found
        matches = self.named(ref) if ref else []
        if not matches and ref:
            matches = [obj for obj in self.values() if obj.id.startswith(ref)]
        if not matches:
            raise NotFound(f"{self.kind} {ref} not found")
        if len(matches) > 1:
            raise InvalidArgument(f"{self.kind} {ref} is ambiguous ({len(matches)} matches found)")
        return matches[0]


class TaskTable(Table[Task]):
    """Tasks, also by what they belong to."""

    @abstractmethod
    def by_service(self, service_id: str) -> list[Task]:
        """All tasks of a service, its history included."""

    @abstractmethod
    def by_node(self, node_id: str) -> list[Task]:
        """All tasks ever assigned to a node and still stored."""

    @abstractmethod
    def by_slot(self, service_id: str, slot: int) -> list[Task]:
        """A slot's tasks: the current one, those before it, and at an update the next."""

    @abstractmethod
    def by_network(self, network_id: str) -> list[Task]:
        """The tasks attached to a network that have not ended, as far as anyone knows."""

    @abstractmethod
    def by_address(self, network_id: str, addr: str) -> Task | None:
        """The task that holds an address (with mask): it has not ended, as far as anyone knows."""


class ServiceTable(Table[Service]):
    """Services, also by their virtual IPs."""

    @abstractmethod
    def by_vip(self, network_id: str, addr: str) -> Service | None:
        """The service whose virtual IP an address (with mask) is."""


class NodeTable(Table[Node]):
    """Nodes, also by what they do."""

    @abstractmethod
    def managers(self) -> list[Node]:
        """Those that are managers: a few, among any number of workers."""


def virtual_addresses(service: Service) -> list[AddressKey]:
    """What a service holds of its networks' addresses."""
    return [(vip.network_id, vip.addr) for vip in service.endpoint.virtual_ips]


def held_addresses(task: Task) -> list[AddressKey]:
    """What no other task may be given: freed only once the task was seen to have ended."""
    if task.status.state.ended:
        return []
    return [(attached.network_id, attached.addr) for attached in task.networks if attached.addr]


def held_networks(task: Task) -> set[str]:
    """What a task takes part in until it was seen to have ended."""
    return set() if task.status.state.ended else {attached.network_id for attached in task.networks}


class LiveTable(Table[T]):
    """The applied state of one kind."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self._objects: dict[str, T] = {}
        self._names: dict[str, dict[str, None]] = {}

    def get(self, object_id: str) -> T | None:
        return self._objects.get(object_id)

    def values(self) -> Iterable[T]:
        return self._objects.values()

    def __len__(self) -> int:
        return len(self._objects)

    def named(self, name: str) -> list[T]:
        return [self._objects[key] for key in self._names.get(name.casefold(), ())]

    def copy(self) -> dict[str, T]:
        """A shallow copy, for a snapshot: the objects are immutable."""
        return self._objects.copy()

    def put(self, obj: T) -> T | None:
        """Store ``obj``; returns what it replaced."""
        old = self._objects.get(obj.id)
        if old is not None:
            self._unindex(old)
        self._objects[obj.id] = obj
        self._index(obj)
        return old

    def remove(self, object_id: str) -> T | None:
        """Forget an object; returns it."""
        old = self._objects.pop(object_id, None)
        if old is not None:
            self._unindex(old)
        return old

    def _index(self, obj: T) -> None:
        name = name_of(obj)
        if name:
            self._names.setdefault(name.casefold(), {})[obj.id] = None

    def _unindex(self, obj: T) -> None:
        name = name_of(obj)
        if name:
            _drop(self._names, name.casefold(), obj.id)

    def problems(self) -> Iterator[str]:
        """What of the indexes does not fit the objects."""
        for key, obj in self._objects.items():
            if key != obj.id:
                yield f"{self.kind} {obj.id} is stored under {key}"
        fresh = self._rebuilt()
        for name in self._index_names():
            if getattr(self, name) != getattr(fresh, name):
                yield f"index {name} of {self.kind} does not fit its objects"

    def _rebuilt(self) -> "LiveTable[T]":
        fresh = type(self)(self.kind)
        for obj in self._objects.values():
            fresh.put(obj)
        return fresh

    def _index_names(self) -> tuple[str, ...]:
        return ("_names",)


class LiveTaskTable(LiveTable[Task], TaskTable):
    """The applied tasks."""

    def __init__(self, kind: str = "task") -> None:
        super().__init__(kind)
        self._by_service: dict[str, dict[str, None]] = {}
        self._by_node: dict[str, dict[str, None]] = {}
        self._by_slot: dict[SlotKey, dict[str, None]] = {}
        self._by_network: dict[str, dict[str, None]] = {}
        self._by_address: dict[AddressKey, str] = {}

    def by_service(self, service_id: str) -> list[Task]:
        return [self._objects[key] for key in self._by_service.get(service_id, ())]

    def by_node(self, node_id: str) -> list[Task]:
        return [self._objects[key] for key in self._by_node.get(node_id, ())]

    def by_slot(self, service_id: str, slot: int) -> list[Task]:
        return [self._objects[key] for key in self._by_slot.get((service_id, slot), ())]

    def by_network(self, network_id: str) -> list[Task]:
        return [self._objects[key] for key in self._by_network.get(network_id, ())]

    def by_address(self, network_id: str, addr: str) -> Task | None:
        holder = self._by_address.get((network_id, addr))
        return None if holder is None else self._objects.get(holder)

    def _index(self, obj: Task) -> None:
        self._by_service.setdefault(obj.service_id, {})[obj.id] = None
        self._by_slot.setdefault((obj.service_id, obj.slot), {})[obj.id] = None
        if obj.node_id:
            self._by_node.setdefault(obj.node_id, {})[obj.id] = None
        for network_id in held_networks(obj):
            self._by_network.setdefault(network_id, {})[obj.id] = None
        for key in held_addresses(obj):
            self._by_address[key] = obj.id

    def _unindex(self, obj: Task) -> None:
        _drop(self._by_service, obj.service_id, obj.id)
        _drop(self._by_slot, (obj.service_id, obj.slot), obj.id)
        if obj.node_id:
            _drop(self._by_node, obj.node_id, obj.id)
        for network_id in held_networks(obj):
            _drop(self._by_network, network_id, obj.id)
        for key in held_addresses(obj):
            if self._by_address.get(key) == obj.id:
                del self._by_address[key]

    def _index_names(self) -> tuple[str, ...]:
        return ("_by_service", "_by_node", "_by_slot", "_by_network", "_by_address")


class LiveServiceTable(LiveTable[Service], ServiceTable):
    """The applied services."""

    def __init__(self, kind: str = "service") -> None:
        super().__init__(kind)
        self._by_vip: dict[AddressKey, str] = {}

    def by_vip(self, network_id: str, addr: str) -> Service | None:
        holder = self._by_vip.get((network_id, addr))
        return None if holder is None else self._objects.get(holder)

    def _index(self, obj: Service) -> None:
        super()._index(obj)
        self._by_vip.update(dict.fromkeys(virtual_addresses(obj), obj.id))

    def _unindex(self, obj: Service) -> None:
        super()._unindex(obj)
        for key in virtual_addresses(obj):
            if self._by_vip.get(key) == obj.id:
                del self._by_vip[key]

    def _index_names(self) -> tuple[str, ...]:
        return (*super()._index_names(), "_by_vip")


class LiveNodeTable(LiveTable[Node], NodeTable):
    """The applied nodes."""

    def __init__(self, kind: str = "node") -> None:
        super().__init__(kind)
        self._managers: dict[str, None] = {}

    def managers(self) -> list[Node]:
        return [self._objects[key] for key in self._managers]

    def _index(self, obj: Node) -> None:
        super()._index(obj)
        if obj.manager_status is not None:
            self._managers[obj.id] = None

    def _unindex(self, obj: Node) -> None:
        super()._unindex(obj)
        self._managers.pop(obj.id, None)

    def _index_names(self) -> tuple[str, ...]:
        return (*super()._index_names(), "_managers")


K = TypeVar("K")


def _drop(index: dict[K, dict[str, None]], key: K, object_id: str) -> None:
    ids = index.get(key)
    if ids is not None:
        ids.pop(object_id, None)
        if not ids:
            del index[key]
