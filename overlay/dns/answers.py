"""Which names the cluster answers, and with what. Pure: a question, the registry's state, the asker's networks."""

import ipaddress
from collections.abc import Sequence

import msgspec

from pyswarm.overlay.registry.model import OverlayState

A, PTR, ANY = 1, 12, 255
NOERROR, NXDOMAIN = 0, 3
_REVERSE = ("in-addr", "arpa")


class Answer(msgspec.Struct, frozen=True):
    """What the cluster says. Without addresses and name it says that there is nothing of the kind asked for.

    ``virtual``: a virtual IP is among the addresses, which leads nowhere until the asker's table is loaded.
    """

    addrs: tuple[str, ...] = ()
    virtual: bool = False
    name: str = ""
    rcode: int = NOERROR


class Names:
    """The names in one state of the registry, in lower case, with their addresses by network: virtual IPs, or
    those of ready tasks."""

    def __init__(self, state: OverlayState) -> None:
        self._addrs: dict[str, dict[str, list[str]]] = {}
        self._of_addr: dict[str, tuple[str, str]] = {}
        self._virtual: set[str] = set()
        self._subnets = [ipaddress.ip_network(n.subnet, strict=False) for n in state.networks.values()]
        ready: dict[tuple[str, str], list[str]] = {}
        placed = {(s.service_id, n.network_id) for s in state.services.values() for n in s.networks}
        for _, endpoint in sorted(state.endpoints.items()):
            service = endpoint.service_name.lower()
            if not service:
                continue
            key = (endpoint.service_id, endpoint.network_id)
            if endpoint.ready:
                ready.setdefault(key, []).append(endpoint.addr)
            # The tasks of a service that is gone, or left the network, keep its name until they have ended.
            names = [f"tasks.{service}"] if key in placed else [service, f"tasks.{service}"]
            full = f"{service}.{endpoint.endpoint_id.lower()}"
            if endpoint.slot:
                names.append(f"{service}.{endpoint.slot}")
                full = f"{service}.{endpoint.slot}.{endpoint.endpoint_id.lower()}"
            for name in (*names, full):
                self._add(name, endpoint.network_id, [endpoint.addr] if endpoint.ready else [])
            self._of_addr[endpoint.addr] = (endpoint.network_id, full)
        for entry in sorted(state.services.values(), key=lambda s: s.service_id):
            name = entry.name.lower()
            for place in entry.networks:
                addrs = ready.get((entry.service_id, place.network_id), [])
                for alias in place.aliases:
                    self._add(f"tasks.{alias.lower()}", place.network_id, addrs)
                if place.vip:
                    addrs = [place.vip]
                    self._virtual.add(place.vip)
                    self._of_addr[place.vip] = (place.network_id, name)
                for each in {name, *(alias.lower() for alias in place.aliases)}:
                    self._add(each, place.network_id, addrs)

    def _add(self, name: str, network_id: str, addrs: Sequence[str]) -> None:
        """Have the name on the network, with these addresses too."""
        known = self._addrs.setdefault(name, {}).setdefault(network_id, [])
        known.extend(addr for addr in addrs if addr not in known)

    def concerns(self, labels: Sequence[str]) -> bool:
        """Whether the answer depends on who asks: otherwise it is the same for everybody, and not ours."""
        return _name(labels) in self._addrs or _is_reverse(labels)

    def answer(self, labels: Sequence[str], qtype: int, networks: frozenset[str]) -> Answer | None:
        """The answer for an asker on these networks; None when it is for others to give."""
        if _is_reverse(labels):
            return self._reverse(labels, qtype, networks)
        by_network = self._addrs.get(_name(labels), {})
        seen = [addrs for network_id, addrs in by_network.items() if network_id in networks]
        if not seen:
            return None
        if qtype not in (A, ANY):
            return Answer()
        found = tuple(addr for addrs in seen for addr in addrs)
        return Answer(addrs=found, virtual=not self._virtual.isdisjoint(found))

    def _reverse(self, labels: Sequence[str], qtype: int, networks: frozenset[str]) -> Answer | None:
        try:
            addr = ipaddress.IPv4Address(".".join(reversed(labels[:4])))
        except ValueError:
            return None
        network_id, name = self._of_addr.get(str(addr), ("", ""))
        if network_id in networks:
            return Answer(name=name) if qtype in (PTR, ANY) else Answer()
        # Nobody outside knows our addresses, and what is on other networks is not this asker's business.
        return Answer(rcode=NXDOMAIN) if any(addr in subnet for subnet in self._subnets) else None


def may_be_ours(labels: Sequence[str]) -> bool:
    """Whether a name has a form that the cluster gives, when what it gives is not known."""
    return len(labels) == 1 or (len(labels) == 2 and (labels[0] == "tasks" or labels[1].isdecimal()))


def rotated(addrs: Sequence[str], turn: int) -> list[str]:
    """The same addresses, each first in its turn."""
    at = turn % len(addrs) if addrs else 0
    return [*addrs[at:], *addrs[:at]]


def _name(labels: Sequence[str]) -> str:
    # A dot inside a label is no separator, and no name of ours has one.
    return "" if any("." in label for label in labels) else ".".join(labels)


def _is_reverse(labels: Sequence[str]) -> bool:
    return len(labels) == 6 and tuple(labels[4:]) == _REVERSE
