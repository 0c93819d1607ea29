"""The agent's figures."""

from collections import Counter as Tally
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from pyswarm.common.types import TaskState

_CALL_BUCKETS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class AgentMetrics:
    """All of them, on one registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.tasks = Gauge("pyswarm_agent_tasks", "Tasks on this node by state.", ["state"], registry=registry)
        self.session_connected = Gauge(
            "pyswarm_agent_session_connected", "1 while the leader hears this node.", registry=registry
        )
        self.engine_up = Gauge("pyswarm_agent_engine_up", "1 while the engine answers.", registry=registry)
        self.container_starts = Counter("pyswarm_agent_container_starts", "Containers started.", registry=registry)
        self.engine_call_seconds = Histogram(
            "pyswarm_agent_engine_call_seconds",
            "Time until the engine answered.",
            ["call"],
            buckets=_CALL_BUCKETS,
            registry=registry,
        )

        self._registry = registry

    def close(self) -> None:
        """Take them off the registry, so that the agent of a later membership can put up its own."""
        for collector in (
            self.tasks,
            self.session_connected,
            self.engine_up,
            self.container_starts,
            self.engine_call_seconds,
        ):
            self._registry.unregister(collector)

    def observe_call(self, name: str, seconds: float) -> None:
        """One call to the engine."""
        self.engine_call_seconds.labels(name).observe(seconds)

    def count_tasks(self, states: Iterable[TaskState]) -> None:
        """Set the number of tasks of each state."""
        tally = Tally(states)
        for state in TaskState:
            self.tasks.labels(state.value).set(tally.get(state, 0))
