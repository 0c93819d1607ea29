"""One slot of a replicated service: which of its tasks go on, which end, whether a new one is due. Pure."""

from collections.abc import Iterable, Mapping

import msgspec

from pyswarm.common.types import (
    SECOND_NS,
    Node,
    NodeAvailability,
    NodeState,
    RestartPolicy,
    Service,
    Task,
    TaskSpec,
    TaskState,
)
from pyswarm.manager.orchestrator import actions as act


class RunTime(msgspec.Struct, frozen=True):
    """When a task was first seen running, and when it was seen to have ended, in seconds since the epoch."""

    since_s: float
    ended_s: float | None = None


class Situation:
    """Everything a plan for one service is made from, and the time at which it wants to look again."""

    def __init__(
        self, service: Service, nodes: Mapping[str, Node], now_s: float, run_times: Mapping[str, RunTime]
    ) -> None:
        self.service = service
        self.template: TaskSpec = service.spec.task_template
        self.policy: RestartPolicy = self.template.restart_policy
        self.nodes = nodes
        self.now_s = now_s
        self.run_times = run_times
        self.paused = False
        self.wake_at_s: float | None = None

    def wake_at(self, at_s: float) -> None:
        """Look again then, at the latest."""
        self.wake_at_s = at_s if self.wake_at_s is None else min(self.wake_at_s, at_s)

    def is_clean(self, task: Task) -> bool:
        """Made from the present spec and published alike. The store lets tasks share their service's spec, so
        mostly it is the same object."""
        if task.published != self.service.endpoint.published:
            return False
        return task.spec is self.template or task.spec == self.template

    def lost_because(self, task: Task) -> str:
        """Why a task cannot go on where it is; empty when it can."""
        if task.status.state is TaskState.ORPHANED:
            return act.NODE_REMOVED
        if not task.node_id:
            return ""
        node = self.nodes.get(task.node_id)
        if node is None:
            return act.NODE_REMOVED
        if node.status.state is NodeState.DOWN:
            return act.NODE_DOWN
        return act.NODE_DRAINED if node.spec.availability is NodeAvailability.DRAIN else ""

    def has_stopped(self, task: Task) -> bool:
        """Nobody has to wait for it: it ended, never began, or its node is not there to say."""
        if task.status.state.ended or not task.node_id:
            return True
        node = self.nodes.get(task.node_id)
        return node is None or node.status.state is NodeState.DOWN

    def running_since_s(self, task: Task) -> float:
        """When a running task began to run, as well as this leader can know."""
        known = self.run_times.get(task.id)
        return known.since_s if known is not None else task.updated_at.timestamp()


def is_wanted(task: Task) -> bool:
    """Whether it is to run: not told to end."""
    return task.desired_state.rank <= TaskState.RUNNING.rank


