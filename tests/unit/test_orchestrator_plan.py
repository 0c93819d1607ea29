"""Plans for replicated services: converge, stand still when done, never run too many."""

import itertools
from datetime import timedelta

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from pyswarm.common.types import (
    SECOND_NS,
    ContainerSpec,
    Endpoint,
    Node,
    NodeAvailability,
    NodeSpec,
    NodeState,
    NodeStatus,
    PortConfig,
    ReplicatedMode,
    RestartPolicy,
    Service,
    ServiceMode,
    ServiceSpec,
    Task,
    TaskSpec,
    TaskState,
    TaskStatus,
    UpdateConfig,
    UpdateStatus,
    timestamp,
)
from pyswarm.manager.orchestrator.actions import (
    ChangeTask,
    CreateTask,
    DeleteTask,
    OrphanTask,
    Plan,
    SetUpdateStatus,
    Step,
)
from pyswarm.manager.orchestrator.plan import plan_removed, plan_service
from pyswarm.manager.orchestrator.plan_reaper import plan_reap
from pyswarm.manager.orchestrator.plan_slots import RunTime

NOW_S = 1_700_000_000.0
replace = msgspec.structs.replace


def make_service(
    replicas: int = 3, image: str = "a", config: UpdateConfig | None = None, **policy: object
) -> Service:
    template = TaskSpec(
        container_spec=ContainerSpec(image=image),
        restart_policy=RestartPolicy(**policy),  # type: ignore[arg-type]
    )
    spec = ServiceSpec(
        name="web",
        task_template=template,
        mode=ServiceMode(replicated=ReplicatedMode(replicas=replicas)),
        update_config=config,
    )
    return Service(id="s", spec=spec)


def make_node(name: str, state: NodeState = NodeState.READY, availability: str = "active") -> Node:
    spec = NodeSpec(availability=NodeAvailability(availability))
    return Node(id=name, spec=spec, status=NodeStatus(state=state))


NODES = {name: make_node(name) for name in ("n1", "n2", "n3")}


def make_task(service: Service, slot: int, state: str = "running", node: str = "n1", **fields: object) -> Task:
    base = Task(
        id=f"t{slot}{fields.pop('suffix', '')}",
        service_id=service.id,
        service_name="web",
        slot=slot,
        node_id=node,
        spec=service.spec.task_template,
        status=TaskStatus(state=TaskState(state)),
        created_at=timestamp(NOW_S - 100),
        updated_at=timestamp(NOW_S - 90),
        reason="scale",
    )
    return replace(base, **fields)


def plan(service: Service, tasks: list[Task], nodes: dict[str, Node] = NODES, now_s: float = NOW_S) -> Plan:
    return plan_service(service, tasks, nodes, now_s)


def summary(result: Plan) -> list[tuple[object, ...]]:
    found: list[tuple[object, ...]] = []
    for step in result.steps:
        for action in step.actions:
            if isinstance(action, CreateTask):
                found.append(("create", action.slot, action.desired.value, action.reason))
            elif isinstance(action, ChangeTask):
                found.append(("change", action.task.id, action.desired.value, action.stop_reason))
            elif isinstance(action, SetUpdateStatus):
                found.append(("status", action.status.state))
    return found


def test_missing_tasks_fill_the_lowest_free_slots() -> None:
    service = make_service(4)
    assert summary(plan(service, [make_task(service, 2), make_task(service, 5)])) == [
        ("create", 1, "running", "scale"),
        ("create", 3, "running", "scale"),
    ]
    assert plan(service, [make_task(service, n) for n in (1, 2, 3, 7)]) == Plan(())


def test_scaling_down_evens_out_the_nodes() -> None:
    service = make_service(3)
    tasks = [
        make_task(service, 1, node="n1"),
        make_task(service, 2, node="n1"),
        make_task(service, 3, node="n1"),
        make_task(service, 4, node="n2"),
        make_task(service, 5, node="n2", state="starting"),
        make_task(service, 6, node="n3"),
        make_task(service, 7, node="", state="pending"),
    ]
    removed = [entry[1] for entry in summary(plan(service, tasks))]
    assert removed == ["t2", "t3", "t5", "t7"]
    assert {entry[2:] for entry in summary(plan(service, tasks))} == {("remove", "scaled down")}


