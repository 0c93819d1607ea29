"""What can go wrong with an engine, in words that may stand in a task's status."""

from typing import ClassVar

from pyswarm.common.errors import FailedPrecondition, PyswarmError


class EngineError(PyswarmError):
    """The engine refused what was asked; asking again gives the same answer."""

    code: ClassVar[str] = "engine"


class EngineUnavailable(EngineError):
    """The engine cannot be reached or did not answer in time. It may be back any moment."""

    http_status: ClassVar[int] = 503
    retryable: ClassVar[bool] = True


class NoSuchImage(EngineError):
    """The image is not on this host, and no registry gave it. ``reason`` is what the pull said."""

    http_status: ClassVar[int] = 404

    def __init__(self, image: str, reason: str = "") -> None:
        super().__init__(f"No such image: {image}")
        self.reason = reason


class NoSuchContainer(EngineError):
    """There is no container of that name."""

    http_status: ClassVar[int] = 404

    def __init__(self, name: str) -> None:
        super().__init__(f"No such container: {name}")


class LogsUnreadable(EngineError):
    """The container's logs go where the engine cannot read them back from."""


class NameConflict(EngineError):
    """The name is taken by something that is not ours."""

    http_status: ClassVar[int] = 409


class NativeSwarmActive(FailedPrecondition):
    """The engine takes part in Docker's own swarm, whose names and networks would meet ours."""
