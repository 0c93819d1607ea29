"""The cluster networks this host takes part in: made before first use, kept a while after the last."""

import asyncio
import ipaddress
from collections.abc import Sequence

from pyswarm.agent.dataplane import DataPlane, local
from pyswarm.agent.engine import Attachment, ContainerInfo, Engine, EngineError, EngineUnavailable
from pyswarm.common.clock import Clock
from pyswarm.common.errors import PyswarmError
from pyswarm.common.log import get_logger
from pyswarm.common.tasks import TaskGroupOwner
from pyswarm.common.types import Network, Task, TaskNetwork
from pyswarm.overlay.api import LocalNetwork

log = get_logger("agent")

#: A task that is replaced must not find its network taken apart in between.
GRACE_S = 10.0


class UnknownNetwork(EngineError):
    """A task names a network nobody told this node of."""


class NetworkKeeper:
    """Counts which tasks use which network. All work on one network happens one piece at a time."""

    def __init__(
        self, engine: Engine, overlay: DataPlane, clock: Clock, tasks: TaskGroupOwner, *, grace_s: float = GRACE_S
    ) -> None:
        self._engine = engine
        self._overlay = overlay
        self._clock = clock
        self._tasks = tasks
        self._grace_s = grace_s
        self._known: dict[str, Network] = {}
        self._users: dict[str, set[str]] = {}
        self._in_place: dict[str, LocalNetwork] = {}
        self._leaving: set[str] = set()
        self._restoring_later = False
        self._lock = asyncio.Lock()

    def know(self, network: Network) -> None:
        """A network tasks may use."""
        self._known[network.id] = network

    def forget(self, network_id: str) -> None:
        """The managers removed it, or no task here needs it: it goes without a grace period, once unused."""
        self._known.pop(network_id, None)
        if network_id in self._in_place and not self._users.get(network_id):
            self._tasks.spawn(self._leave(network_id), "leave-network")

    def attachments(self, task: Task) -> Sequence[Attachment]:
        """A task's addresses with their networks, in the task's order. Raises UnknownNetwork."""
        found = []
        for wanted in task.networks:
            network = self._known.get(wanted.network_id)
            if network is None:
                raise UnknownNetwork(f"network {wanted.network_id} is not known on this node")
            found.append(Attachment(local(network), wanted.addr.partition("/")[0], wanted.mac))
        return found

    def needs_egress(self, task: Task) -> bool:
        """Whether any of its networks leads outside, or it answers clients there."""
        if task.ports:
            return True
        networks = [self._known.get(wanted.network_id) for wanted in task.networks]
        return any(network is not None and not network.spec.internal for network in networks)

    def use(self, task: Task) -> None:
        """From now on this task needs its networks."""
        for wanted in task.networks:
            self._users.setdefault(wanted.network_id, set()).add(task.id)

    async def bring_up(self, task: Task) -> None:
        """Have the task's networks in the engine and in the overlay."""
        for attachment in self.attachments(task):
            async with self._lock:
                network = attachment.network
                if self._in_place.get(network.network_id) != network:
                    await self._clear_way(network)
                    await self._put_in_place(network)

    def introduce(self, task: Task, container: ContainerInfo) -> None:
        """Have the task's container given the names on its networks, as far as its addresses are known."""
        if task.networks:
            addrs = [wanted.addr.partition("/")[0] for wanted in task.networks]
            named = [attached.network_id for attached in task.networks if self._has_names(attached)]
            pid = container.pid if container.running else 0
            self._overlay.set_client(task.id, addrs, named, egress_addr=container.egress_addr, pid=pid)

    async def let_in(self, task: Task, container: ContainerInfo) -> None:
        """Have what comes to the task's published ports led to its container."""
        if task.mesh_network_id and container.egress_addr:
            await self._overlay.let_in(task.id, container.egress_addr)

    def _has_names(self, attached: TaskNetwork) -> bool:
        """Those that merely share the ingress network have nothing to do with each other."""
        network = self._known.get(attached.network_id)
        return network is None or not network.spec.ingress

    def release(self, task: Task) -> None:
        """The task needs its networks no more."""
        self._overlay.forget_client(task.id)
        for wanted in task.networks:
            users = self._users.get(wanted.network_id, set())
            users.discard(task.id)
            if users or wanted.network_id not in self._in_place:
                continue
            if wanted.network_id not in self._known:
                self._tasks.spawn(self._leave(wanted.network_id), "leave-network")
            elif wanted.network_id not in self._leaving:
                self._leaving.add(wanted.network_id)
                self._tasks.spawn(self._leave_later(wanted.network_id), "leave-network-later")

    async def restore(self) -> None:
        """Put every network in use in place again, as after a restart of this process or of the engine."""
        for network_id in [network_id for network_id, users in self._users.items() if users]:
            network = self._known.get(network_id)
            if network is None:
                continue
            try:
                async with self._lock:
                    await self._put_in_place(local(network))
            except EngineUnavailable:
                raise
            except PyswarmError as exc:
                log.warning("cannot restore a network in use", network=network.spec.name, reason=str(exc))
                if not self._restoring_later:
                    self._restoring_later = True
                    self._tasks.spawn(self._restore_later(), "restore-networks-later")

    async def _restore_later(self) -> None:
        await self._clock.sleep(self._grace_s)
        self._restoring_later = False
        try:
            await self.restore()
        except PyswarmError as exc:
            log.warning("cannot restore networks without the engine", reason=str(exc))  # its return does

    async def sweep(self) -> None:
        """Remove what an earlier process left: local networks and devices nobody here uses."""
        in_use = {network_id for network_id, users in self._users.items() if users}
        for network_id in await self._engine.network_ids():
            if network_id not in in_use and network_id not in self._in_place:
                await self._leave(network_id)
        await self._overlay.prune(in_use | set(self._in_place))

    async def leave_all(self) -> None:
        """Take every network apart, used or not."""
        self._users.clear()
        for network_id in {*self._in_place, *await self._engine.network_ids()}:
            await self._leave(network_id)
        await self._engine.remove_egress()
        await self._overlay.leave_mesh()
        await self._overlay.prune()

    async def leave_overlay(self) -> None:
        """Take part in no network any more, without asking the engine for anything."""
        for network_id in list(self._in_place):
            await self._overlay.detach(network_id)
        await self._overlay.leave_mesh()
        await self._overlay.prune()

    async def _put_in_place(self, network: LocalNetwork) -> None:
        await self._engine.ensure_network(network)
        await self._overlay.attach(network)
        self._in_place[network.network_id] = network

    async def _clear_way(self, network: LocalNetwork) -> None:
        """Take apart what is only in its grace period and shares a name, a VNI or addresses with ``network``."""
        for other in list(self._in_place.values()):
            if not self._users.get(other.network_id) and _clash(other, network):
                await self._take_apart(other.network_id)

    async def _leave_later(self, network_id: str) -> None:
        await self._clock.sleep(self._grace_s)
        self._leaving.discard(network_id)
        await self._leave(network_id)

    async def _leave(self, network_id: str) -> None:
        async with self._lock:
            if self._users.get(network_id):
                return
            try:
                await self._take_apart(network_id)
            except PyswarmError as exc:
                # What stays is found by the next sweep, which the engine's return starts.
                log.warning("cannot remove a local network yet", network=network_id, reason=str(exc))

    async def _take_apart(self, network_id: str) -> None:
        await self._overlay.detach(network_id)
        self._in_place.pop(network_id, None)
        self._users.pop(network_id, None)
        await self._engine.remove_network(network_id)


def _clash(one: LocalNetwork, other: LocalNetwork) -> bool:
    if one.name == other.name or one.vni == other.vni:
        return True
    mine, theirs = (ipaddress.ip_network(network.subnet, strict=False) for network in (one, other))
    return mine.version == theirs.version and mine.overlaps(theirs)
