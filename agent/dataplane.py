"""What the agent needs of the overlay on this host."""

from collections.abc import Iterable
from typing import Protocol

from pyswarm.common.types import Network
from pyswarm.overlay.api import LocalNetwork


class DataPlane(Protocol):
    """Takes a local bridge into its cluster network, and out of it. ``overlay.api.Overlay`` is the real one."""

    async def attach(self, network: LocalNetwork) -> None:
        """Take part in a network whose bridge exists; once more is fine."""
        ...

    async def detach(self, network_id: str) -> None:
        """Take part no more; not having taken part is fine."""
        ...

    async def prune(self, keep_network_ids: Iterable[str] = ()) -> None:
        """Remove what is left of networks that are neither attached nor to be kept."""
        ...

    async def leave_mesh(self) -> None:
        """Lead published ports nowhere any more and answer no names, for good."""
        ...

    async def until_withdrawn(self) -> None:
        """Wait until nobody is led to a container of this host any more."""
        ...

    def set_client(
        self,
        client_id: str,
        addrs: Iterable[str],
        network_ids: Iterable[str],
        *,
        egress_addr: str = "",
        pid: int = 0,
    ) -> None:
        """A container asks for names from these addresses, and is on these networks. ``egress_addr``: its address
        on the way out of the host, when it has one and it is known; ``pid`` once it runs."""
        ...

    async def let_in(self, client_id: str, egress_addr: str) -> None:
        """Lead to a container what comes to its published ports; returns once that is in force."""
        ...

    def forget_client(self, client_id: str) -> None:
        """The container asks no more; one never heard of is fine."""
        ...


def local(network: Network) -> LocalNetwork:
    """A cluster network as engine and overlay see it."""
    return LocalNetwork(
        network_id=network.id,
        name=network.spec.name,
        vni=network.vni,
        subnet=network.subnet,
        gateway=network.gateway,
        mtu=network.mtu,
    )
