"""Which task records are no longer needed. Pure.

A record is forgotten only when its task is known to have ended, or never had a node: the record of a task on a
node that is merely down keeps its address reserved, because the task may still run there.
"""

from collections.abc import Container, Sequence

from pyswarm.common.types import Service, Task, TaskState
from pyswarm.manager.orchestrator import actions as act
from pyswarm.manager.orchestrator.actions import Step


def plan_reap(
    tasks: Sequence[Task], service: Service | None, nodes: Container[str], history_limit: int
) -> tuple[Step, ...]:
    """For the tasks of one slot. ``history_limit`` counts all records of a slot; below 0 all are kept."""
    steps: list[Step] = []
    kept: list[Task] = []
    for task in tasks:
        if task.node_id and task.node_id not in nodes and not task.status.state.ended:
            steps.append(Step(None, (act.OrphanTask(task),)))
            kept.append(task)
        elif _is_over(task, service):
            steps.append(Step(None, (act.DeleteTask(task),)))
        else:
            kept.append(task)
    if service is not None and history_limit >= 0:
        steps.extend(Step(None, (act.DeleteTask(task),)) for task in _too_old(kept, service, history_limit))
    return tuple(steps)


def _is_over(task: Task, service: Service | None) -> bool:
    unwanted = service is None or task.desired_state is TaskState.REMOVE
    if not task.node_id:
        return unwanted or task.desired_state.rank > TaskState.RUNNING.rank
    return unwanted and task.status.state.ended


def _too_old(kept: Sequence[Task], service: Service, history_limit: int) -> Sequence[Task]:
    """The oldest ended ones above the limit. The newest stays whatever the limit: if the restart policy left it as
    it is, it stands for its slot. A limited number of restarts is counted in the history, so that much is kept."""
    attempts = service.spec.task_template.restart_policy.max_attempts
    limit = max(history_limit, attempts + 1) if attempts else history_limit
    excess = len(kept) - limit
    if excess <= 0:
        return ()
    ordered = sorted(kept, key=lambda t: (t.created_at, t.id))
    ended = [t for t in ordered[:-1] if t.status.state.ended and t.desired_state.rank > TaskState.RUNNING.rank]
    return ended[:excess]
