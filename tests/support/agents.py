"""Tasks and networks to give to an agent, an overlay that only remembers, and agents put together for a test."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from pyswarm.agent.agent import Agent
from pyswarm.agent.engine import Engine
from pyswarm.agent.files import FolderDoor
from pyswarm.common.clock import Clock, SystemClock
from pyswarm.common.errors import PyswarmError
from pyswarm.common.ids import new_id
from pyswarm.common.tls import TLSIdentity
from pyswarm.common.types import (
    SECOND_NS,
    Config,
    ConfigReference,
    ConfigSpec,
    ContainerSpec,
    FileTarget,
    Limit,
    Network,
    NetworkSpec,
    ResourceRequirements,
    Secret,
    SecretReference,
    SecretSpec,
    Task,
    TaskNetwork,
    TaskSpec,
    TaskState,
    TaskStatus,
)
from pyswarm.overlay.api import LocalNetwork

#: A shell that ends at once when asked to.
SLEEPER = ("sh", "-c", "trap 'exit 0' TERM; while :; do sleep 60 & wait; done")


def mac_of(addr: str) -> str:
    """The MAC the allocator gives with an address, which is also the engine's own choice."""
    return "02:42:" + ":".join(f"{int(number):02x}" for number in addr.split("."))


def a_network(name: str = "app", vni: int = 4097, subnet: str = "10.77.1.0/24", **spec: Any) -> Network:
    """A network as the allocator leaves it."""
    return Network(
        id=new_id(),
        spec=NetworkSpec(name=name, **spec),
        subnet=subnet,
        gateway=subnet.rpartition(".")[0] + ".1",
        vni=vni,
    )


def a_task(
    node_id: str,
    args: Sequence[str] = SLEEPER,
    *,
    image: str = "busybox:latest",
    slot: int = 1,
    networks: Iterable[tuple[Network, int]] = (),
    desired: TaskState = TaskState.RUNNING,
    limits: Limit | None = None,
    grace_s: float = 3.0,
    **spec: Any,
) -> Task:
    """A task as the scheduler leaves it; a network comes with the last number of the address in it."""
    return Task(
        id=new_id(),
        service_id="s" * 25,
        service_name="web",
        slot=slot,
        node_id=node_id,
        spec=TaskSpec(
            container_spec=ContainerSpec(
                image=image, args=tuple(args), stop_grace_period_ns=int(grace_s * SECOND_NS), **spec
            ),
            resources=ResourceRequirements(limits=limits or Limit()),
        ),
        status=TaskStatus(state=TaskState.ASSIGNED),
        desired_state=desired,
        networks=tuple(
            TaskNetwork(
                network_id=network.id,
                addr=f"{network.subnet.rpartition('.')[0]}.{host}/24",
                mac="02:42:"
                + ":".join(f"{int(n):02x}" for n in f"{network.subnet.rpartition('.')[0]}.{host}".split(".")),
            )
            for network, host in networks
        ),
    )


def a_secret(name: str = "tok", data: bytes = b"hunter2") -> Secret:
    """A secret as the leader sends it."""
    return Secret(id=new_id(), spec=SecretSpec(name=name, data=data))


def a_config(name: str = "conf", data: bytes = b"x=1") -> Config:
    """A config as the leader sends it."""
    return Config(id=new_id(), spec=ConfigSpec(name=name, data=data))


def using(*files: tuple[Secret | Config, FileTarget]) -> dict[str, Any]:
    """The fields of a container's spec that name these."""
    return {
        "secrets": tuple(
            SecretReference(file=target, secret_id=obj.id, secret_name=obj.spec.name)
            for obj, target in files
            if isinstance(obj, Secret)
        ),
        "configs": tuple(
            ConfigReference(file=target, config_id=obj.id, config_name=obj.spec.name)
            for obj, target in files
            if isinstance(obj, Config)
        ),
    }


async def until(probe: Callable[[], Any], what: str, timeout_s: float = 10.0) -> None:
    """Wait until ``probe()`` is true; fail with ``what`` after ``timeout_s`` seconds."""
    try:
        async with asyncio.timeout(timeout_s):
            while not probe():  # noqa: ASYNC110 - what is awaited has no event of its own
                await asyncio.sleep(0.01)
    except TimeoutError:
        pytest.fail(f"not within {timeout_s:g} s: {what}")


class RememberingOverlay:
    """Stands for the overlay; ``failures`` are raised by the next attachments, one each."""

    def __init__(self) -> None:
        self.networks: dict[str, LocalNetwork] = {}
        self.attachments = 0
        self.failures: list[PyswarmError] = []
        self.kept: set[str] | None = None
        self.in_mesh = True
        self.ways_in: dict[str, str] = {}
        self.on_let_in: Callable[[], None] = lambda: None
        self.clients: dict[str, tuple[list[str], list[str]]] = {}

    async def attach(self, network: LocalNetwork) -> None:
        """Remember."""
        self.attachments += 1
        if self.failures:
            raise self.failures.pop(0)
        self.networks[network.network_id] = network

    async def detach(self, network_id: str) -> None:
        """Forget."""
        self.networks.pop(network_id, None)

    async def leave_mesh(self) -> None:
        """Remember."""
        self.in_mesh = False

    async def prune(self, keep_network_ids: Iterable[str] = ()) -> None:
        """Remember what was to be kept."""
        self.kept = set(keep_network_ids)

    async def until_withdrawn(self) -> None:
        """Nobody ever is."""

    def set_client(
        self,
        client_id: str,
        addrs: Iterable[str],
        network_ids: Iterable[str],
        *,
        egress_addr: str = "",
        pid: int = 0,
    ) -> None:
        """Remember."""
        self.clients[client_id] = ([*addrs, *([egress_addr] if egress_addr else [])], list(network_ids))

    async def let_in(self, client_id: str, egress_addr: str) -> None:
        """Remember."""
        self.on_let_in()
        self.ways_in[client_id] = egress_addr

    def forget_client(self, client_id: str) -> None:
        """Forget."""
        self.clients.pop(client_id, None)


def an_agent(
    identity: TLSIdentity,
    managers: Sequence[str],
    engine: Engine,
    folder: Path,
    overlay: RememberingOverlay | None = None,
    on_session: Callable[[Any], None] = lambda _message: None,
    clock: Clock | None = None,
    folders: FolderDoor | None = None,
) -> Agent:
    """An agent with its data in ``folder``."""
    return Agent(
        identity=identity,
        managers=managers,
        engine=engine,
        overlay=overlay or RememberingOverlay(),
        data_dir=str(folder),
        run_dir=str(folder / "run"),
        folders=folders,
        clock=clock or SystemClock(),
        registry=CollectorRegistry(),
        underlay_addr="127.0.0.1",
        on_session=on_session,
    )