def test_a_removed_slot_takes_its_history_with_it() -> None:
    service = make_service(0)
    old = make_task(service, 1, "failed", suffix="old", created_at=timestamp(NOW_S - 200))
    old = replace(old, desired_state=TaskState.SHUTDOWN, stop_reason="ended")
    assert summary(plan(service, [old, make_task(service, 1)])) == [
        ("change", "t1old", "remove", "ended"),
        ("change", "t1", "remove", "scaled down"),
    ]


def test_an_ended_task_is_replaced_with_a_delay() -> None:
    service = make_service(1)
    result = plan(service, [make_task(service, 1, "failed")])
    assert summary(result) == [("change", "t1", "shutdown", "ended"), ("create", 1, "ready", "restart")]
    assert len(result.steps) == 1, "both or none"
    assert result.wake_at_s == NOW_S + 5
    without = make_service(1, delay_ns=0)
    assert summary(plan(without, [make_task(without, 1, "failed")]))[1] == ("create", 1, "running", "restart")


def test_a_held_task_is_told_to_run_when_its_time_has_come() -> None:
    service = make_service(1)
    created = timestamp(NOW_S)
    held = make_task(service, 1, "ready", desired_state=TaskState.READY, reason="restart", created_at=created)
    assert plan(service, [held], now_s=NOW_S + 4.9) == Plan((), NOW_S + 5)
    assert summary(plan(service, [held], now_s=NOW_S + 5)) == [("change", "t1", "running", "")]
    assert summary(plan(service, [held], now_s=NOW_S - 3600)) == [("change", "t1", "running", "")]


def test_a_held_task_that_cannot_be_prepared_brings_its_replacement_no_sooner() -> None:
    service = make_service(1)
    created = timestamp(NOW_S)
    held = make_task(service, 1, "rejected", desired_state=TaskState.READY, reason="restart", created_at=created)
    assert plan(service, [held], now_s=NOW_S + 1) == Plan((), NOW_S + 5)
    later = plan(service, [held], now_s=NOW_S + 5)
    assert summary(later) == [("change", "t1", "shutdown", "ended"), ("create", 1, "ready", "restart")]


def test_a_held_task_waits_for_the_slot_s_former_one_unless_its_node_is_down() -> None:
    service = make_service(1)
    held = make_task(service, 1, "ready", desired_state=TaskState.READY, reason="update", node="n2")
    old = make_task(service, 1, desired_state=TaskState.SHUTDOWN, suffix="old")
    assert plan(service, [old, held]) == Plan(())
    nodes = {**NODES, "n1": make_node("n1", NodeState.DOWN)}
    assert summary(plan(service, [old, held], nodes)) == [("change", "t1", "running", "")]
    ended = replace(old, status=TaskStatus(state=TaskState.SHUTDOWN))
    assert summary(plan(service, [ended, held])) == [("change", "t1", "running", "")]
    never_placed = replace(old, node_id="", status=TaskStatus(state=TaskState.PENDING))
    assert summary(plan(service, [never_placed, held])) == [("change", "t1", "running", "")]


def test_tasks_of_lost_nodes_are_replaced_without_delay() -> None:
    service = make_service(3)
    tasks = [make_task(service, 1, node="n1"), make_task(service, 2, node="n2"), make_task(service, 3, node="n4")]
    nodes = {"n1": make_node("n1", NodeState.DOWN), "n2": make_node("n2", availability="drain"), "n3": NODES["n3"]}
    assert summary(plan(service, tasks, nodes)) == [
        ("change", "t1", "shutdown", "node down"),
        ("create", 1, "running", "node down"),
        ("change", "t2", "shutdown", "node drained"),
        ("create", 2, "ready", "node drained"),
        ("change", "t3", "shutdown", "node removed"),
        ("create", 3, "running", "node removed"),
    ]
    paused = {"n1": make_node("n1", availability="pause")}
    one = make_service(1)
    assert plan(one, [make_task(one, 1)], paused) == Plan(())


