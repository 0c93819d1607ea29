"""Placement: spread, reservations, reasons."""

from collections import Counter

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from pyswarm.common.types import (
    NetworkAttachmentConfig,
    Node,
    NodeAvailability,
    NodeDescription,
    NodeSpec,
    NodeState,
    NodeStatus,
    PortConfig,
    ResourceRequirements,
    Resources,
    Task,
    TaskSpec,
    TaskState,
    TaskStatus,
    timestamp,
)
from pyswarm.manager.scheduler.nodes import ClusterLoad
from pyswarm.manager.scheduler.plan import is_waiting, plan_placements

NOW_S = 1_700_000_000.0
PLAIN = TaskSpec()


def node(
    name: str, *, memory_bytes: int = 0, state: str = "ready", availability: str = "active", engine_error: str = ""
) -> Node:
    return Node(
        id=name,
        spec=NodeSpec(availability=NodeAvailability(availability)),
        description=NodeDescription(resources=Resources(memory_bytes=memory_bytes), engine_error=engine_error),
        status=NodeStatus(state=NodeState(state)),
    )


def waiting(task_id: str, service: str = "s", spec: TaskSpec = PLAIN) -> Task:
    return Task(id=task_id, service_id=service, spec=spec, status=TaskStatus(state=TaskState.PENDING))


def on_node(
    task_id: str, node_id: str, service: str = "s", state: str = "running", spec: TaskSpec = PLAIN
) -> Task:
    status = TaskStatus(state=TaskState(state))
    return Task(
        id=task_id, service_id=service, node_id=node_id, spec=spec, status=status, updated_at=timestamp(NOW_S)
    )


def needing(memory_bytes: int) -> TaskSpec:
    return TaskSpec(resources=ResourceRequirements(reservations=Resources(memory_bytes=memory_bytes)))


def place(tasks: list[Task], cluster: ClusterLoad) -> list[str]:
    return [p.node_id or p.err for p in plan_placements(tasks, cluster, NOW_S)]


def test_fewest_of_the_service_then_fewest_at_all() -> None:
    existing = [
        on_node("a", "n1"),
        on_node("b", "n2", "other"),
        on_node("c", "n2", "other"),
        on_node("d", "n3", "x"),
    ]
    cluster = ClusterLoad([node("n1"), node("n2"), node("n3")], existing)
    assert place([waiting("1"), waiting("2"), waiting("3")], cluster) == ["n3", "n2", "n1"]


def test_tasks_that_ended_or_are_to_end_do_not_count() -> None:
    stopping = msgspec.structs.replace(on_node("a", "n1"), desired_state=TaskState.SHUTDOWN)
    cluster = ClusterLoad(
        [node("n1"), node("n2")], [stopping, on_node("b", "n1", state="failed"), on_node("c", "n2")]
    )
    assert place([waiting("1")], cluster) == ["n1"]


def test_reservations_hold_until_a_task_has_ended() -> None:
    spec = needing(100)
    stopping = msgspec.structs.replace(on_node("a", "n1", spec=spec), desired_state=TaskState.SHUTDOWN)
    cluster = ClusterLoad([node("n1", memory_bytes=250)], [stopping])
    assert place([waiting("1", spec=spec), waiting("2", spec=spec)], cluster) == [
        "n1",
        "no suitable node (insufficient resources on 1 node)",
    ]
    cluster.observe_task(stopping, msgspec.structs.replace(stopping, status=TaskStatus(state=TaskState.SHUTDOWN)))
    assert place([waiting("2", spec=spec)], cluster) == ["n1"]


def test_the_reason_names_every_cause_once() -> None:
    cluster = ClusterLoad(
        [
            node("n1", state="down"),
            node("n2", availability="drain"),
            node("n3", availability="pause"),
            node("n4", engine_error="cannot connect"),
            node("n5", memory_bytes=5),
            node("n6", memory_bytes=6),
        ]
    )
    (err,) = place([waiting("1", spec=needing(7))], cluster)
    assert err == (
        "no suitable node (3 nodes not available for new tasks; insufficient resources on 2 nodes; "
        "Docker Engine not available on 1 node)"
    )
    assert place([waiting("1")], ClusterLoad()) == ["no suitable node"]


def test_an_unchanged_reason_is_not_written_again() -> None:
    task = waiting("1")
    told = msgspec.structs.replace(task, status=msgspec.structs.replace(task.status, err="no suitable node"))
    assert place([told], ClusterLoad()) == []


