"""Store, orchestrator, allocator, scheduler and reaper together, with agents in memory, in virtual time."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator

import msgspec
import pytest
from support.swarm import Swarm, service_spec

from pyswarm.common.errors import NotLeader, Unavailable
from pyswarm.common.types import (
    SECOND_NS,
    ContainerSpec,
    NodeAvailability,
    NodeState,
    ResourceRequirements,
    Resources,
    RestartPolicy,
    Service,
    TaskSpec,
    TaskState,
    UpdateConfig,
)
from pyswarm.manager.orchestrator import ReplicatedOrchestrator
from pyswarm.manager.state import ChangeTooLarge, Transaction

SETTLE_S = 0.5


@pytest.fixture
async def swarm() -> AsyncIterator[Swarm]:
    swarm = Swarm()
    await swarm.start(nodes=4)
    yield swarm
    await swarm.stop()


async def test_a_service_runs_spread_over_the_nodes(swarm: Swarm) -> None:
    network = await swarm.network("app")
    web = await swarm.create("web", 6, networks=[network])
    await swarm.clock.advance(SETTLE_S)
    running = swarm.running(web)
    assert [t.slot for t in running] == [1, 2, 3, 4, 5, 6]
    assert sorted(Counter(t.node_id for t in running).values()) == [1, 1, 2, 2]
    addrs = {t.networks[0].addr for t in running}
    assert addrs == {f"10.0.1.{n}/24" for n in range(2, 8)}
    assert all(t.networks[0].mac.startswith("02:42:0a:00:01:") for t in running)
    assert all(t.reason == "scale" and t.name == f"web.{t.slot}" for t in running)
    assert swarm.update_state(web) == ""


async def test_large_specs_take_several_transactions(swarm: Swarm) -> None:
    swarm.agents.cut |= {node.id for node in swarm.store.view.nodes.values()}
    template = TaskSpec(container_spec=ContainerSpec(image="busybox", env=("A=" + "x" * 20_000,)))
    spec = msgspec.structs.replace(service_spec("web", 120), task_template=template)
    web = Service(id="svc-web", spec=spec)
    await swarm.store.update(lambda tx: tx.create(web))
    await swarm.clock.advance(SETTLE_S)
    assert [t.status.state for t in swarm.tasks(web)] == [TaskState.ASSIGNED] * 120

    def too_much(tx: Transaction) -> None:
        for task in tx.view.tasks.by_service(web.id):
            tx.update(msgspec.structs.replace(task, stop_reason="all at once"))

    with pytest.raises(ChangeTooLarge, match="this change is too large"):
        await swarm.store.update(too_much)


async def test_scaling_up_and_down(swarm: Swarm) -> None:
    web = await swarm.create("web", 6)
    await swarm.clock.advance(SETTLE_S)
    before = {t.id for t in swarm.running(web)}
    await swarm.update(web, replicas=12)
    await swarm.clock.advance(SETTLE_S)
    assert len(swarm.running(web)) == 12
    assert before <= {t.id for t in swarm.running(web)}
    await swarm.update(web, replicas=4)
    await swarm.clock.advance(SETTLE_S)
    assert sorted(Counter(t.node_id for t in swarm.tasks(web)).values()) == [1, 1, 1, 1]
    assert len(swarm.agents.containers) == 4, "scaled-down tasks leave no record and no container"
    await swarm.update(web, replicas=0)
    await swarm.clock.advance(SETTLE_S)
    assert swarm.tasks(web) == []


async def test_scaling_up_again_waits_for_tasks_that_still_stop(swarm: Swarm) -> None:
    swarm.agents.stop_s = 10
    web = await swarm.create("web", 4)
    await swarm.clock.advance(SETTLE_S)
    await swarm.update(web, replicas=2)
    await swarm.clock.advance(SETTLE_S)
    await swarm.update(web, replicas=4)
    await swarm.clock.advance(SETTLE_S)
    assert len(swarm.running(web)) == 2
    await swarm.clock.advance(10)
    assert [t.slot for t in swarm.running(web)] == [1, 2, 3, 4]
    assert swarm.agents.most_running[web.id] == 4


async def test_a_removed_service_leaves_nothing(swarm: Swarm) -> None:
    swarm.agents.stop_s = 3
    web = await swarm.create("web", 5)
    await swarm.clock.advance(SETTLE_S)
    await swarm.store.update(lambda tx: tx.delete(tx.view.services.find(web.id)))
    await swarm.clock.advance(SETTLE_S)
    assert {(t.desired_state, t.stop_reason) for t in swarm.tasks(web)} == {(TaskState.REMOVE, "service removed")}
    await swarm.clock.advance(3)
    assert swarm.tasks(web) == []
    assert swarm.agents.containers == {}


async def test_a_failed_task_is_replaced_after_the_delay(swarm: Swarm) -> None:
    web = await swarm.create("web", 2)
    await swarm.clock.advance(SETTLE_S)
    victim = swarm.running(web)[0]
    await swarm.agents.fail(victim.id)
    await swarm.clock.advance(4.9)
    old, new = (t for t in swarm.tasks(web) if t.slot == victim.slot)
    assert (old.id, old.desired_state, old.stop_reason) == (victim.id, TaskState.SHUTDOWN, "ended")
    assert (new.desired_state, new.status.state, new.reason) == (TaskState.READY, TaskState.READY, "restart")
    await swarm.clock.advance(0.2)
    assert [t.slot for t in swarm.running(web)] == [1, 2]


async def test_a_new_leader_keeps_to_a_restart_delay_that_has_begun(swarm: Swarm) -> None:
    web = await swarm.create("web", 1)
    await swarm.clock.advance(SETTLE_S)
    await swarm.agents.fail(swarm.running(web)[0].id)
    await swarm.clock.advance(3)
    await swarm.depose()
    swarm.lead()
    await swarm.clock.advance(1.8)
    assert swarm.running(web) == []
    await swarm.clock.advance(0.3)
    assert len(swarm.running(web)) == 1


async def test_a_step_that_crosses_a_status_report_is_planned_again(swarm: Swarm) -> None:
    web = await swarm.create("web", 1)
    await swarm.clock.advance(SETTLE_S)
    swarm.agents.cut |= {node.id for node in swarm.store.view.nodes.values()}
    await swarm.agents.fail(swarm.running(web)[0].id)
    await swarm.clock.advance(4.9)
    (held,) = (t for t in swarm.tasks(web) if t.desired_state is TaskState.READY)
    assert held.status.state is TaskState.ASSIGNED
    swarm.proposer.gate = asyncio.Event()
    report = asyncio.ensure_future(swarm.agents.report({held.id: TaskState.READY}))
    await swarm.clock.settle()
    await swarm.clock.advance(0.2)
    swarm.proposer.gate.set()
    await report
    await swarm.clock.settle()
    assert swarm.store.view.tasks.find(held.id).desired_state is TaskState.RUNNING


async def test_restart_policies(swarm: Swarm) -> None:
    policy = RestartPolicy(condition="none")
    none = await swarm.create("none", 1, "crash", restart_policy=policy)
    once = await swarm.create("once", 1, "once", restart_policy=RestartPolicy(condition="on-failure"))
    thrice = await swarm.create(
        "thrice", 1, "crash", restart_policy=RestartPolicy(delay_ns=SECOND_NS, max_attempts=3)
    )
    await swarm.clock.advance(60)
    assert [(t.status.state, t.desired_state) for t in swarm.tasks(none)] == [
        (TaskState.FAILED, TaskState.SHUTDOWN)
    ]
    assert [t.status.state for t in swarm.tasks(once)] == [TaskState.COMPLETE]
    assert [t.reason for t in swarm.tasks(thrice)] == ["scale", "restart", "restart", "restart"]
    assert swarm.tasks(thrice)[-1].stop_reason == "not restarted: restarted 3 times already"
    await swarm.update(none, image="busybox", restart_policy=policy)
    await swarm.clock.advance(10)
    assert len(swarm.running(none)) == 1, "an update brings such a slot back"


async def test_history_is_kept_per_slot_up_to_the_limit(swarm: Swarm) -> None:
    web = await swarm.create("web", 2, "crash", restart_policy=RestartPolicy(delay_ns=SECOND_NS))
    await swarm.clock.advance(30)
    assert Counter(t.slot for t in swarm.tasks(web)) == {1: 5, 2: 5}

    def limit(tx: Transaction) -> None:
        cluster = tx.view.cluster
        assert cluster is not None
        spec = msgspec.structs.replace(cluster.spec, task_history_limit=2)
        tx.update(msgspec.structs.replace(cluster, spec=spec))

    await swarm.store.update(limit)
    await swarm.clock.advance(0.1)
    assert Counter(t.slot for t in swarm.tasks(web)) == {1: 2, 2: 2}


async def test_a_node_that_is_cut_off_is_replaced_at_once_and_keeps_its_addresses(swarm: Swarm) -> None:
    network = await swarm.network("app")
    web = await swarm.create("web", 8, networks=[network])
    await swarm.clock.advance(SETTLE_S)
    lost = [t for t in swarm.running(web) if t.node_id == "node-h4"]
    await swarm.agents.lose("node-h4")
    await swarm.clock.advance(SETTLE_S)
    assert len(swarm.running(web)) == 8
    assert all(t.node_id != "node-h4" for t in swarm.running(web))
    replaced = [t for t in swarm.running(web) if t.slot in {old.slot for old in lost}]
    assert {t.reason for t in replaced} == {"node down"}
    # Scaling, or even removing the service, frees no address that may still be in use out there.
    await swarm.update(web, replicas=40, networks=[network])
    await swarm.clock.advance(SETTLE_S)
    held = {t.networks[0].addr for t in lost}
    assert len(swarm.running(web)) == 40
    assert held.isdisjoint(t.networks[0].addr for t in swarm.running(web))
    await swarm.store.update(lambda tx: tx.delete(tx.view.services.find(web.id)))
    await swarm.clock.advance(SETTLE_S)
    assert {t.id for t in swarm.tasks(web)} == {t.id for t in lost}
    await swarm.agents.heal("node-h4")
    await swarm.clock.advance(SETTLE_S)
    assert swarm.tasks(web) == []
    assert swarm.agents.containers == {}


async def test_a_node_removed_by_force_frees_its_addresses(swarm: Swarm) -> None:
    network = await swarm.network("app", "10.0.1.0/29")
    web = await swarm.create("web", 4, networks=[network])
    await swarm.clock.advance(SETTLE_S)
    swarm.agents.cut.add("node-h4")
    gone = [t for t in swarm.running(web) if t.node_id == "node-h4"]
    for task in gone:
        swarm.agents.stop(task.id)
    await swarm.store.update(lambda tx: tx.delete(tx.view.nodes.find("node-h4")))
    await swarm.clock.advance(SETTLE_S)
    assert len(swarm.running(web)) == 4
    states = {t.status.state for t in swarm.tasks(web) if t.node_id == "node-h4"}
    assert states == {TaskState.ORPHANED}


async def test_draining_moves_tasks_once_they_have_stopped(swarm: Swarm) -> None:
    swarm.agents.stop_s = 2
    web = await swarm.create("web", 4)
    await swarm.clock.advance(SETTLE_S)
    await swarm.agents.set_availability("node-h1", NodeAvailability.DRAIN)
    await swarm.clock.advance(SETTLE_S)
    assert len(swarm.running(web)) == 3
    await swarm.clock.advance(2)
    assert len(swarm.running(web)) == 4
    assert all(t.node_id != "node-h1" for t in swarm.running(web))
    assert swarm.agents.most_running[web.id] == 4
    await swarm.agents.set_availability("node-h2", NodeAvailability.PAUSE)
    await swarm.clock.advance(SETTLE_S)
    assert len([t for t in swarm.running(web) if t.node_id == "node-h2"]) >= 1


async def test_rolling_update_one_at_a_time(swarm: Swarm) -> None:
    swarm.agents.stop_s, swarm.agents.start_s = 1, 1
    web = await swarm.create("web", 3)
    await swarm.clock.advance(5)
    assert len(swarm.running(web)) == 3
    await swarm.update(web, replicas=3, image="busybox:2")
    least = 3
    for _ in range(60):
        await swarm.clock.advance(0.2)
        least = min(least, len(swarm.agents.containers))
        assert len(swarm.agents.containers) <= 3
    assert least == 2
    assert {t.spec.container_spec.image for t in swarm.running(web)} == {"busybox:2"}
    assert swarm.update_state(web) == "completed"
    assert [t.reason for t in swarm.running(web)] == ["update"] * 3
    assert {t.stop_reason for t in swarm.tasks(web) if t.desired_state is TaskState.SHUTDOWN} == {"update"}


async def test_update_order_parallelism_and_delay(swarm: Swarm) -> None:
    swarm.agents.stop_s, swarm.agents.start_s = 1, 1
    config = UpdateConfig(parallelism=2, delay_ns=3 * SECOND_NS, order="start-first", monitor_ns=SECOND_NS)
    web = await swarm.create("web", 4, update_config=config)
    await swarm.clock.advance(5)
    await swarm.update(web, replicas=4, image="busybox:2", update_config=config)
    fewest, times = 4, {}
    for tick in range(150):
        await swarm.clock.advance(0.1)
        fewest = min(fewest, len(swarm.running(web)))
        new = sum(1 for t in swarm.running(web) if t.spec.container_spec.image == "busybox:2")
        times.setdefault(new, tick / 10)
    assert fewest == 4, "start-first never runs fewer"
    assert swarm.agents.most_running[web.id] == 6
    assert times[4] - times[2] >= 3
    assert swarm.update_state(web) == "completed"


async def test_an_update_that_fails_is_paused(swarm: Swarm) -> None:
    web = await swarm.create("web", 4)
    await swarm.clock.advance(SETTLE_S)
    await swarm.update(web, replicas=4, image="crash")
    await swarm.clock.advance(30)
    assert swarm.update_state(web) == "paused"
    status = swarm.store.view.services.find(web.id).update_status
    assert status is not None
    assert "update paused due to failure or early termination of task" in status.message
    assert len(swarm.running(web)) == 3
    await swarm.update(web, replicas=4, image="busybox:3")
    await swarm.clock.advance(60)
    assert swarm.update_state(web) == "completed"
    assert {t.spec.container_spec.image for t in swarm.running(web)} == {"busybox:3"}
    assert len(swarm.running(web)) == 4


async def test_a_failed_start_first_update_keeps_the_old_tasks(swarm: Swarm) -> None:
    config = UpdateConfig(order="start-first")
    web = await swarm.create("web", 2, update_config=config)
    await swarm.clock.advance(SETTLE_S)
    await swarm.update(web, replicas=2, image="missing", update_config=config)
    await swarm.clock.advance(30)
    assert swarm.update_state(web) == "paused"
    assert len(swarm.running(web)) == 2


async def test_an_update_that_may_fail_goes_on(swarm: Swarm) -> None:
    config = UpdateConfig(failure_action="continue")
    web = await swarm.create("web", 3, update_config=config)
    await swarm.clock.advance(SETTLE_S)
    await swarm.update(web, replicas=3, image="crash", update_config=config)
    await swarm.clock.advance(60)
    assert all(
        t.spec.container_spec.image == "crash"
        for t in swarm.tasks(web)
        if t.desired_state is not TaskState.SHUTDOWN
    )
    assert swarm.update_state(web) == "updating"


async def test_a_new_leader_goes_on_with_an_update(swarm: Swarm) -> None:
    config = UpdateConfig(delay_ns=2 * SECOND_NS)
    web = await swarm.create("web", 4, update_config=config)
    await swarm.clock.advance(SETTLE_S)
    await swarm.update(web, replicas=4, image="busybox:2", update_config=config)
    for _ in range(10):
        await swarm.clock.advance(2)
        await swarm.depose()
        swarm.lead()
    await swarm.clock.advance(2)
    assert swarm.update_state(web) == "completed"
    assert {t.spec.container_spec.image for t in swarm.running(web)} == {"busybox:2"}
    assert swarm.agents.most_running[web.id] == 4


async def test_a_full_subnet_is_said_and_healed(swarm: Swarm) -> None:
    network = await swarm.network("app", "10.0.1.0/29")
    web = await swarm.create("web", 8, networks=[network])
    await swarm.clock.advance(SETTLE_S)
    assert len(swarm.running(web)) == 5
    waiting = [t for t in swarm.tasks(web) if t.status.state is TaskState.PENDING]
    assert {t.status.err for t in waiting} == {"no address left in network app (10.0.1.0/29: 5 in use)"}
    assert len(waiting) == 3
    index = swarm.proposer.index
    await swarm.clock.advance(60)
    assert swarm.proposer.index == index, "waiting costs no writes"
    other = await swarm.network("other")
    await swarm.update(web, replicas=8, networks=[other])
    await swarm.clock.advance(60)
    assert len(swarm.running(web)) == 8
    api = await swarm.create("api", 5, networks=[network])
    await swarm.clock.advance(SETTLE_S)
    assert len(swarm.running(api)) == 5


async def test_what_fits_nowhere_says_why_and_runs_when_it_fits(swarm: Swarm) -> None:
    for node in list(swarm.store.view.nodes.values())[:3]:
        await swarm.agents.set_availability(node.id, NodeAvailability.PAUSE)
    need = ResourceRequirements(reservations=Resources(memory_bytes=1 << 30))
    big = await swarm.create("big", 2, resources=need)
    await swarm.clock.advance(SETTLE_S)
    (err,) = {t.status.err for t in swarm.tasks(big)}
    assert err == "no suitable node (3 nodes not available for new tasks; insufficient resources on 1 node)"
    index = swarm.proposer.index
    await swarm.clock.advance(10)
    assert swarm.proposer.index == index
    await swarm.agents.add_node("h5", memory_bytes=1 << 30)
    await swarm.clock.advance(SETTLE_S)
    assert len(swarm.running(big)) == 1
    waiting = next(t for t in swarm.tasks(big) if t.status.state is TaskState.PENDING)
    assert "insufficient resources on 2 nodes" in waiting.status.err


async def test_a_node_down_without_others_leaves_tasks_waiting(swarm: Swarm) -> None:
    web = await swarm.create("web", 2)
    await swarm.clock.advance(SETTLE_S)
    for node in list(swarm.store.view.nodes.values()):
        await swarm.agents.lose(node.id)
    await swarm.clock.advance(5)
    assert swarm.running(web) == []
    await swarm.agents.heal("node-h2")
    await swarm.clock.advance(5)
    assert {t.node_id for t in swarm.running(web)} == {"node-h2"}
    assert len(swarm.running(web)) == 2


async def test_loops_end_quietly_with_leadership_and_retry_when_unavailable(swarm: Swarm) -> None:
    await swarm.depose()
    swarm.proposer.fail = NotLeader("10.0.0.2:2377")
    loop = ReplicatedOrchestrator(swarm.store, swarm.clock)
    swarm.proposer.fail = None
    web = await swarm.create("web", 1)
    swarm.proposer.fail = NotLeader("10.0.0.2:2377")
    await asyncio.wait_for(loop.run(), 5)
    swarm.proposer.fail = Unavailable("too busy")
    swarm.lead()
    await swarm.clock.advance(1)
    swarm.proposer.fail = None
    await swarm.clock.advance(SETTLE_S)
    assert len(swarm.running(web)) == 1


async def test_a_snapshot_from_elsewhere_starts_the_loops_over(swarm: Swarm) -> None:
    web = await swarm.create("web", 2)
    await swarm.clock.advance(SETTLE_S)
    swarm.store.restore(swarm.store.snapshot()(), swarm.proposer.index)
    await swarm.clock.settle()
    await swarm.update(web, replicas=5)
    await swarm.clock.advance(SETTLE_S)
    assert len(swarm.running(web)) == 5


async def test_a_service_deleted_while_its_tasks_are_made_leaves_none(swarm: Swarm) -> None:
    swarm.proposer.gate = asyncio.Event()
    created = asyncio.ensure_future(swarm.create("web", 50))
    await swarm.clock.settle()
    swarm.proposer.gate.set()
    web = await created
    await swarm.store.update(lambda tx: tx.delete(tx.view.services.find(web.id)))
    await swarm.clock.advance(1)
    assert swarm.tasks(web) == []


@pytest.mark.parametrize("state", [NodeState.UNKNOWN, NodeState.DISCONNECTED])
async def test_silence_short_of_down_moves_nothing(swarm: Swarm, state: NodeState) -> None:
    web = await swarm.create("web", 4)
    await swarm.clock.advance(SETTLE_S)
    before = {t.id for t in swarm.running(web)}
    await swarm.agents.set_state("node-h1", state)
    await swarm.clock.advance(5)
    assert {t.id for t in swarm.running(web)} == before
