"""Rolling updates: which slots get the new spec next, and when an update pauses or is complete. Pure.

Nothing of an update is kept but what the store has: its status on the service, and the tasks it made, with their
times. So a new leader goes on where the old one stopped.
"""

from collections.abc import Sequence

from pyswarm.common.types import SECOND_NS, Task, TaskState, UpdateConfig, UpdateStatus, timestamp
from pyswarm.manager.orchestrator import actions as act
from pyswarm.manager.orchestrator.plan_slots import Situation, Slot

UPDATING = "updating"
PAUSED = "paused"
COMPLETED = "completed"


def config_of(now: Situation) -> UpdateConfig:
    """The service's update configuration, or the defaults."""
    return now.service.spec.update_config or UpdateConfig()


def pause_status(now: Situation, tasks: Sequence[Task]) -> UpdateStatus | None:
    """The status that pauses the running update, when too many of its tasks ended early; else None."""
    status = now.service.update_status
    config = config_of(now)
    if status is None or status.state != UPDATING or config.failure_action != "pause":
        return None
    started_s = _started_s(status)
    failed = [t for t in tasks if _failed_early(now, t, started_s, config)]
    if not failed:
        return None
    to_update = {
        t.slot
        for t in tasks
        if t.desired_state is not TaskState.REMOVE and (not now.is_clean(t) or _made_by_update(t, started_s))
    }
    if len({t.slot for t in failed}) / max(len(to_update), 1) <= config.max_failure_ratio:
        return None
    return UpdateStatus(
        state=PAUSED,
        started_at=status.started_at,
        message=f"update paused due to failure or early termination of task {failed[-1].id}",
    )


def _failed_early(now: Situation, task: Task, started_s: float, config: UpdateConfig) -> bool:
    state = task.status.state
    if state not in (TaskState.FAILED, TaskState.REJECTED, TaskState.COMPLETE):
        return False
    if not now.is_clean(task) or not _made_by_update(task, started_s):
        return False
    told_to_end = task.desired_state.rank > TaskState.RUNNING.rank and not (
        task.stop_reason == act.ENDED or task.stop_reason.startswith(act.NOT_RESTARTED)
    )
    if told_to_end:
        return False
    ran = now.run_times.get(task.id)
    if ran is None:
        return True
    ended_s = now.now_s if ran.ended_s is None else ran.ended_s
    return ended_s - ran.since_s < config.monitor_ns / SECOND_NS


def plan_update(now: Situation, slots: Sequence[Slot]) -> UpdateStatus | None:
    """Add to the slots what the update does now; returns the service's new update status, None if unchanged."""
    status = now.service.update_status
    dirty = [slot for slot in slots if slot.is_dirty()]
    state = status.state if status is not None else ""
    if now.paused or (not dirty and state != UPDATING):
        return None
    started: UpdateStatus | None = None
    if status is None or state != UPDATING:
        started = status = UpdateStatus(
            state=UPDATING, started_at=timestamp(now.now_s), message="update in progress"
        )
    config = config_of(now)
    started_s = _started_s(status)
    busy = sum(1 for slot in slots if _in_progress(now, slot, started_s, config))
    capacity = (config.parallelism or len(dirty) + busy) - busy
    for slot in sorted(dirty, key=lambda s: (s.is_running, s.number))[: max(capacity, 0)]:
        _replace(slot, start_first=config.order == "start-first" and not _needs_host_port(now))
    if started is not None:
        return started
    if not dirty and not busy and _has_held(now, slots, started_s, config):
        return UpdateStatus(
            state=COMPLETED,
            started_at=status.started_at,
            completed_at=timestamp(now.now_s),
            message="update completed",
        )
    return None


def _needs_host_port(now: Situation) -> bool:
    """A new task could wait for ever for the host port that the old one has: it cannot come first."""
    return any(p.publish_mode == "host" and p.published_port for p in now.service.endpoint.ports)


def _replace(slot: Slot, *, start_first: bool) -> None:
    """Stop what is there and make a new task; or, start-first, let one that runs go on until the new one does.
    One only: an update overtaken by the next leaves a task half-way up as well."""
    running = [task for task in slot.wanted if task.status.state is TaskState.RUNNING]
    kept = running[:1] if start_first else []
    for task in list(slot.wanted):
        if task not in kept:
            slot.stop(task, act.UPDATE)
    slot.create(act.UPDATE)


def _in_progress(now: Situation, slot: Slot, started_s: float, config: UpdateConfig) -> bool:
    """Its new task is on the way, or runs for less than the delay between two."""
    for task in slot.wanted:
        if task.reason != act.UPDATE or not now.is_clean(task) or not _made_by_update(task, started_s):
            continue
        if task.status.state is not TaskState.RUNNING:
            return True
        free_s = now.running_since_s(task) + config.delay_ns / SECOND_NS
        if now.now_s < free_s:
            now.wake_at(free_s)
            return True
    return False


def _has_held(now: Situation, slots: Sequence[Slot], started_s: float, config: UpdateConfig) -> bool:
    """Every slot the update touched runs, and the last of them has run for the monitor period."""
    latest_s = 0.0
    for slot in slots:
        if not any(now.is_clean(t) and _made_by_update(t, started_s) for t in slot.tasks):
            continue
        if slot.settled:
            continue
        running = [t for t in slot.wanted if now.is_clean(t) and t.status.state is TaskState.RUNNING]
        if not running:
            return False
        latest_s = max(latest_s, *(now.running_since_s(t) for t in running))
    held_s = latest_s + config.monitor_ns / SECOND_NS
    if now.now_s < held_s:
        now.wake_at(held_s)
        return False
    return True


def _made_by_update(task: Task, started_s: float) -> bool:
    return task.reason != act.SCALE and task.created_at.timestamp() >= started_s


def _started_s(status: UpdateStatus) -> float:
    return status.started_at.timestamp() if status.started_at is not None else 0.0