class Slot:
    """A slot and what becomes of it. ``tasks`` are all on record, oldest first; ``wanted`` those that are to go on
    once ``actions`` are carried out; ``created`` is the task to be made, if any."""

    def __init__(self, situation: Situation, number: int, tasks: Iterable[Task] = ()) -> None:
        self._now = situation
        self.number = number
        self.tasks = sorted(tasks, key=lambda t: (t.created_at, t.id))
        self.wanted: list[Task] = []
        self.actions: list[act.Action] = []
        self.created: act.CreateTask | None = None
        self.settled = False
        self._examine()

    @property
    def alive(self) -> bool:
        """It counts as one of the replicas."""
        return bool(self.wanted) or self.created is not None or self.settled

    @property
    def is_running(self) -> bool:
        """One of its tasks runs."""
        return any(t.status.state is TaskState.RUNNING for t in self.wanted)

    def stop(self, task: Task, why: str) -> None:
        """Tell one of its tasks to end."""
        self.actions.append(act.ChangeTask(task, TaskState.SHUTDOWN, why))
        self.wanted.remove(task)

    def create(self, reason: str, delay_s: float = 0.0) -> None:
        """Make a task: held while the slot's former one still stops, and for ``delay_s``."""
        held = delay_s > 0 or self._is_stopping()
        self.created = act.CreateTask(self.number, TaskState.READY if held else TaskState.RUNNING, reason)
        self.actions.append(self.created)
        self.settled = False
        if delay_s > 0:
            self._now.wake_at(self._now.now_s + delay_s)

    def promote(self) -> None:
        """Tell held tasks to run once nothing holds them any more."""
        if self._is_stopping():
            return
        for task in self.wanted:
            if task.desired_state is not TaskState.READY:
                continue
            due_s = self._due_s(task)
            if due_s > self._now.now_s:
                self._now.wake_at(due_s)
                continue
            self.actions.append(act.ChangeTask(task, TaskState.RUNNING))

    def _due_s(self, task: Task) -> float:
        created_s = task.created_at.timestamp()
        if task.reason != act.RESTART or created_s > self._now.now_s:
            # The second case: a clock was set back, or this leader's differs from its predecessor's.
            return self._now.now_s
        return created_s + self._now.policy.effective_delay_s

    def _is_held(self, task: Task) -> bool:
        """Its delay is still running. A held task is prepared at once; if that fails, for want of an image say,
        its own replacement must not come any sooner for it."""
        return task.desired_state is TaskState.READY and self._due_s(task) > self._now.now_s

    def remove(self) -> None:
        """Give the slot up: its tasks end and leave no history."""
        self.actions = [
            act.ChangeTask(t, TaskState.REMOVE, t.stop_reason or act.SCALED_DOWN)
            for t in self.tasks
            if t.desired_state is not TaskState.REMOVE
        ]
        self.wanted, self.created, self.settled = [], None, False

    def is_dirty(self) -> bool:
        """It runs an older spec than the service now has."""
        if self.created is not None:
            return False
        if self.wanted:
            return not any(self._now.is_clean(t) for t in self.wanted)
        return self.settled and not self._now.is_clean(self.tasks[-1])

    def _is_stopping(self) -> bool:
        wanted = {t.id for t in self.wanted}
        return any(t.id not in wanted and not self._now.has_stopped(t) for t in self.tasks)

    def _examine(self) -> None:
        ended: list[Task] = []
        why = ""
        for task in [t for t in self.tasks if is_wanted(t)]:
            self.wanted.append(task)
            lost = self._now.lost_because(task)
            if task.status.state.ended and task.status.state is not TaskState.ORPHANED:
                if not self._is_held(task):
                    ended.append(task)
            elif lost:
                why = lost
                self.stop(task, lost)
        refusal = self._refusal(ended[-1]) if ended else ""
        for task in ended:
            self.stop(task, act.NOT_RESTARTED + refusal if refusal else act.ENDED)
        if self.wanted:
            self._examine_siblings(ended, refusal)
        elif why:
            self.create(why)
        elif ended and not refusal:
            self.create(act.RESTART, self._now.policy.effective_delay_s)
        elif self.tasks:
            self.settled = bool(ended) or self._is_settled(self.tasks[-1])

    def _examine_siblings(self, ended: list[Task], refusal: str) -> None:
        """An update starts the new task beside the old one. If the new one ended, it is tried again, unless that
        failure paused the update: then the old one simply goes on."""
        clean = [t for t in self.wanted if self._now.is_clean(t)]
        if not clean and not refusal and not self._now.paused and any(self._now.is_clean(t) for t in ended):
            self.create(act.RESTART, self._now.policy.effective_delay_s)
        if not clean:
            return
        running = [t for t in clean if t.status.state is TaskState.RUNNING]
        chosen = (running or clean)[0]
        for task in list(self.wanted):
            if task is chosen:
                continue
            if self._now.is_clean(task):
                self.stop(task, act.SURPLUS)
            elif running:
                self.stop(task, act.UPDATE)

    def _is_settled(self, task: Task) -> bool:
        return (
            task.desired_state is TaskState.SHUTDOWN
            and task.status.state.ended
            and task.stop_reason.startswith(act.NOT_RESTARTED)
        )

    def _refusal(self, task: Task) -> str:
        """Why the restart policy leaves an ended task as it is; empty when it is to be replaced."""
        policy = self._now.policy
        if policy.condition == "none":
            return "the restart condition is none"
        if policy.condition == "on-failure" and task.status.state is TaskState.COMPLETE:
            return "it completed"
        if policy.max_attempts:
            since_s = self._now.now_s - (policy.window_ns or 0) / SECOND_NS if policy.window_ns else 0.0
            attempts = sum(
                1
                for t in self.tasks
                if t.reason == act.RESTART and self._now.is_clean(t) and t.created_at.timestamp() >= since_s
            )
            if attempts >= policy.max_attempts:
                return f"restarted {attempts} times already"
        return ""