def test_the_restart_policy_decides() -> None:
    for condition, state, replaced in (
        ("none", "failed", False),
        ("on-failure", "complete", False),
        ("on-failure", "failed", True),
        ("on-failure", "rejected", True),
        ("any", "complete", True),
    ):
        service = make_service(1, condition=condition)
        ended = make_task(service, 1, state)
        result = summary(plan(service, [ended]))
        assert (len(result) == 2) is replaced, (condition, state)
        if not replaced:
            reason = result[0][3]
            settled = replace(ended, desired_state=TaskState.SHUTDOWN, stop_reason=reason)
            assert plan(service, [settled]) == Plan(()), "it stands for its slot"
    on_failure = make_service(1, condition="on-failure")
    orphan = make_task(on_failure, 1, "orphaned")
    assert ("create", 1, "running", "node removed") in summary(plan(on_failure, [orphan]))


def test_attempts_count_within_the_window() -> None:
    service = make_service(1, max_attempts=2, window_ns=60 * SECOND_NS)
    history = [
        make_task(
            service, 1, "failed", suffix=str(n), reason="restart", desired_state=TaskState.SHUTDOWN,
            created_at=timestamp(NOW_S - age),
        )
        for n, age in enumerate((200, 50))
    ]  # fmt: skip
    last = make_task(service, 1, "failed", reason="restart", created_at=timestamp(NOW_S - 10))
    assert len(summary(plan(service, [*history, last]))) == 1
    last = replace(last, created_at=timestamp(NOW_S - 61))
    history = [replace(t, created_at=t.created_at - timedelta(seconds=100)) for t in history]
    assert len(summary(plan(service, [*history, last]))) == 2


def test_an_update_begins_with_what_does_not_run() -> None:
    old, new = make_service(3, "a"), make_service(3, "b")
    tasks = [make_task(old, 1), make_task(old, 2, "pending", node=""), make_task(old, 3)]
    assert summary(plan(new, tasks)) == [
        ("status", "updating"),
        ("change", "t2", "shutdown", "update"),
        ("create", 2, "running", "update"),
    ]
    everything = make_service(3, "b", UpdateConfig(parallelism=0))
    assert sum(1 for entry in summary(plan(everything, tasks)) if entry[0] == "create") == 3


def test_a_paused_update_stays_so() -> None:
    old, new = make_service(2, "a"), make_service(2, "b")
    paused = replace(new, update_status=UpdateStatus(state="paused"))
    assert plan(paused, [make_task(old, 1), make_task(old, 2)]) == Plan(())


def test_early_failures_pause_unless_the_ratio_allows_them() -> None:
    old = make_service(4, "a")
    status = UpdateStatus(state="updating", started_at=timestamp(NOW_S - 50))
    for ratio, ran_s, pauses in ((0.0, 1.0, True), (0.25, 1.0, False), (0.2, 1.0, True), (0.0, 6.0, False)):
        new = replace(make_service(4, "b", UpdateConfig(max_failure_ratio=ratio)), update_status=status)
        failed = make_task(new, 1, "failed", reason="update", created_at=timestamp(NOW_S - 40))
        times = {"t1": RunTime(NOW_S - 30, NOW_S - 30 + ran_s)}
        tasks = [failed, *(make_task(old, n) for n in (2, 3, 4))]
        result = summary(plan_service(new, tasks, NODES, NOW_S, times))
        assert (("status", "paused") in result) is pauses, (ratio, ran_s)


