"""Domain objects. Immutable, shared freely, encoded as msgpack in the log and as Docker's JSON for clients."""

from pyswarm.common.types.base import EPOCH, Object, Version, timestamp
from pyswarm.common.types.cluster import Cluster, ClusterSpec, JoinTokens
from pyswarm.common.types.network import IPAMConfig, Network, NetworkSpec
from pyswarm.common.types.node import (
    EngineDescription,
    ManagerStatus,
    Node,
    NodeAvailability,
    NodeDescription,
    NodeRole,
    NodeSpec,
    NodeState,
    NodeStatus,
    Platform,
    Resources,
)
from pyswarm.common.types.service import (
    SECOND_NS,
    ContainerSpec,
    EndpointSpec,
    Limit,
    NetworkAttachmentConfig,
    ReplicatedMode,
    ResourceRequirements,
    RestartPolicy,
    Service,
    ServiceMode,
    ServiceSpec,
    TaskSpec,
    UpdateConfig,
    UpdateStatus,
)
from pyswarm.common.types.task import ContainerStatus, Task, TaskNetwork, TaskState, TaskStatus

__all__ = [
    "EPOCH", "SECOND_NS", "Cluster", "ClusterSpec", "ContainerSpec", "ContainerStatus", "EndpointSpec",
    "EngineDescription", "IPAMConfig", "JoinTokens", "Limit", "ManagerStatus", "Network",
    "NetworkAttachmentConfig", "NetworkSpec", "Node", "NodeAvailability", "NodeDescription", "NodeRole",
    "NodeSpec", "NodeState", "NodeStatus", "Object", "Platform", "ReplicatedMode", "ResourceRequirements",
    "Resources", "RestartPolicy", "Service", "ServiceMode", "ServiceSpec", "Task", "TaskNetwork", "TaskSpec",
    "TaskState", "TaskStatus", "UpdateConfig", "UpdateStatus", "Version", "timestamp",
]  # fmt: skip
