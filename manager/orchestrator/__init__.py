"""Makes and retires tasks so that each service has what its spec asks for."""

from pyswarm.manager.orchestrator.reaper import TaskReaper
from pyswarm.manager.orchestrator.replicated import ReplicatedOrchestrator

__all__ = ["ReplicatedOrchestrator", "TaskReaper"]
