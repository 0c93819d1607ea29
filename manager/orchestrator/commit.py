"""Carries out the steps of plans: many in one transaction, each only if what it builds on is unchanged."""

from collections.abc import Iterable, Sequence

import msgspec

from pyswarm.common.ids import new_id
from pyswarm.common.types import Service, Task, TaskState, TaskStatus
from pyswarm.manager.orchestrator.actions import (
    ChangeTask,
    CreateTask,
    DeleteTask,
    OrphanTask,
    SetUpdateStatus,
    Step,
)
from pyswarm.manager.state import MAX_CHANGES, Store, Transaction, View


async def commit_steps(store: Store, steps: Sequence[Step], reason: str) -> Sequence[Step]:
    """Carry out all steps that still hold; returns those that did not."""
    void: list[Step] = []
    for batch in _batches(steps):
        void += await store.update_each(batch, _carry_out, reason=reason)
    return void


def tasks_of(step: Step) -> list[Task]:
    """The tasks a step changes, as its plan saw them."""
    return [a.task for a in step.actions if isinstance(a, (ChangeTask, DeleteTask, OrphanTask))]


def service_ids(step: Step) -> set[str]:
    """The services a step is about."""
    found = {task.service_id for task in tasks_of(step)}
    return found | {step.service.id} if step.service is not None else found


def _batches(steps: Iterable[Step]) -> Iterable[list[Step]]:
    batch: list[Step] = []
    changes = 0
    for step in steps:
        if batch and changes + len(step.actions) > MAX_CHANGES:
            yield batch
            batch, changes = [], 0
        batch.append(step)
        changes += len(step.actions)
    if batch:
        yield batch


def _carry_out(tx: Transaction, step: Step) -> bool:
    service = None
    if step.service is not None:
        service = tx.view.services.get(step.service.id)
        if service is None or service.spec != step.service.spec:
            return False
    for action in step.actions:
        if not _holds(tx.view, action):
            return False
    for action in step.actions:
        if isinstance(action, CreateTask):
            if service is not None:
                tx.create(_new_task(tx, service, action))
        elif isinstance(action, ChangeTask):
            stop_reason = action.stop_reason or action.task.stop_reason
            tx.update(msgspec.structs.replace(action.task, desired_state=action.desired, stop_reason=stop_reason))
        elif isinstance(action, OrphanTask):
            status = msgspec.structs.replace(
                action.task.status,
                timestamp=tx.now,
                state=TaskState.ORPHANED,
                message="the task's node was removed from the swarm",
            )
            tx.update(msgspec.structs.replace(action.task, status=status))
        elif isinstance(action, DeleteTask):
            tx.delete(action.task)
        elif service is not None:
            tx.update(msgspec.structs.replace(service, update_status=action.status))
    return True


def _holds(view: View, action: CreateTask | ChangeTask | DeleteTask | OrphanTask | SetUpdateStatus) -> bool:
    if isinstance(action, (CreateTask, SetUpdateStatus)):
        return True
    current = view.tasks.get(action.task.id)
    return current is not None and current.version == action.task.version


def _new_task(tx: Transaction, service: Service, action: CreateTask) -> Task:
    return Task(
        id=new_id(),
        service_id=service.id,
        service_name=service.spec.name,
        service_labels=service.spec.labels,
        slot=action.slot,
        spec=service.spec.task_template,
        status=TaskStatus(timestamp=tx.now, state=TaskState.NEW, message="created"),
        desired_state=action.desired,
        ports=service.endpoint.ports,
        mesh_network_id=service.endpoint.mesh_network_id,
        reason=action.reason,
    )
