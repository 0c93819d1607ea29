"""The agent's door to the Docker Engine: the only importer of its client."""

from pyswarm.agent.engine.api import (
    NETWORK_LABEL,
    NODE_LABEL,
    OURS_LABEL,
    TASK_LABEL,
    Attachment,
    ContainerInfo,
    Engine,
    EngineEvent,
    FileMount,
    LogQuery,
)
from pyswarm.agent.engine.config import grace_s
from pyswarm.agent.engine.docker import DockerEngine
from pyswarm.agent.engine.errors import (
    EngineError,
    EngineUnavailable,
    LogsUnreadable,
    NameConflict,
    NativeSwarmActive,
    NoSuchContainer,
    NoSuchImage,
)

__all__ = [
    "NETWORK_LABEL",
    "NODE_LABEL",
    "OURS_LABEL",
    "TASK_LABEL",
    "Attachment",
    "ContainerInfo",
    "DockerEngine",
    "Engine",
    "EngineError",
    "EngineEvent",
    "EngineUnavailable",
    "FileMount",
    "LogQuery",
    "LogsUnreadable",
    "NameConflict",
    "NativeSwarmActive",
    "NoSuchContainer",
    "NoSuchImage",
    "grace_s",
]