def test_an_update_is_complete_once_its_last_task_has_run_for_the_monitor_period() -> None:
    status = UpdateStatus(state="updating", started_at=timestamp(NOW_S - 50))
    service = replace(make_service(2, "b"), update_status=status)
    tasks = [make_task(service, n, reason="update", created_at=timestamp(NOW_S - 40)) for n in (1, 2)]
    times = {"t1": RunTime(NOW_S - 30), "t2": RunTime(NOW_S - 4)}
    assert plan_service(service, tasks, NODES, NOW_S, times) == Plan((), NOW_S + 1)
    assert summary(plan_service(service, tasks, NODES, NOW_S + 1, times)) == [("status", "completed")]


def test_two_of_one_kind_in_a_slot_become_one() -> None:
    service = make_service(1)
    tasks = [make_task(service, 1, "starting", suffix="a"), make_task(service, 1, suffix="b", node="n2")]
    assert summary(plan(service, tasks)) == [("change", "t1a", "shutdown", "another task has this slot")]


def test_the_tasks_of_a_removed_service_end() -> None:
    service = make_service(3)
    tasks = [make_task(service, 1), make_task(service, 2, "failed"), make_task(service, 3, "new", node="")]
    assert [entry[1:] for entry in summary(plan_removed(tasks))] == [
        ("t1", "remove", "service removed"),
        ("t3", "remove", "service removed"),
    ]


def reaped(steps: tuple[Step, ...]) -> list[tuple[str, str]]:
    return [
        ("delete" if isinstance(a, DeleteTask) else "orphan", a.task.id)
        for step in steps
        for a in step.actions
        if isinstance(a, (DeleteTask, OrphanTask))
    ]


def test_the_reaper_deletes_only_what_has_ended() -> None:
    service = make_service(1)
    remove = TaskState.REMOVE
    assert reaped(plan_reap([make_task(service, 1, desired_state=remove)], service, NODES, 5)) == []
    assert reaped(plan_reap([make_task(service, 1, desired_state=remove)], None, NODES, 5)) == []
    ended = make_task(service, 1, "shutdown", desired_state=remove)
    assert reaped(plan_reap([ended], service, NODES, -1)) == [("delete", "t1")]
    assert reaped(plan_reap([make_task(service, 1, "failed")], None, NODES, 5)) == [("delete", "t1")]
    never_placed = make_task(service, 1, "pending", node="", desired_state=TaskState.SHUTDOWN)
    assert reaped(plan_reap([never_placed], service, NODES, 5)) == [("delete", "t1")]
    assert reaped(plan_reap([make_task(service, 1, node="gone")], service, NODES, 5)) == [("orphan", "t1")]


def test_the_history_keeps_what_the_restart_policy_counts() -> None:
    stopped = TaskState.SHUTDOWN
    for limit, attempts, kept in ((5, None, 5), (0, None, 1), (1, 6, 7), (-1, None, 9)):
        service = make_service(1, max_attempts=attempts)
        tasks = [
            make_task(
                service, 1, "failed", suffix=str(n), desired_state=stopped, created_at=timestamp(NOW_S - 50 + n)
            )
            for n in range(9)
        ]
        deleted = reaped(plan_reap(tasks, service, NODES, limit))
        assert deleted == [("delete", f"t1{n}") for n in range(9 - kept)], limit


