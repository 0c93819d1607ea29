"""What an earlier membership left on this host, as when its engine was away while the host left its swarm."""

import asyncio
from collections.abc import Awaitable, Sequence
from pathlib import Path
from typing import Protocol

from pyswarm.agent.engine import ContainerInfo, EngineUnavailable
from pyswarm.agent.files import remove_leftover_files
from pyswarm.common.errors import PyswarmError
from pyswarm.common.log import get_logger
from pyswarm.overlay.api import remove_leftover_devices

log = get_logger("agent")

_GRACE_S = 10.0


class LeftoverEngine(Protocol):
    """What is asked of the engine; ``DockerEngine`` in earnest."""

    async def all_of_ours(self) -> Sequence[ContainerInfo]:
        """Every container pyswarm made for a task."""
        ...

    async def stop(self, name: str, grace_s: float) -> None:
        """Ask it to end, and end it after ``grace_s`` seconds."""
        ...

    async def remove(self, name: str) -> None:
        """Remove a container."""
        ...

    async def network_ids(self) -> Sequence[str]:
        """The cluster networks that have a local network here."""
        ...

    async def remove_network(self, network_id: str) -> None:
        """Remove the local network of a cluster network."""
        ...

    async def remove_egress(self) -> None:
        """Remove the way out of the host, if pyswarm made it."""
        ...


async def remove_leftovers(engine: LeftoverEngine, run_dir: Path) -> None:
    """Remove containers, networks, devices and secrets in memory that pyswarm left on a host that is in no swarm;
    nothing of others.

    Raises EngineUnavailable when the engine does not answer. What cannot be removed otherwise is logged, and does
    not hold up a new membership.
    """
    if devices := await remove_leftover_devices():
        log.info("removed network devices of an earlier membership", devices=devices)
    containers = await engine.all_of_ours()
    if containers:
        log.info("removing containers of an earlier membership", containers=len(containers))
    await asyncio.gather(*(_tried(_end(engine, each), each.name) for each in containers))
    await asyncio.to_thread(remove_leftover_files, run_dir)
    for network_id in await engine.network_ids():
        await _tried(engine.remove_network(network_id), network_id)
    await _tried(engine.remove_egress(), "the network that leads out of the host")


async def _end(engine: LeftoverEngine, container: ContainerInfo) -> None:
    await engine.stop(container.id, _GRACE_S)
    await engine.remove(container.id)


async def _tried(work: Awaitable[None], what: str) -> None:
    try:
        await work
    except EngineUnavailable:
        raise
    except PyswarmError as exc:
        log.warning("cannot remove what an earlier membership left", what=what, reason=str(exc))
