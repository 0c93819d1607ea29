"""An agent that applies every message has exactly what the store assigns to it, whatever happens in between."""

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from pyswarm.common.files import FileKey, file_keys
from pyswarm.common.types import (
    Config,
    ConfigReference,
    ConfigSpec,
    ContainerSpec,
    Network,
    Secret,
    SecretReference,
    SecretSpec,
    Task,
    TaskNetwork,
    TaskSpec,
    TaskState,
    TaskStatus,
)
from pyswarm.manager.dispatcher.assignments import AssignmentSet
from pyswarm.manager.dispatcher.statuses import next_status
from pyswarm.manager.state.view import LiveView

NODE = "n1"
NETWORKS = ("net0", "net1", "net2")
FILES: tuple[FileKey, ...] = (("secret", "f0"), ("secret", "f1"), ("config", "f0"), ("config", "f2"))
STATES = (TaskState.PENDING, TaskState.ASSIGNED, TaskState.RUNNING, TaskState.FAILED)

steps = st.lists(
    st.one_of(
        st.tuples(
            st.just("task"),
            st.integers(0, 4),
            st.sampled_from(STATES),
            st.sampled_from([TaskState.RUNNING, TaskState.SHUTDOWN]),
            st.sets(st.sampled_from(NETWORKS)),
            st.sampled_from([NODE, "n2", ""]),
            st.sets(st.sampled_from(FILES)),
        ),
        st.tuples(st.just("drop"), st.integers(0, 4)),
        st.tuples(st.just("network"), st.sampled_from(NETWORKS), st.integers(1, 3)),
        st.tuples(st.just("unnetwork"), st.sampled_from(NETWORKS)),
        st.tuples(st.just("file"), st.sampled_from(FILES)),
        st.tuples(st.just("unfile"), st.sampled_from(FILES)),
        st.tuples(st.just("send")),
    ),
    max_size=25,
)


def spec_with(keys: set[FileKey]) -> TaskSpec:
    """A task that needs these."""
    container = ContainerSpec(
        secrets=tuple(SecretReference(secret_id=id) for kind, id in sorted(keys) if kind == "secret"),
        configs=tuple(ConfigReference(config_id=id) for kind, id in sorted(keys) if kind == "config"),
    )
    return TaskSpec(container_spec=container)


class Model:
    """The store's side, told to the set under test as the dispatcher tells it, and the agent's side."""

    def __init__(self) -> None:
        self.view = LiveView()
        self.sent = AssignmentSet(NODE)
        self.agent: dict[tuple[str, str], Task | Network | Secret | Config] = {}

    def put_task(self, task: Task) -> None:
        self.view.tasks.put(task)
        self.sent.dirty_tasks.add(task.id)

    def send(self) -> None:
        for change in self.sent.next_changes(self.view):
            key = (change.kind, change.id)
            if change.new is None:
                del self.agent[key]
                continue
            self.agent[key] = change.new
            if isinstance(change.new, Task):
                for attached in change.new.networks:
                    exists = self.view.networks.get(attached.network_id) is not None
                    assert not exists or ("network", attached.network_id) in self.agent, "a network comes first"
                if not change.new.status.state.ended:
                    for key in file_keys(change.new.spec.container_spec) & self.files():
                        assert key in self.agent, "a file comes first"

    def files(self) -> set[FileKey]:
        """All that are stored."""
        secrets: set[FileKey] = {("secret", secret.id) for secret in self.view.secrets.values()}
        return secrets | {("config", config.id) for config in self.view.configs.values()}

    def check(self) -> None:
        mine = [t for t in self.view.tasks.by_node(NODE) if t.status.state.rank >= TaskState.ASSIGNED.rank]
        tasks = {key[1]: obj for key, obj in self.agent.items() if isinstance(obj, Task)}
        assert tasks.keys() == {t.id for t in mine}
        for task in mine:
            known = tasks[task.id]
            assert (known.desired_state, known.networks) == (task.desired_state, task.networks)
        needed = {n.network_id for t in mine for n in t.networks}
        stored = {n.id: n for n in self.view.networks.values() if n.id in needed}
        assert {key[1]: obj for key, obj in self.agent.items() if key[0] == "network"} == stored
        wanted = {k for t in mine if not t.status.state.ended for k in file_keys(t.spec.container_spec)}
        assert {key for key in self.agent if key[0] in ("secret", "config")} == wanted & self.files()
        assert self.sent.next_changes(self.view) == []


