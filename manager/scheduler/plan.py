"""Which node each waiting task gets. Pure.

Tasks of one spec are placed together: the nodes are filtered once, and each task goes to the one that has the
fewest tasks of its service, then the fewest at all; nodes on which the service keeps failing come last.
"""

import heapq
from collections.abc import Iterable, Iterator

import msgspec

from pyswarm.common.types import Task, TaskState
from pyswarm.manager.scheduler.filters import Pipeline
from pyswarm.manager.scheduler.nodes import ClusterLoad, NodeLoad


class Placement(msgspec.Struct, frozen=True):
    """A task and its node; or, without one, why it has none."""

    task: Task
    node_id: str = ""
    err: str = ""


def is_waiting(task: Task) -> bool:
    """It waits for the scheduler: it has its addresses and is wanted."""
    return (
        task.status.state is TaskState.PENDING
        and not task.node_id
        and task.desired_state.rank <= TaskState.RUNNING.rank
        and len(task.networks) >= len(task.network_ids)
    )


def plan_placements(waiting: Iterable[Task], cluster: ClusterLoad, now_s: float) -> Iterator[Placement]:
    """Place what can be placed, counting it in ``cluster`` at once; yields only what changes something."""
    groups: dict[tuple[object, ...], list[Task]] = {}
    for task in waiting:
        # The store lets tasks share their spec object; where it did not, a group is merely smaller.
        groups.setdefault((task.service_id, id(task.spec), task.ports), []).append(task)
    for tasks in groups.values():
        yield from _place_group(tasks, cluster, now_s)


def _place_group(tasks: list[Task], cluster: ClusterLoad, now_s: float) -> Iterator[Placement]:
    service_id = tasks[0].service_id
    pipeline = Pipeline(tasks[0])
    heap = [(_order(load, service_id, now_s), load) for load in cluster.loads.values() if pipeline.check(load)]
    heapq.heapify(heap)
    for task in tasks:
        # A node that was fit may be full by now; it is counted as ruled out and not looked at again.
        while heap and not pipeline.check(heap[0][1]):
            heapq.heappop(heap)
        if heap:
            load = heap[0][1]
            cluster.place(task, load.node.id)
            heapq.heapreplace(heap, (_order(load, service_id, now_s), load))
            yield Placement(task, load.node.id)
        else:
            err = pipeline.explain()
            if task.status.err != err:
                yield Placement(task, err=err)


def _order(load: NodeLoad, service_id: str, now_s: float) -> tuple[bool, int, int, str]:
    return (load.avoided_for(service_id, now_s), load.by_service[service_id], load.tasks, load.node.id)
