"""The agent over restarts: its own, its engine's, and with its database lost."""

from pathlib import Path

import msgspec
from support.agents import RememberingOverlay, a_network, a_task, until
from support.fake_engine import FakeEngine
from support.worker_bench import NODE, S, bench, wanted

from pyswarm.agent.agent import DATABASE
from pyswarm.agent.engine import EngineUnavailable
from pyswarm.agent.taskdb import PutTask, TaskDB, TaskRecord
from pyswarm.common.types import TaskStatus
from pyswarm.overlay.api import OverlayError


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


async def test_a_network_that_cannot_be_restored_at_once_is_restored_later(tmp_path: Path) -> None:
    network = a_network()
    task = a_task(NODE, networks=[(network, 5)])
    engine, overlay = FakeEngine(), RememberingOverlay()
    async with bench(tmp_path, engine, assigned=[network, task]) as b:
        await b.reaches(task, S.RUNNING)
    overlay.failures = [OverlayError("the bridge is not there yet")]
    async with bench(tmp_path, engine, overlay=overlay) as b:
        await until(lambda: not overlay.failures, "the first try")
        await b.clock.advance(11)
        await until(lambda: network.id in overlay.networks, "the second try")


async def test_a_lost_event_is_noticed_all_the_same(tmp_path: Path) -> None:
    task = a_task(NODE)
    async with bench(tmp_path, assigned=[task]) as b:
        await b.reaches(task, S.RUNNING)
        found = b.engine.found[task.container_name]
        b.engine.found[task.container_name] = msgspec.structs.replace(found, running=False, exit_code=8)
        await b.reaches(task, S.FAILED)


async def test_an_engine_that_hangs_counts_as_absent(tmp_path: Path) -> None:
    task = a_task(NODE)
    engine = HangingEngine()
    async with bench(tmp_path, engine, assigned=[task]) as b:
        await b.reaches(task, S.RUNNING)
        engine.hangs = True
        await b.clock.advance(16)
        await until(lambda: "did not answer" in b.health.description.engine_error, "the hang to be noticed")
        engine.hangs = False
        await b.clock.advance(5)
        await until(lambda: b.health.up, "the engine's return")
        assert b.state(task) is S.RUNNING


class HangingEngine(FakeEngine):
    """Keeps its connections and answers nothing, which the door turns into an error after a while."""

    hangs = False

    async def _asked(self, call: str, about: str = "") -> None:
        await super()._asked(call, about)
        if self.hangs:
            raise EngineUnavailable(f"the engine did not answer within 30 s ({call})")
