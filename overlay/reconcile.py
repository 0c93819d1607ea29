"""One pass over the data plane of this host: look, plan, act. Runs in a worker thread; keeps nothing but a memory
of what was in place, to tell repairs from changes."""

from collections.abc import Iterable

import msgspec

from pyswarm.overlay.errors import OverlayError
from pyswarm.overlay.linux.kernel import Devices, Kernel, open_kernel
from pyswarm.overlay.linux.monitor import Watched
from pyswarm.overlay.objects import ALIAS_PREFIX, DesiredNetwork, Entries, LocalNetwork
from pyswarm.overlay.plan import count_repairs, desired_networks, plan_network, plan_removal, stray_devices
from pyswarm.overlay.registry.model import OverlayState


class Outcome(msgspec.Struct):
    """What a pass did."""

    operations: int = 0
    repairs: int = 0
    failures: dict[str, OverlayError] = {}  # network id -> why
    host_failure: OverlayError | None = None
    unknown: list[str] = []  # attached networks the registry says nothing about
    clamped: list[str] = []  # networks whose MTU does not fit the underlay


class Reconciler:
    """Compares and repairs. Not thread-safe: one thread at a time."""

    def __init__(self, node_id: str, underlay_addr: str, vxlan_port: int) -> None:
        self._node_id = node_id
        self._underlay_addr = underlay_addr
        self._port = vxlan_port
        self._in_place: dict[str, DesiredNetwork] = {}
        self._indexes: dict[str, tuple[int, int]] = {}  # network id -> (port, bridge)
        self._bridges: frozenset[int] = frozenset()

    def run(self, state: OverlayState | None, networks: Iterable[LocalNetwork]) -> Outcome:
        """Bring ``networks`` to the desired state, each as far as it goes."""
        outcome = Outcome()
        networks = list(networks)
        if not networks:
            return outcome
        try:
            with open_kernel() as kernel:
                underlay = kernel.underlay(self._underlay_addr)
                devices = kernel.devices()
                self._bridges = frozenset(b.index for b in devices.bridges.values())
                for want in desired_networks(state, networks, self._node_id, underlay, self._port):
                    network_id = want.network.network_id
                    if state is not None and want.entries is None:
                        outcome.unknown.append(want.network.name)
                    if want.mtu < want.network.mtu:
                        outcome.clamped.append(want.network.name)
                    try:
                        self._network(kernel, devices, want, outcome)
                    except OverlayError as exc:
                        self._in_place.pop(network_id, None)
                        outcome.failures[network_id] = exc
                try:
                    kernel.spare_overlay_bridges(devices)
                except OverlayError as exc:
                    outcome.host_failure = exc  # slower, but it works
        except OverlayError as exc:
            outcome.failures = {n.network_id: exc for n in networks}
        return outcome

    def _network(self, kernel: Kernel, devices: Devices, want: DesiredNetwork, outcome: Outcome) -> None:
        network_id = want.network.network_id
        have = kernel.network(want.network.vni, devices)
        if have.bridge is None:
            raise OverlayError(
                f"network {want.network.name} has no bridge {want.bridge} on this host; the engine makes it"
            )
        ops = plan_network(want, have)
        port_index = have.vxlan.index if have.vxlan is not None else 0
        if ops:
            kernel.apply(ops)
            outcome.operations += len(ops)
            outcome.repairs += count_repairs(ops, self._in_place.get(network_id), want)
            port_index = kernel.index_of(want.device) or 0
        self._in_place[network_id] = want
        self._indexes[network_id] = (port_index, have.bridge.index)

    def remove(self, network_id: str, vni: int | None) -> None:
        """Take the data plane of a network away, also one made by an earlier process."""
        self._in_place.pop(network_id, None)
        self._indexes.pop(network_id, None)
        with open_kernel() as kernel:
            devices = kernel.devices()
            alias = ALIAS_PREFIX + network_id
            vnis = {link.params.vni for link in devices.vxlans.values() if link.alias == alias}
            for each in vnis | ({vni} if vni is not None else set()):
                kernel.apply(plan_removal(each, kernel.network(each, devices)))

    def prune(self, attached: Iterable[LocalNetwork], keep_network_ids: Iterable[str]) -> list[str]:
        """Remove our VXLAN devices of networks this host does not take part in; their names."""
        with open_kernel() as kernel:
            ops = stray_devices(kernel.devices().vxlans.values(), attached, keep_network_ids)
            kernel.apply(ops)
            return [op.device for op in ops]

    def underlay_mtu(self) -> int:
        """The MTU of the device that holds this host's address between hosts."""
        with open_kernel() as kernel:
            return kernel.underlay(self._underlay_addr).mtu

    def entries_in_place(self) -> list[Entries]:
        """The entries of each network that is as it shall be."""
        return [want.entries for want in self._in_place.values() if want.entries is not None]

    def watched(self) -> Watched:
        """What the monitor shall compare with."""
        watched = Watched()
        watched.all_bridges = self._bridges
        for network_id, want in self._in_place.items():
            if want.entries is not None and network_id in self._indexes:
                port, bridge = self._indexes[network_id]
                watched.ports[port] = watched.bridges[bridge] = want.entries
        return watched
