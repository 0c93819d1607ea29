"""Nodes: what the user wants of a host, what the host is, and how it is doing."""

from datetime import datetime
from enum import StrEnum

from pyswarm.common.types.base import EPOCH, Object, Version


class NodeRole(StrEnum):
    """What a node may do: workers run tasks, managers also keep the cluster's state."""

    WORKER = "worker"
    MANAGER = "manager"


class NodeAvailability(StrEnum):
    """``pause``: no new tasks. ``drain``: none at all."""

    ACTIVE = "active"
    PAUSE = "pause"
    DRAIN = "drain"


class NodeState(StrEnum):
    """Whether the node's agent is heard."""

    UNKNOWN = "unknown"
    DOWN = "down"
    READY = "ready"
    DISCONNECTED = "disconnected"


class NodeSpec(Object, frozen=True):
    """What the user sets on a node."""

    name: str = ""
    labels: dict[str, str] = {}
    role: NodeRole = NodeRole.WORKER
    availability: NodeAvailability = NodeAvailability.ACTIVE


class Platform(Object, frozen=True):
    """As the engine reports it: ``x86_64``, ``linux``."""

    architecture: str = ""
    os: str = ""


class Resources(Object, frozen=True):
    """CPU in billionths of a core, memory in bytes; 0 is no limit or nothing reserved."""

    nano_cpus: int = 0
    memory_bytes: int = 0


class EngineDescription(Object, frozen=True):
    """The Docker Engine of a node."""

    engine_version: str = ""
    labels: dict[str, str] = {}


class NodeDescription(Object, frozen=True):
    """What a node says about itself at each session; ``engine_error`` is why its engine cannot run tasks."""

    hostname: str = ""
    platform: Platform = Platform()
    resources: Resources = Resources()
    engine: EngineDescription = EngineDescription()
    engine_error: str = ""
    #: Ports on which the host itself listens, as ``tcp/22``.
    listening: tuple[str, ...] = ()


class NodeStatus(Object, frozen=True):
    """The managers' view of a node."""

    state: NodeState = NodeState.UNKNOWN
    message: str = ""
    addr: str = ""


class ManagerStatus(Object, frozen=True):
    """Of a manager: its address ``ip:2377``; leader and reachability are filled in when it is read."""

    leader: bool = False
    reachability: str = "reachable"
    addr: str = ""


class Node(Object, frozen=True):
    """A host that joined the cluster. ``underlay_addr`` is where other hosts' VXLAN reaches it."""

    id: str
    version: Version = Version()
    created_at: datetime = EPOCH
    updated_at: datetime = EPOCH
    spec: NodeSpec = NodeSpec()
    description: NodeDescription = NodeDescription()
    status: NodeStatus = NodeStatus()
    manager_status: ManagerStatus | None = None
    underlay_addr: str = ""
    #: This host's number in the routing mesh, from 1; 0 until it is given one.
    mesh_index: int = 0