class World:
    """A service, its nodes and tasks, and agents that do as they are told, in a random order of events."""

    def __init__(self, replicas: int, order: str, parallelism: int) -> None:
        config = UpdateConfig(
            order=order, parallelism=parallelism, monitor_ns=SECOND_NS, failure_action="continue"
        )
        self.config = config
        self.service = make_service(replicas, "a", config)
        self.nodes = dict(NODES)
        self.tasks: dict[str, Task] = {}
        self.now_s = NOW_S
        self.ids = itertools.count()
        self.were_down: set[str] = set()

    @property
    def sorted_tasks(self) -> list[Task]:
        return [self.tasks[key] for key in sorted(self.tasks)]

    def step(self) -> bool:
        """Plan and carry out; whether there was anything to do."""
        result = plan_service(self.service, self.sorted_tasks, self.nodes, self.now_s)
        for step in result.steps:
            for action in step.actions:
                if isinstance(action, CreateTask):
                    task_id = f"{next(self.ids):06}"
                    self.tasks[task_id] = Task(
                        id=task_id, service_id="s", slot=action.slot, spec=self.service.spec.task_template,
                        desired_state=action.desired, reason=action.reason, created_at=timestamp(self.now_s),
                        updated_at=timestamp(self.now_s),
                    )  # fmt: skip
                elif isinstance(action, ChangeTask):
                    assert self.tasks[action.task.id] == action.task, "two actions for one task"
                    assert action.desired.rank > action.task.desired_state.rank
                    self.tasks[action.task.id] = replace(
                        action.task,
                        desired_state=action.desired,
                        stop_reason=action.stop_reason or action.task.stop_reason,
                    )
                elif isinstance(action, SetUpdateStatus):
                    self.service = replace(self.service, update_status=action.status)
        for task in self.sorted_tasks:
            for entry in plan_reap([task], self.service, self.nodes, 5):
                for action in entry.actions:
                    assert isinstance(action, (DeleteTask, OrphanTask))
                    if isinstance(action, DeleteTask):
                        del self.tasks[task.id]
        self.check()
        again = plan_service(self.service, self.sorted_tasks, self.nodes, self.now_s)
        assert not again.steps, "nothing is left to do when nothing has changed"
        return bool(result.steps)

    def check(self) -> None:
        wanted: dict[int, int] = {}
        running: dict[int, int] = {}
        for task in self.tasks.values():
            if task.desired_state.rank <= TaskState.RUNNING.rank and not task.status.state.ended:
                wanted[task.slot] = wanted.get(task.slot, 0) + 1
            if task.status.state is TaskState.RUNNING and task.id not in self.were_down:
                running[task.slot] = running.get(task.slot, 0) + 1
        assert len(wanted) <= self.service.spec.replicas
        surge = 1 if self.config.order == "start-first" else 0
        assert all(count <= 1 + surge for count in wanted.values())
        if not surge:
            assert all(count <= 1 for count in running.values()), "a slot runs twice"
        else:
            allowed = self.service.spec.replicas + (self.config.parallelism or self.service.spec.replicas)
            assert sum(wanted.values()) <= allowed

    def progress(self, choose: int) -> bool:
        """One agent takes one step."""
        ready = [t for t in self.sorted_tasks if self._next_state(t) is not None]
        if not ready:
            return False
        task = ready[choose % len(ready)]
        state = self._next_state(task)
        assert state is not None
        node_id = task.node_id or self._fit_nodes()[choose % len(self._fit_nodes())]
        self.tasks[task.id] = replace(
            task, node_id=node_id, status=TaskStatus(state=state), updated_at=timestamp(self.now_s)
        )
        return True

    def _fit_nodes(self) -> list[str]:
        return sorted(
            n.id
            for n in self.nodes.values()
            if n.status.state is NodeState.READY and n.spec.availability is NodeAvailability.ACTIVE
        )

    def _next_state(self, task: Task) -> TaskState | None:
        if task.status.state.ended:
            return None
        if not task.node_id:
            wanted = task.desired_state.rank <= TaskState.RUNNING.rank
            return TaskState.ASSIGNED if wanted and self._fit_nodes() else None
        if self.nodes[task.node_id].status.state is NodeState.DOWN:
            return None
        if task.desired_state.rank > TaskState.RUNNING.rank:
            return TaskState.SHUTDOWN
        target = task.desired_state
        return target if task.status.state.rank < target.rank else None

    def happen(self, event: str, choose: int) -> None:
        running = [t for t in self.sorted_tasks if t.status.state is TaskState.RUNNING and t.node_id]
        names = sorted(self.nodes)
        name = names[choose % len(names)]
        node = self.nodes[name]
        if event == "progress":
            self.progress(choose)
        elif event == "time":
            self.now_s += choose % 7
        elif event == "fail" and running:
            task = running[choose % len(running)]
            if self.nodes[task.node_id].status.state is not NodeState.DOWN:
                state = TaskState.FAILED if choose % 2 else TaskState.COMPLETE
                self.tasks[task.id] = replace(task, status=TaskStatus(state=state))
        elif event == "scale":
            mode = ServiceMode(replicated=ReplicatedMode(replicas=choose % 6))
            self.service = replace(self.service, spec=replace(self.service.spec, mode=mode))
        elif event == "update":
            spec = make_service(self.service.spec.replicas, "abc"[choose % 3], self.config).spec
            self.service = replace(self.service, spec=spec, update_status=None)
        elif event == "down":
            self.nodes[name] = replace(node, status=NodeStatus(state=NodeState.DOWN))
            self.were_down |= {t.id for t in self.tasks.values() if t.node_id == name}
        elif event == "up":
            self.nodes[name] = replace(node, status=NodeStatus(state=NodeState.READY))
        elif event == "drain":
            self.nodes[name] = replace(node, spec=NodeSpec(availability=NodeAvailability.DRAIN))
        elif event == "activate":
            self.nodes[name] = replace(node, spec=NodeSpec())

    def calm_down(self) -> None:
        """Every node is back, nothing fails, time goes on."""
        for name in self.nodes:
            self.nodes[name] = make_node(name)
        for _ in range(2000):
            acted = self.step()
            moved = self.progress(0)
            if not acted and not moved:
                before = plan_service(self.service, self.sorted_tasks, self.nodes, self.now_s)
                if before.wake_at_s is None:
                    return
                self.now_s = before.wake_at_s
        raise AssertionError("it does not come to rest")


