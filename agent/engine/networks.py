"""The engine's own networks that stand for cluster networks, and the bridge that leads out of the host."""

import asyncio
import ipaddress
from collections.abc import Mapping, Sequence
from typing import Any

from pyswarm.agent.engine.api import NETWORK_LABEL
from pyswarm.agent.engine.client import EngineClient, EngineRefusal
from pyswarm.agent.engine.errors import NameConflict
from pyswarm.common.log import get_logger
from pyswarm.overlay.api import LocalNetwork, bridge_network_options

log = get_logger("engine")

#: Containers with overlay networks reach the outside, and are published, through this network. Under this name,
#: and no other, the engine keeps its addresses out of /etc/hosts, where software looks for the address to tell
#: its peers (ADR 0004). On hosts that were in Docker's own swarm it is there already, and is used as it is.
EGRESS = "docker_gwbridge"
EGRESS_DEVICE = "pswgw"
EGRESS_LABEL = "com.pyswarm.egress"
_BRIDGE_OPTION = "com.docker.network.bridge.name"


class LocalNetworks:
    """Found again by label, so that nothing of them has to be remembered."""

    def __init__(self, client: EngineClient) -> None:
        self._client = client
        # The engine creates networks one at a time anyway, and two makers of one network would get two.
        self._lock = asyncio.Lock()
        self._egress_seen = False

    async def ensure(self, network: LocalNetwork) -> None:
        """Have it with exactly these settings. One of ours that stands in its way and is not in use goes."""
        async with self._lock:
            wanted = bridge_network_options(network)
            for shown in await self._list():
                owner = (shown.get("Labels") or {}).get(NETWORK_LABEL)
                if owner == network.network_id and _same(shown, network, wanted):
                    return
                if owner == network.network_id or (owner and _in_the_way(shown, network, wanted)):
                    log.info("removing a network of earlier", network=shown["Name"], id=owner)
                    await self._delete(shown["Id"])
                elif not owner and shown["Name"] == network.name:
                    raise NameConflict(
                        f"network {network.name}: the engine here has a network of its own with that name; "
                        f"remove that with 'docker network rm {network.name}'"
                    )
            labels = {NETWORK_LABEL: network.network_id}
            await self._create({**wanted, "Name": network.name, "Labels": labels, "CheckDuplicate": True})

    async def ensure_egress(self) -> None:
        """Have the way out of the host. Containers on it do not see each other there."""
        if self._egress_seen:
            return
        async with self._lock:
            if all(shown["Name"] != EGRESS for shown in await self._list()):
                options = {_BRIDGE_OPTION: EGRESS_DEVICE, "com.docker.network.bridge.enable_icc": "false"}
                await self._create(
                    {
                        "Name": EGRESS,
                        "Driver": "bridge",
                        "Options": options,
                        "Labels": {EGRESS_LABEL: ""},
                        "CheckDuplicate": True,
                    }
                )
            self._egress_seen = True

    async def connect(self, name: str, container_id: str, settings: Mapping[str, Any]) -> None:
        """Connect a container that has not been started."""
        try:
            async with self._client.call("network_connect"):
                network = await self._client.docker.networks.get(name)
                await network.connect({"Container": container_id, "EndpointConfig": dict(settings)})
        except EngineRefusal as exc:
            if name == EGRESS and exc.status == 404:
                self._egress_seen = False
            raise

    async def remove(self, network_id: str) -> None:
        """Remove the network of a cluster network."""
        async with self._lock:
            for shown in await self._list():
                if (shown.get("Labels") or {}).get(NETWORK_LABEL) == network_id:
                    await self._delete(shown["Id"])

    async def remove_egress(self) -> None:
        """Remove the way out of the host."""
        async with self._lock:
            self._egress_seen = False
            for shown in await self._list():
                if EGRESS_LABEL in (shown.get("Labels") or {}):
                    await self._delete(shown["Id"])

    async def ids(self) -> Sequence[str]:
        """The cluster networks that have one here."""
        labels = [(shown.get("Labels") or {}).get(NETWORK_LABEL) for shown in await self._list()]
        return [label for label in labels if label]

    async def _list(self) -> Sequence[Mapping[str, Any]]:
        async with self._client.call("network_list"):
            return await self._client.docker.networks.list()

    async def _create(self, body: dict[str, Any]) -> None:
        async with self._client.call("network_create"):
            await self._client.docker.networks.create(body)

    async def _delete(self, engine_id: str) -> None:
        try:
            async with self._client.call("network_remove"):
                network = await self._client.docker.networks.get(engine_id)
                await network.delete()
        except EngineRefusal as exc:
            if exc.status != 404:
                raise


def _config(shown: Mapping[str, Any]) -> Mapping[str, str]:
    configs = (shown.get("IPAM") or {}).get("Config") or [{}]
    first: Mapping[str, str] = configs[0]
    return first


def _same(shown: Mapping[str, Any], network: LocalNetwork, wanted: Mapping[str, Any]) -> bool:
    config = _config(shown)
    return (
        shown["Name"] == network.name
        and config.get("Subnet") == network.subnet
        and config.get("Gateway") == network.gateway
        and (shown.get("Options") or {}) == wanted["Options"]
    )


def _in_the_way(shown: Mapping[str, Any], network: LocalNetwork, wanted: Mapping[str, Any]) -> bool:
    """Whether the engine would refuse the new network because of this one."""
    if shown["Name"] == network.name:
        return True
    if (shown.get("Options") or {}).get(_BRIDGE_OPTION) == wanted["Options"][_BRIDGE_OPTION]:
        return True
    subnet = _config(shown).get("Subnet")
    if not subnet:
        return False
    there, ours = ipaddress.ip_network(subnet, strict=False), ipaddress.ip_network(network.subnet, strict=False)
    return there.version == ours.version and there.overlaps(ours)
