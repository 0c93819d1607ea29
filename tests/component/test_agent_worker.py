"""The agent's worker on an engine double: preparation, stopping, restarts, an engine that is away, networks."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from prometheus_client import CollectorRegistry
from support.agents import RememberingOverlay, a_network, a_task, until
from support.fake_engine import BlockedEngine, FakeEngine, FlakyEngine
from support.virtual_clock import VirtualClock

from pyswarm.agent.agent import DATABASE
from pyswarm.agent.engine import EngineError
from pyswarm.agent.health import EngineHealth
from pyswarm.agent.metrics import AgentMetrics
from pyswarm.agent.reports import StatusReports
from pyswarm.agent.taskdb import Journal, PutTask, TaskDB, TaskRecord
from pyswarm.agent.worker import Assignment, Removal, Worker
from pyswarm.common.ids import new_id
from pyswarm.common.tasks import TaskGroupOwner
from pyswarm.common.types import Network, NodeDescription, Task, TaskState, TaskStatus
from pyswarm.overlay.api import OverlayError

S = TaskState
NODE = new_id()


class Bench:
    """A worker with its engine watched, but no session; time passes only when a test says so."""

    def __init__(self, folder: Path, engine: FakeEngine, overlay: RememberingOverlay) -> None:
        self.engine = engine
        self.overlay = overlay
        self.clock = VirtualClock()
        self.registry = CollectorRegistry()
        self.reports = StatusReports()
        self._tasks = TaskGroupOwner("test")
        self._writing = TaskGroupOwner("test")
        self._journal = Journal(TaskDB(folder / DATABASE), self.clock, self._writing)
        metrics = AgentMetrics(self.registry)
        self.worker = Worker(
            node_id=NODE,
            engine=engine,
            overlay=overlay,
            journal=self._journal,
            clock=self.clock,
            tasks=self._tasks,
            metrics=metrics,
            reports=self.reports,
        )
        self.health = EngineHealth(
            engine,
            self.clock,
            metrics,
            description=NodeDescription(),
            on_up=self.worker.engine_up,
            on_down=self.worker.engine_down,
            on_event=self.worker.engine_event,
            on_description=lambda: None,
        )

    async def start(self) -> None:
        self.worker.load(await self._journal.open())
        self._tasks.spawn(self.health.run(), "engine")

    async def stop(self) -> None:
        await self._tasks.stop()
        await self._writing.stop()
        await self._journal.close()

    def state(self, task: Task) -> S | None:
        status = self.worker.statuses.get(task.id)
        return status.state if status else None

    def err(self, task: Task) -> str:
        return self.worker.statuses[task.id].err

    async def reaches(self, task: Task, state: S | None, *, passing: bool = True) -> None:
        """Wait until a task is in a state; ``passing``: let time pass meanwhile."""

        def there() -> bool:
            return self.state(task) is state

        for _ in range(200):
            if there():
                return
            if passing:
                await self.clock.advance(0.1)
            await asyncio.sleep(0.005)
        pytest.fail(f"{task.name} is {self.state(task)}, not {state}")


@asynccontextmanager
async def bench(
    folder: Path,
    engine: FakeEngine | None = None,
    *,
    overlay: RememberingOverlay | None = None,
    assigned: Iterable[Assignment] | None = None,
) -> AsyncIterator[Bench]:
    made = Bench(folder, engine or FakeEngine(), overlay or RememberingOverlay())
    await made.start()
    try:
        if assigned is not None:
            await made.worker.complete(list(assigned))
        yield made
    finally:
        await made.stop()


def wanted(task: Task, desired: S) -> Task:
    return msgspec.structs.replace(task, desired_state=desired)


async def test_nothing_happens_before_the_first_full_set(tmp_path: Path) -> None:
    task = a_task(NODE)
    async with bench(tmp_path) as b:
        await b.worker.incremental([task])
        await until(lambda: b.health.up, "the engine to be seen")
        await b.clock.advance(30)
        assert b.state(task) is S.ASSIGNED
        await b.worker.complete([task])
        await b.reaches(task, S.RUNNING)


async def test_a_missing_image_rejects_the_task_in_dockers_words(tmp_path: Path) -> None:
    task = a_task(NODE, image="foo:latest")
    async with bench(tmp_path, assigned=[task]) as b:
        await b.reaches(task, S.REJECTED)
        assert b.err(task) == "No such image: foo:latest"
        assert "no route" in b.worker.statuses[task.id].message


async def test_a_container_that_cannot_start_fails_the_task(tmp_path: Path) -> None:
    task = a_task(NODE)
    engine = FakeEngine()
    engine.start_errors["web.1"] = EngineError("exec: no such file")
    async with bench(tmp_path, engine, assigned=[task]) as b:
        await b.reaches(task, S.FAILED)
        assert b.err(task) == "exec: no such file"


async def test_a_task_held_ready_starts_when_it_may(tmp_path: Path) -> None:
    task = a_task(NODE, desired=S.READY)
    async with bench(tmp_path, assigned=[task]) as b:
        await b.reaches(task, S.READY)
        await b.clock.advance(10)
        assert b.engine.count("start") == 0
        await b.worker.incremental([wanted(task, S.RUNNING)])
        await b.reaches(task, S.RUNNING)


async def test_shutdown_stops_but_keeps_the_container_for_history(tmp_path: Path) -> None:
    task = a_task(NODE)
    async with bench(tmp_path, assigned=[task]) as b:
        await b.reaches(task, S.RUNNING)
        await b.worker.incremental([wanted(task, S.SHUTDOWN)])
        await b.reaches(task, S.SHUTDOWN)
        assert task.container_name in b.engine.found
        await b.worker.incremental([Removal("task", task.id)])
        await b.reaches(task, None)
        assert not b.engine.found


async def test_desired_remove_takes_the_container_too(tmp_path: Path) -> None:
    task = a_task(NODE)
    async with bench(tmp_path, assigned=[task]) as b:
        await b.reaches(task, S.RUNNING)
        await b.worker.incremental([wanted(task, S.REMOVE)])
        await b.reaches(task, S.SHUTDOWN)
        await until(lambda: not b.engine.found, "the container to be removed")
        assert b.state(task) is S.SHUTDOWN


async def test_a_container_that_ended_before_the_stop_keeps_its_own_end(tmp_path: Path) -> None:
    task = a_task(NODE)
    engine = BlockedEngine()
    async with bench(tmp_path, engine, assigned=[task]) as b:
        await b.reaches(task, S.RUNNING)
        found = engine.found[task.container_name]
        engine.found[task.container_name] = msgspec.structs.replace(found, running=False, exit_code=9)
        await b.worker.incremental([wanted(task, S.SHUTDOWN)])
        await b.reaches(task, S.FAILED)
        assert b.err(task) == "task: non-zero exit (9)"


async def test_a_pull_is_given_up_when_the_task_is_no_longer_wanted(tmp_path: Path) -> None:
    task = a_task(NODE)
    engine = BlockedEngine("image")
    async with bench(tmp_path, engine, assigned=[task]) as b:
        await asyncio.wait_for(engine.waiting.wait(), 5)
        await b.worker.incremental([wanted(task, S.SHUTDOWN)])
        await b.reaches(task, S.SHUTDOWN)
        assert engine.count("create") == 0


async def test_an_unreliable_engine_is_asked_again(tmp_path: Path) -> None:
    task = a_task(NODE)
    async with bench(tmp_path, FlakyEngine(times=2), assigned=[task]) as b:
        await b.reaches(task, S.RUNNING)
        await b.worker.incremental([Removal("task", task.id)])
        await b.reaches(task, None)


async def test_states_are_kept_while_the_engine_is_away(tmp_path: Path) -> None:
    running, ending, new = (a_task(NODE, slot=slot) for slot in (1, 2, 3))
    async with bench(tmp_path, assigned=[running, ending]) as b:
        await b.reaches(running, S.RUNNING)
        await b.reaches(ending, S.RUNNING)
        b.engine.go_down()
        await until(lambda: not b.health.up, "the engine's absence to be seen")
        assert b.health.description.engine_error
        await b.worker.incremental([new])
        b.engine.exit(ending.container_name, 4)
        await b.clock.advance(60)
        assert (b.state(running), b.state(ending)) == (S.RUNNING, S.RUNNING)
        starts = b.engine.count("start")
        b.engine.come_back()
        await b.reaches(ending, S.FAILED)
        await b.reaches(new, S.RUNNING)
        assert b.err(ending) == "task: non-zero exit (4)"
        assert b.state(running) is S.RUNNING
        assert b.engine.count("start") == starts + 1


async def test_a_task_not_started_yet_ends_without_an_engine(tmp_path: Path) -> None:
    task = a_task(NODE)
    engine = FakeEngine()
    engine.go_down()
    async with bench(tmp_path, engine, assigned=[task]) as b:
        await b.reaches(task, S.PREPARING)
        await b.worker.incremental([wanted(task, S.SHUTDOWN)])
        await b.reaches(task, S.SHUTDOWN)


async def test_after_a_restart_what_runs_is_adopted_and_what_ended_reports_its_exit(tmp_path: Path) -> None:
    network = a_network()
    running = a_task(NODE, networks=[(network, 5)])
    ended = a_task(NODE, slot=2)
    engine, overlay = FakeEngine(), RememberingOverlay()
    async with bench(tmp_path, engine, assigned=[network, running, ended]) as b:
        await b.reaches(running, S.RUNNING)
        await b.reaches(ended, S.RUNNING)
    engine.exit(ended.container_name, 6)
    overlay.networks.clear()
    before = len(engine.calls)
    async with bench(tmp_path, engine, overlay=overlay) as b:
        await b.reaches(ended, S.FAILED)
        assert b.err(ended) == "task: non-zero exit (6)"
        assert b.state(running) is S.RUNNING
        await until(lambda: network.id in overlay.networks, "the overlay to be restored")
        await b.clock.advance(60)
        acted = {call.partition(" ")[0] for call in engine.calls[before:]}
        assert not acted & {"start", "stop", "remove", "create", "network-remove"}
        assert dict(b.reports.batch())[ended.id].state is S.FAILED


async def test_a_restart_between_start_and_its_record_starts_nothing_twice(tmp_path: Path) -> None:
    task = a_task(NODE)
    db = TaskDB(tmp_path / DATABASE)
    db.open()
    db.write([PutTask(TaskRecord(task=task, status=TaskStatus(state=S.STARTING)))])
    db.close()
    engine = FakeEngine()
    engine.add(task.container_name, task.id, NODE)
    engine.exit(task.container_name, 3)
    async with bench(tmp_path, engine, assigned=[task]) as b:
        await b.reaches(task, S.FAILED)
        assert engine.count("start") == 0


async def test_without_its_database_the_agent_adopts_by_label(tmp_path: Path) -> None:
    running = a_task(NODE)
    engine = FakeEngine()
    async with bench(tmp_path, engine, assigned=[running]) as b:
        await b.reaches(running, S.RUNNING)
    (tmp_path / DATABASE).write_bytes(b"garbage" * 2000)
    seen = msgspec.structs.replace(running, status=TaskStatus(state=S.RUNNING))
    async with bench(tmp_path, engine, assigned=[seen]) as b:
        await b.reaches(running, S.RUNNING)
        await b.clock.advance(5)
        assert engine.count("start") == 1
        assert engine.found[running.container_name].running


async def test_containers_of_no_task_go_after_the_first_full_set_only(tmp_path: Path) -> None:
    engine = FakeEngine()
    engine.add("web.9.unknown", "unknown", NODE, running=True, started=True)
    engine.add("web.1.other", "other", "another-node", running=True, started=True)
    async with bench(tmp_path, engine) as b:
        await until(lambda: b.health.up, "the engine to be seen")
        await b.clock.advance(30)
        assert set(engine.found) == {"web.9.unknown", "web.1.other"}
        await b.worker.complete([])
        await until(lambda: set(engine.found) == {"web.1.other"}, "the unknown container to be removed")


async def test_a_running_orphan_is_stopped(tmp_path: Path) -> None:
    orphan = msgspec.structs.replace(a_task(NODE), status=TaskStatus(state=S.ORPHANED))
    engine = FakeEngine()
    engine.add(orphan.container_name, orphan.id, NODE, running=True, started=True)
    async with bench(tmp_path, engine, assigned=[orphan]):
        await until(lambda: not engine.found[orphan.container_name].running, "the orphan to be stopped")


async def test_tasks_absent_from_a_full_set_are_removed(tmp_path: Path) -> None:
    kept, gone = a_task(NODE), a_task(NODE, slot=2)
    async with bench(tmp_path, assigned=[kept, gone]) as b:
        await b.reaches(kept, S.RUNNING)
        await b.reaches(gone, S.RUNNING)
        await b.worker.complete([kept])
        await b.reaches(gone, None)
        assert b.state(kept) is S.RUNNING
        assert set(b.engine.found) == {kept.container_name}


async def test_a_name_that_is_taken_rejects_the_task(tmp_path: Path) -> None:
    task = a_task(NODE)
    engine = FakeEngine()
    engine.add(task.container_name, "", "")
    async with bench(tmp_path, engine, assigned=[task]) as b:
        await b.reaches(task, S.REJECTED)
        assert "taken" in b.err(task)


async def test_the_overlay_gets_a_moment_and_then_the_task_says_why(tmp_path: Path) -> None:
    network = a_network()
    one, two = (a_task(NODE, slot=slot, networks=[(network, slot + 4)]) for slot in (1, 2))
    overlay = RememberingOverlay()
    overlay.failures = [OverlayError("the bridge is not there yet")] * 2
    async with bench(tmp_path, overlay=overlay, assigned=[network, one]) as b:
        await b.reaches(one, S.RUNNING)
        await b.worker.incremental([Removal("task", one.id), Removal("network", network.id)])
        await b.reaches(one, None)
        await until(lambda: not overlay.networks, "the network to be left")
        overlay.failures = [OverlayError("VNI 4097 belongs to another device")] * 20
        await b.worker.incremental([network, two])
        await b.reaches(two, S.REJECTED)
        assert "VNI 4097" in b.err(two)


async def test_a_network_outlives_its_last_task_by_a_grace_period(tmp_path: Path) -> None:
    network = a_network()
    task, later = (a_task(NODE, slot=slot, networks=[(network, slot + 4)]) for slot in (1, 2))
    async with bench(tmp_path, assigned=[network, task]) as b:
        await b.reaches(task, S.RUNNING)
        await b.worker.incremental([wanted(task, S.SHUTDOWN)])
        await b.reaches(task, S.SHUTDOWN, passing=False)
        await b.clock.advance(5)
        assert network.id in b.overlay.networks
        await b.worker.incremental([later])
        await b.reaches(later, S.RUNNING, passing=False)
        await b.clock.advance(20)
        assert network.id in b.engine.networks
        await b.worker.incremental([wanted(later, S.SHUTDOWN)])
        await b.reaches(later, S.SHUTDOWN, passing=False)
        await b.clock.advance(11)
        await until(lambda: not b.engine.networks and not b.overlay.networks, "the network to be left")


async def test_a_network_in_its_grace_period_makes_way(tmp_path: Path) -> None:
    old, new = a_network(), a_network(vni=4099)
    task, later = a_task(NODE, networks=[(old, 5)]), a_task(NODE, slot=2, networks=[(new, 5)])
    async with bench(tmp_path, assigned=[old, task]) as b:
        await b.reaches(task, S.RUNNING)
        await b.worker.incremental([wanted(task, S.SHUTDOWN)])
        await b.reaches(task, S.SHUTDOWN, passing=False)
        await b.worker.incremental([new, later])
        await b.reaches(later, S.RUNNING, passing=False)
        assert set(b.overlay.networks) == {new.id}
        assert set(b.engine.networks) == {new.id}


async def test_leftover_networks_are_swept(tmp_path: Path) -> None:
    left: Network = a_network("left")
    engine = FakeEngine()
    engine.networks[left.id] = None  # type: ignore[assignment]
    async with bench(tmp_path, engine, assigned=[]) as b:
        await until(lambda: not engine.networks, "the leftover to be removed")
        await until(lambda: b.overlay.kept == set(), "the overlay to be pruned")


async def test_internal_networks_lead_nowhere(tmp_path: Path) -> None:
    inner, outer = a_network(internal=True), a_network("outer", 4098, "10.77.2.0/24")
    one = a_task(NODE, networks=[(inner, 5)])
    two = a_task(NODE, slot=2, networks=[(inner, 6), (outer, 6)])
    async with bench(tmp_path, assigned=[inner, outer, one, two]) as b:
        await b.reaches(one, S.RUNNING)
        await b.reaches(two, S.RUNNING)
        assert b.engine.egress == {one.container_name: False, two.container_name: True}
        assert [a.addr for a in b.engine.attachments[two.container_name]] == ["10.77.1.6", "10.77.2.6"]


async def test_an_unknown_network_is_named(tmp_path: Path) -> None:
    task = a_task(NODE, networks=[(network := a_network(), 5)])
    async with bench(tmp_path, assigned=[task]) as b:
        await b.reaches(task, S.REJECTED)
        assert network.id in b.err(task)


async def test_leaving_removes_everything_of_this_node(tmp_path: Path) -> None:
    network = a_network()
    task = a_task(NODE, networks=[(network, 5)])
    async with bench(tmp_path, assigned=[network, task]) as b:
        await b.reaches(task, S.RUNNING)
        await b.worker.remove_everything()
        assert not b.engine.found
        assert not b.engine.networks
        assert not b.overlay.networks


async def test_metrics_tell_tasks_by_state(tmp_path: Path) -> None:
    running, missing = a_task(NODE), a_task(NODE, slot=2, image="foo")
    async with bench(tmp_path, assigned=[running, missing]) as b:
        await b.reaches(running, S.RUNNING)
        await b.reaches(missing, S.REJECTED)

        def value(name: str, **labels: str) -> float | None:
            return b.registry.get_sample_value(name, labels)

        assert value("pyswarm_agent_tasks", state="running") == 1
        assert value("pyswarm_agent_tasks", state="rejected") == 1
        assert value("pyswarm_agent_tasks", state="preparing") == 0
        assert value("pyswarm_agent_container_starts_total") == 1
        assert value("pyswarm_agent_engine_up") == 1
