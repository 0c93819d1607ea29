"""Secrets and configs on a node: there before the task needs them, gone when it has ended, written nowhere."""

import asyncio
from pathlib import Path

import msgspec
from support.agents import a_config, a_secret, a_task, an_agent, until, using
from support.dispatcher import FakeDispatcher, gone
from support.fake_engine import BlockedEngine, FakeEngine
from support.fake_folders import FakeFolders
from support.pki import Pki
from support.worker_bench import NODE, S, bench, wanted

from pyswarm.agent.agent import DATABASE
from pyswarm.agent.engine import FileMount
from pyswarm.agent.worker import Removal
from pyswarm.common.types import FileTarget

PAYLOAD = b"hunter2\x00\xff"


def written(folder: Path) -> bytes:
    """Everything the agent wrote."""
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


async def test_files_are_in_place_before_the_container_and_gone_after_it(tmp_path: Path) -> None:
    secret, config = a_secret("tok", PAYLOAD), a_config("conf", b"x=1")
    files = using((secret, FileTarget(name="tok", uid="7", mode=0o400)), (config, FileTarget(name="/etc/conf")))
    task = a_task(NODE, **files)
    async with bench(tmp_path, assigned=[secret, config, task]) as b:
        await b.reaches(task, S.RUNNING)
        folder = f"/run/lab/files/{task.id}"
        assert b.engine.mounts[task.container_name] == [
            FileMount(f"{folder}/secrets", "/run/secrets"),
            FileMount(f"{folder}/single/1", "/etc/conf"),
        ]
        made = b.folders.found[task.id]
        assert {path: file.data for path, file in made.items()} == {"secrets/tok": PAYLOAD, "single/1": b"x=1"}
        assert (made["secrets/tok"].uid, made["secrets/tok"].gid, made["secrets/tok"].mode) == (7, 0, 0o400)
        assert b"hunter2" not in written(tmp_path)
        await b.worker.incremental([wanted(task, S.SHUTDOWN)])
        await b.reaches(task, S.SHUTDOWN)
        await until(lambda: not b.folders.found, "the folder to go, although its container stays")
        assert task.container_name in b.engine.found
    assert (tmp_path / DATABASE).exists()
    assert b"hunter2" not in written(tmp_path)


async def test_tasks_without_files_get_no_folder(tmp_path: Path) -> None:
    task = a_task(NODE)
    async with bench(tmp_path, assigned=[a_secret(), task]) as b:
        await b.reaches(task, S.RUNNING)
        assert b.folders.found == {}
        assert b.engine.mounts[task.container_name] == ()


async def test_a_missing_secret_rejects_the_task(tmp_path: Path) -> None:
    secret = a_secret("tok", PAYLOAD)
    task = a_task(NODE, **using((secret, FileTarget(name="tok"))))
    async with bench(tmp_path, assigned=[task]) as b:
        await b.reaches(task, S.REJECTED)
        assert b.err(task) == "secret tok is not available on this node"
        assert b.engine.count("create") == 0
        assert b.folders.found == {}


async def test_a_secret_that_was_taken_back_is_gone_for_later_tasks(tmp_path: Path) -> None:
    secret = a_secret("tok", PAYLOAD)
    first, second = (a_task(NODE, slot=slot, **using((secret, FileTarget(name="tok")))) for slot in (1, 2))
    async with bench(tmp_path, assigned=[secret, first]) as b:
        await b.reaches(first, S.RUNNING)
        await b.worker.incremental([Removal("secret", secret.id)])
        assert first.id in b.folders.found, "what runs keeps its files"
        await b.worker.incremental([second])
        await b.reaches(second, S.REJECTED)


async def test_what_is_not_in_a_full_set_is_forgotten(tmp_path: Path) -> None:
    secret, config = a_secret(), a_config()
    task = a_task(NODE, **using((secret, FileTarget(name="a")), (config, FileTarget(name="b"))))
    async with bench(tmp_path, assigned=[secret, config]) as b:
        await b.worker.complete([config, task])
        await b.reaches(task, S.REJECTED)
        assert b.err(task) == "secret tok is not available on this node"


async def test_a_host_that_cannot_mount_says_so(tmp_path: Path) -> None:
    secret = a_secret()
    task = a_task(NODE, **using((secret, FileTarget(name="tok"))))
    folders = FakeFolders()
    folders.failure = OSError(1, "Operation not permitted")
    async with bench(tmp_path, folders=folders, assigned=[secret, task]) as b:
        await b.reaches(task, S.REJECTED)
        assert b.err(task) == "cannot put secrets and configs in place: Operation not permitted"