def test_a_node_where_the_service_keeps_failing_comes_last() -> None:
    failures = [on_node(f"f{n}", "n1", state="failed") for n in range(5)]
    busy = [on_node(f"b{n}", "n2") for n in range(3)]
    nodes = [node("n1"), node("n2")]
    assert place([waiting("1")], ClusterLoad(nodes, failures + busy)) == ["n2"]
    assert place([waiting("1", "other")], ClusterLoad(nodes, failures + busy)) == ["n1"]
    assert place([waiting("1")], ClusterLoad(nodes, failures[:4] + busy)) == ["n1"]
    long_ago = [msgspec.structs.replace(t, updated_at=timestamp(NOW_S - 301)) for t in failures]
    assert place([waiting("1")], ClusterLoad(nodes, long_ago + busy)) == ["n1"]


def test_a_node_that_comes_back_still_carries_its_tasks() -> None:
    cluster = ClusterLoad([node("n1"), node("n2")], [on_node("a", "n1")])
    cluster.observe_node("n1", None)
    assert place([waiting("1")], cluster) == ["n2"]
    cluster.observe_node("n1", node("n1"))
    assert place([waiting("2"), waiting("3")], cluster) == ["n1", "n2"], "one each, then as many on both"


def test_only_tasks_with_their_addresses_wait() -> None:
    assert is_waiting(waiting("1"))
    attached = TaskSpec(networks=(NetworkAttachmentConfig(target="net"),))
    assert not is_waiting(waiting("1", spec=attached))
    assert not is_waiting(msgspec.structs.replace(waiting("1"), desired_state=TaskState.SHUTDOWN))
    assert not is_waiting(on_node("1", "n1"))


@settings(max_examples=150, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 10), min_size=1, max_size=6),
    batches=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3), st.integers(1, 8)), max_size=6),
)
def test_nothing_is_overbooked_and_equal_nodes_stay_even(
    sizes: list[int], batches: list[tuple[int, int, int]]
) -> None:
    nodes = [node(f"n{i}", memory_bytes=size) for i, size in enumerate(sizes)]
    cluster = ClusterLoad(nodes)
    specs = [needing(0), needing(1), needing(2), needing(3)]
    used: Counter[str] = Counter()
    spread: dict[str, Counter[str]] = {}
    number = 0
    for service, need, count in batches:
        name = f"s{service}"
        tasks = [waiting(f"t{number + i}", name, specs[need]) for i in range(count)]
        number += count
        placements = list(plan_placements(tasks, cluster, NOW_S))
        assert len(placements) == count
        for placement in placements:
            if placement.node_id:
                used[placement.node_id] += need
                spread.setdefault(name, Counter())[placement.node_id] += 1
            else:
                assert all(size - used[f"n{i}"] < need for i, size in enumerate(sizes))
    assert all(used[f"n{i}"] <= size for i, size in enumerate(sizes))
    if all(need == 0 for _, need, _ in batches):
        for counts in spread.values():
            all_counts = [counts[n.id] for n in nodes]
            assert max(all_counts) - min(all_counts) <= 1


def test_a_host_port_is_had_by_one_task_of_each_node() -> None:
    port = PortConfig(target_port=80, published_port=8080, publish_mode="host")
    busy = replace(node("n1"), description=NodeDescription(listening=("tcp/8080",)))
    cluster = ClusterLoad([busy, node("n2"), node("n3"), node("n4")])
    stopping = replace(on_node("old", "n2"), ports=(port,), desired_state=TaskState.SHUTDOWN)
    cluster.observe_task(None, stopping)
    tasks = [replace(waiting(f"t{n}"), ports=(port,)) for n in range(3)]
    free = replace(port, published_port=0)
    placed = list(plan_placements([*tasks, replace(waiting("any"), ports=(free,))], cluster, NOW_S))
    assert [p.node_id for p in placed[:2]] == ["n3", "n4"]
    assert placed[2].err == "no suitable node (host-mode port already in use on 4 nodes)"
    assert placed[3].node_id in ("n1", "n2"), "a port the engine chooses is in nobody's way"
    cluster.observe_task(stopping, replace(stopping, status=TaskStatus(state=TaskState.SHUTDOWN)))
    again = list(plan_placements([tasks[2]], cluster, NOW_S))
    assert [p.node_id for p in again] == ["n2"]
    udp = replace(waiting("udp"), ports=(replace(port, protocol="udp"),))
    assert next(iter(plan_placements([udp], cluster, NOW_S))).node_id
