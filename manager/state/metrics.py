"""Metrics of the store, counted when they are asked for rather than kept."""

from collections import Counter
from collections.abc import Iterable

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from pyswarm.common.types import TaskState
from pyswarm.manager.state.store import Store


class StoreMetrics(Collector):
    """Objects by kind, tasks by state, and how far the log is applied. Scraping may happen on another thread:
    it works on a copy of the tables' contents."""

    def __init__(self, store: Store, registry: CollectorRegistry) -> None:
        self._store = store
        registry.register(self)

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """One scrape."""
        view = self._store.view
        objects = GaugeMetricFamily("pyswarm_store_objects", "Objects in the store", labels=["kind"])
        for table in (view.nodes, view.services, view.tasks, view.networks):
            objects.add_metric([table.kind], len(table))
        yield objects
        yield GaugeMetricFamily("pyswarm_store_index", "Index of the last log entry applied", value=view.index)
        states: Counter[str] = Counter(task.status.state.value for task in tuple(view.tasks.values()))
        tasks = GaugeMetricFamily("pyswarm_tasks", "Tasks by observed state", labels=["state"])
        for state in TaskState:
            tasks.add_metric([state.value], states[state.value])
        yield tasks
