"""The addresses of one network: which are free, found without looking at all of them. Pure."""

from collections import deque
from ipaddress import IPv4Address, IPv4Network

from pyswarm.common.types import Network


class AddressPool:
    """Hands out addresses in turn, so that a freed one is not used again at once, while others may still know it
    by its former owner."""

    def __init__(self, network: Network) -> None:
        self.network_id = network.id
        self.name = network.spec.name
        self.subnet = IPv4Network(network.subnet)
        self._shape = _shape(network)
        config = network.spec.ipam[0] if network.spec.ipam else None
        span = IPv4Network(config.ip_range) if config is not None and config.ip_range else self.subnet
        first, last = int(span.network_address), int(span.broadcast_address)
        self._first = max(first, int(self.subnet.network_address) + 1)
        self._last = min(last, int(self.subnet.broadcast_address) - 1)
        self._reserved = {int(IPv4Address(network.gateway))} if network.gateway else set()
        inside = sum(1 for number in self._reserved if self._first <= number <= self._last)
        self.capacity = max(self._last - self._first + 1 - inside, 0)
        self._holders: dict[int, str] = {}
        self._outside = 0
        #: Once round the range, from above the highest address in use; then what was released, oldest first.
        self._next = self._first
        self._unvisited = self._last - self._first + 1
        self._released: deque[int] = deque()

    def fits(self, network: Network) -> bool:
        """Whether this is still the network's pool."""
        return self._shape == _shape(network)

    @property
    def used(self) -> int:
        """How many of its addresses are held."""
        return len(self._holders) - self._outside

    @property
    def full(self) -> bool:
        """None is left."""
        return self.used >= self.capacity

    def holder(self, addr: str) -> str | None:
        """Which task holds an address (with mask)."""
        return self._holders.get(_number(addr))

    def take(self, task_id: str) -> str | None:
        """A free address with its mask, now held by the task; None when the pool is full."""
        if self.full:
            return None
        number = self._free_number()
        self._holders[number] = task_id
        return f"{IPv4Address(number)}/{self.subnet.prefixlen}"

    def _free_number(self) -> int:
        """Each number is passed over at most once per release, so this is cheap however full the pool is."""
        while self._unvisited:
            number = self._next if self._next <= self._last else self._first
            self._next = number + 1
            self._unvisited -= 1
            if number not in self._holders and number not in self._reserved:
                return number
        while True:
            number = self._released.popleft()
            if number not in self._holders:
                return number

    def hold(self, addr: str, task_id: str, *, virtual: bool = False) -> None:
        """Note an address that a task has, or a service as its virtual IP."""
        number = _number(addr)
        usable = self._first <= number <= self._last and number not in self._reserved
        if number not in self._holders and not usable:
            self._outside += 1
        self._holders[number] = task_id
        # A new leader goes on after the highest, rather than use the latest freed ones again.
        untouched = self._unvisited == self._last - self._first + 1
        if self._first <= number <= self._last and untouched and not virtual:
            self._next = max(self._next, number + 1)

    def release(self, addr: str, task_id: str) -> None:
        """The task does not hold the address any more; nothing happens if another one does."""
        number = _number(addr)
        if self._holders.get(number) == task_id:
            del self._holders[number]
            if self._first <= number <= self._last and number not in self._reserved:
                self._released.append(number)
            else:
                self._outside -= 1


def mac_of(addr: str) -> str:
    """``10.0.1.3/24`` -> ``02:42:0a:00:01:03``: as unique in its network as the address."""
    return "02:42:" + ":".join(f"{byte:02x}" for byte in IPv4Address(addr.partition("/")[0]).packed)


def _number(addr: str) -> int:
    return int(IPv4Address(addr.partition("/")[0]))


def _shape(network: Network) -> tuple[object, ...]:
    return (network.subnet, network.gateway, network.spec.ipam)
