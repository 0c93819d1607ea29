"""What a replicated service needs now: a function of its tasks, the nodes and the time. Pure.

Slots count from 1, and there are as many alive as the service has replicas. A slot is alive when it has a task
that is to run, or one that ended and is, by the restart policy, left as it is. All that is done to one slot is one
step, so that a replacement is never stored without the end of what it replaces.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from pyswarm.common.types import Node, Service, Task, TaskState
from pyswarm.manager.orchestrator import actions as act
from pyswarm.manager.orchestrator.actions import Plan, Step
from pyswarm.manager.orchestrator.plan_slots import RunTime, Situation, Slot
from pyswarm.manager.orchestrator.plan_update import PAUSED, pause_status, plan_update


def plan_service(
    service: Service,
    tasks: Sequence[Task],
    nodes: Mapping[str, Node],
    now_s: float,
    run_times: Mapping[str, RunTime] = {},
) -> Plan:
    """The steps that bring the service closer to its spec; none when it is there."""
    now = Situation(service, nodes, now_s, run_times)
    grouped: dict[int, list[Task]] = {}
    for task in tasks:
        grouped.setdefault(task.slot, []).append(task)
    paused = pause_status(now, tasks)
    now.paused = paused is not None or (
        service.update_status is not None and service.update_status.state == PAUSED
    )
    slots = {number: Slot(now, number, members) for number, members in grouped.items()}
    alive = [slot for slot in slots.values() if slot.alive]
    if len(alive) > service.spec.replicas:
        for slot in _to_remove(alive, len(alive) - service.spec.replicas):
            slot.remove()
    elif len(alive) < service.spec.replicas:
        _fill(now, slots, service.spec.replicas - len(alive))
    alive = [slot for slot in slots.values() if slot.alive]
    status = plan_update(now, alive) or paused
    for slot in alive:
        slot.promote()
    steps = [
        Step(service, tuple(slot.actions))
        for slot in sorted(slots.values(), key=lambda s: s.number)
        if slot.actions
    ]
    if status is not None:
        steps.insert(0, Step(service, (act.SetUpdateStatus(status),)))
    return Plan(tuple(steps), now.wake_at_s)


def plan_removed(tasks: Iterable[Task]) -> Plan:
    """The service is gone: all its tasks end. Those that ended already are left to the reaper."""
    return Plan(
        tuple(
            Step(None, (act.ChangeTask(task, TaskState.REMOVE, act.SERVICE_REMOVED),))
            for task in tasks
            if task.desired_state is not TaskState.REMOVE and not task.status.state.ended
        )
    )


def _fill(now: Situation, slots: dict[int, Slot], missing: int) -> None:
    """New tasks in the lowest free slots. Where a former task still stops, the new one waits for it."""
    number = 0
    while missing:
        number += 1
        slot = slots.get(number)
        if slot is None:
            slot = slots[number] = Slot(now, number)
        if not slot.alive:
            slot.create(act.SCALE)
            missing -= 1


def _to_remove(alive: Sequence[Slot], excess: int) -> list[Slot]:
    """Those without a node first, then from the nodes with the most copies; there the ones that do not run yet,
    then the highest numbers."""
    copies: Counter[str] = Counter()
    ranked: list[tuple[bool, int, bool, int, Slot]] = []
    for slot in sorted(alive, key=lambda s: (not s.is_running, s.number)):
        node_id = _node_of(slot)
        copies[node_id] += 1
        ranked.append((not node_id, copies[node_id], not slot.is_running, slot.number, slot))
    ranked.sort(key=lambda entry: entry[:4], reverse=True)
    return [entry[4] for entry in ranked[:excess]]


def _node_of(slot: Slot) -> str:
    placed = [t for t in slot.wanted if t.node_id]
    running = [t for t in placed if t.status.state is TaskState.RUNNING]
    return (running or placed)[0].node_id if placed else ""