EVENTS = ["progress", "progress", "progress", "time", "fail", "scale", "update", "down", "up", "drain", "activate"]


@settings(max_examples=300, deadline=None)
@given(
    replicas=st.integers(0, 5),
    order=st.sampled_from(["stop-first", "start-first"]),
    parallelism=st.integers(0, 3),
    events=st.lists(st.tuples(st.sampled_from(EVENTS), st.integers(0, 1000)), max_size=60),
)
def test_whatever_happens_it_converges_and_never_runs_too_many(
    replicas: int, order: str, parallelism: int, events: list[tuple[str, int]]
) -> None:
    world = World(replicas, order, parallelism)
    for event, choose in events:
        world.happen(event, choose)
        if event != "scale":
            world.step()
    world.calm_down()
    wanted = world.service.spec
    alive = [t for t in world.tasks.values() if t.desired_state is TaskState.RUNNING]
    assert len(alive) == wanted.replicas
    assert all(t.status.state is TaskState.RUNNING and t.spec == wanted.task_template for t in alive)
    assert len({t.slot for t in alive}) == wanted.replicas
    status = world.service.update_status
    assert status is None or status.state == "completed"


def test_a_task_that_is_published_otherwise_is_replaced() -> None:
    port = PortConfig(target_port=80, published_port=8080)
    endpoint = Endpoint(ports=(port,), mesh_network_id="ing")
    service = replace(make_service(2), endpoint=endpoint)
    fields = {"ports": endpoint.ports, "mesh_network_id": "ing"}
    clean = [make_task(service, n, **fields) for n in (1, 2)]
    assert plan(service, clean) == Plan(())
    for other in ({**fields, "ports": ()}, {**fields, "mesh_network_id": "app"}):
        dirty = [clean[0], make_task(service, 2, **other)]
        assert ("change", "t2", "shutdown", "update") in summary(plan(service, dirty))


def test_a_host_port_is_let_go_before_the_next_task_takes_it() -> None:
    port = PortConfig(target_port=80, published_port=8080, publish_mode="host")
    first = make_service(1, "a", UpdateConfig(order="start-first"))
    service = make_service(1, "b", UpdateConfig(order="start-first"))
    for published, stops in ((port, True), (replace(port, published_port=0), False)):
        endpoint = Endpoint(ports=(published,))
        task = make_task(first, 1, ports=(published,))
        done = summary(plan(replace(service, endpoint=endpoint), [task]))
        assert (("change", "t1", "shutdown", "update") in done) is stops
        assert any(step[0] == "create" for step in done)