@settings(max_examples=300, deadline=None)
@given(steps)
def test_the_agent_ends_up_with_what_is_assigned(script: list[tuple[object, ...]]) -> None:
    model = Model()
    for step in script:
        match step:
            case (
                "task",
                int(number),
                TaskState() as state,
                TaskState() as desired,
                set() as names,
                str(node_id),
                set() as keys,
            ):
                attached = tuple(TaskNetwork(network_id=str(n)) for n in sorted(map(str, names)))
                old = model.view.tasks.get(f"t{number}")
                # States never go back, and tasks never move: the store sees to both.
                before = old.status.state if old is not None else TaskState.NEW
                status = TaskStatus(state=max(before, state, key=lambda s: s.rank))
                where = old.node_id if old is not None and old.node_id else node_id
                fields = {"status": status, "desired_state": desired, "networks": attached, "node_id": where}
                # A task's spec is what it was made with.
                model.put_task(replace(old or Task(id=f"t{number}", spec=spec_with(keys)), **fields))
            case ("drop", int(number)):
                model.view.tasks.remove(f"t{number}")
                model.sent.dirty_tasks.add(f"t{number}")
            case ("network", str(network_id), int(vni)):
                model.view.networks.put(Network(id=network_id, vni=vni))
            case ("unnetwork", str(network_id)):
                model.view.networks.remove(network_id)
            case ("file", ("secret", str(file_id))):
                model.view.secrets.put(Secret(id=file_id, spec=SecretSpec(name=file_id, data=b"x")))
            case ("file", ("config", str(file_id))):
                model.view.configs.put(Config(id=file_id, spec=ConfigSpec(name=file_id, data=b"x")))
            case ("unfile", ("secret", str(file_id))):
                model.view.secrets.remove(file_id)
            case ("unfile", ("config", str(file_id))):
                model.view.configs.remove(file_id)
            case _:
                model.send()
    model.send()
    model.check()


def test_a_status_is_not_echoed() -> None:
    model = Model()
    task = Task(id="t", node_id=NODE, status=TaskStatus(state=TaskState.ASSIGNED))
    model.put_task(task)
    model.send()
    model.put_task(replace(task, status=TaskStatus(state=TaskState.RUNNING)))
    assert model.sent.next_changes(model.view) == []
    model.put_task(replace(task, spec=TaskSpec(force_update=1)))
    assert [c.id for c in model.sent.next_changes(model.view)] == ["t"]


def test_files_leave_with_the_last_task_that_has_not_ended() -> None:
    model = Model()
    model.view.secrets.put(Secret(id="f0", spec=SecretSpec(data=b"x")))
    one, two = (
        Task(
            id=f"t{n}",
            node_id=NODE,
            spec=spec_with({("secret", "f0")}),
            status=TaskStatus(state=TaskState.ASSIGNED),
        )
        for n in (1, 2)
    )
    model.put_task(one)
    assert [(c.kind, c.id) for c in model.sent.next_changes(model.view)] == [("secret", "f0"), ("task", "t1")]
    model.put_task(two)
    assert [c.id for c in model.sent.next_changes(model.view)] == ["t2"], "a secret is sent once"
    model.view.secrets.put(Secret(id="f0", spec=SecretSpec(labels={"a": "b"}, data=b"x")))
    assert model.sent.next_changes(model.view) == []
    model.put_task(replace(one, status=TaskStatus(state=TaskState.FAILED)))
    assert model.sent.next_changes(model.view) == []
    model.put_task(replace(two, status=TaskStatus(state=TaskState.SHUTDOWN)))
    assert [(c.kind, c.id, c.new) for c in model.sent.next_changes(model.view)] == [("secret", "f0", None)]
    elsewhere = Task(id="t3", node_id="n2", spec=spec_with({("secret", "f0")}), status=one.status)
    model.put_task(elsewhere)
    assert model.sent.next_changes(model.view) == []


def test_reports_never_go_back_and_endings_stay() -> None:
    def after(now: TaskState, reported: TaskState) -> TaskStatus | None:
        return next_status(Task(id="t", status=TaskStatus(state=now)), TaskStatus(state=reported))

    assert after(TaskState.RUNNING, TaskState.STARTING) is None
    assert after(TaskState.RUNNING, TaskState.RUNNING) is None
    assert after(TaskState.COMPLETE, TaskState.FAILED) is None
    assert after(TaskState.ORPHANED, TaskState.SHUTDOWN) is None
    forward = after(TaskState.RUNNING, TaskState.FAILED)
    assert forward is not None
    assert forward.state is TaskState.FAILED