async def test_after_a_restart_running_tasks_go_on_and_new_ones_wait_for_the_full_set(tmp_path: Path) -> None:
    secret = a_secret("tok", PAYLOAD)
    running, waiting = (a_task(NODE, slot=slot, **using((secret, FileTarget(name="tok")))) for slot in (1, 2))
    engine, folders = BlockedEngine(), FakeFolders()
    async with bench(tmp_path, engine, folders=folders, assigned=[secret, running]) as b:
        await b.reaches(running, S.RUNNING)
        engine.blocked.add("image")
        await b.worker.incremental([waiting])
        await b.reaches(waiting, S.PREPARING)
    engine.release()
    folders.found["left"] = {}
    async with bench(tmp_path, engine, folders=folders) as b:
        await until(lambda: b.health.up, "the engine to be seen")
        await b.clock.advance(60)
        assert (b.state(running), b.state(waiting)) == (S.RUNNING, S.PREPARING)
        assert set(folders.found) == {running.id, "left"}
        await b.worker.complete([secret, running, waiting])
        await b.reaches(waiting, S.RUNNING)
        assert set(folders.found) == {running.id, waiting.id}, "and what is nobody's was swept away"
        assert folders.builds == 2, "what was in place is not made again"


async def test_files_lost_before_the_start_are_made_again(tmp_path: Path) -> None:
    secret = a_secret("tok", PAYLOAD)
    task = a_task(NODE, desired=S.READY, **using((secret, FileTarget(name="tok"))))
    async with bench(tmp_path, assigned=[secret, task]) as b:
        await b.reaches(task, S.READY)
        b.folders.found.clear()  # as after a restart of the host
        await b.worker.incremental([wanted(task, S.RUNNING)])
        await b.reaches(task, S.RUNNING)
        assert b.folders.found[task.id]["secrets/tok"].data == PAYLOAD


async def test_a_container_that_should_not_run_keeps_its_files_while_it_does(tmp_path: Path) -> None:
    engine, folders = FakeEngine(), FakeFolders()
    engine.add("web.9.stray", "stray", NODE, running=True, started=True)
    folders.found["stray"] = {}
    engine_blocked = BlockedEngine("stop")
    engine_blocked.found, engine_blocked.node_of = engine.found, engine.node_of
    async with bench(tmp_path, engine_blocked, folders=folders, assigned=[]) as b:
        await asyncio.wait_for(engine_blocked.waiting.wait(), 5)
        assert "stray" in folders.found
        engine_blocked.release()
        await until(lambda: not engine_blocked.found, "the container to be removed")
        await b.worker.audit()
        assert folders.found == {}


async def test_leaving_removes_files_whatever_uses_them(tmp_path: Path) -> None:
    secret = a_secret()
    task = a_task(NODE, **using((secret, FileTarget(name="tok"))))
    async with bench(tmp_path, assigned=[secret, task]) as b:
        await b.reaches(task, S.RUNNING)
        b.folders.found["left"] = {}
        await b.worker.remove_files()
        assert b.folders.found == {}


async def test_a_full_set_in_parts_counts_once_all_of_it_is_there(tmp_path: Path) -> None:
    secrets = [a_secret(f"s{n}", bytes([n])) for n in range(5)]
    task = a_task(NODE, **using(*((s, FileTarget(name=s.spec.name)) for s in secrets)))
    folders = FakeFolders()
    pki = Pki()
    async with FakeDispatcher(pki) as leader:
        leader.part_size, leader.parts_to_lose = 2, 1
        identity = pki.identity("worker")
        task = msgspec.structs.replace(task, node_id=identity.node_id)
        leader.objects = {item.id: item for item in (*secrets, task)}
        agent = an_agent(identity, [leader.addr], FakeEngine(), tmp_path, folders=folders)
        await agent.start()
        try:
            await leader.until((task, S.RUNNING))
            assert {path: f.data for path, f in folders.found[task.id].items()} == {
                f"secrets/s{n}": bytes([n]) for n in range(5)
            }
            assert leader.parts_to_lose == 0
            assert S.REJECTED not in {status.state for status in leader.statuses[task.id]}
            second = a_task(identity.node_id, slot=2, **using((secrets[0], FileTarget(name="x"))))
            leader.assign(gone(secrets[0]), items=[second])
            await leader.until((second, S.REJECTED))
        finally:
            await agent.leave([])
    assert folders.found == {}
    assert b"hunter2" not in written(tmp_path)
