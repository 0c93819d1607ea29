"""The agent's task database: durable, and replaceable when it is damaged."""

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path

import msgspec
import pytest
from support.agents import a_network, a_task

from pyswarm.agent.taskdb import (
    Change,
    DropNetwork,
    DropTask,
    Journal,
    PutNetwork,
    PutTask,
    TaskDB,
    TaskRecord,
)
from pyswarm.common.clock import SystemClock
from pyswarm.common.errors import FailedPrecondition
from pyswarm.common.tasks import TaskGroupOwner
from pyswarm.common.types import TaskState, TaskStatus


def record(state: TaskState = TaskState.ASSIGNED) -> TaskRecord:
    return TaskRecord(task=a_task("n" * 25), status=TaskStatus(state=state))


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    db = TaskDB(tmp_path / "agent" / "tasks.db")
    assert db.open().records == ()
    one, two, network, other = record(), record(TaskState.RUNNING), a_network(), a_network("other")
    db.write([PutTask(one), PutTask(two), PutNetwork(network), PutNetwork(other)])
    one = msgspec.structs.replace(one, status=TaskStatus(state=TaskState.FAILED, err="why"), reported=True)
    db.write([PutTask(one), DropTask(two.task.id), DropNetwork(other.id)])
    db.close()
    contents = TaskDB(tmp_path / "agent" / "tasks.db").open()
    assert contents.records == (one,)
    assert contents.networks == (network,)


def test_a_transaction_is_all_or_nothing(tmp_path: Path) -> None:
    db = TaskDB(tmp_path / "tasks.db")
    db.open()
    with pytest.raises(AttributeError):
        db.write([PutTask(record()), PutTask(None)])  # type: ignore[arg-type]
    db.write([PutTask(kept := record())])
    db.close()
    assert TaskDB(tmp_path / "tasks.db").open().records == (kept,)


@pytest.mark.parametrize("damage", ["garbage", "pages", "row", "version"])
def test_a_damaged_file_is_moved_aside(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "tasks.db"
    db = TaskDB(path)
    db.open()
    db.write([PutTask(record()) for _ in range(200)])
    db.close()
    match damage:
        case "garbage":
            path.write_bytes(b"not a database at all" * 1000)
        case "pages":
            content = bytearray(path.read_bytes())
            content[4096:40960] = os.urandom(36864)
            path.write_bytes(content)
        case "row":
            with sqlite3.connect(path) as raw:
                raw.execute("UPDATE tasks SET task = x'c1'")
        case "version":
            with sqlite3.connect(path) as raw:
                raw.execute("PRAGMA user_version=99")
    db = TaskDB(path)
    assert db.open().records == ()
    assert (tmp_path / "tasks.db.damaged-1").exists()
    db.write([PutTask(kept := record())])
    db.close()
    assert TaskDB(path).open().records == (kept,)


def test_a_file_that_cannot_be_opened_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "tasks.db").mkdir()
    with pytest.raises(FailedPrecondition, match="cannot open the task database"):
        TaskDB(tmp_path / "tasks.db").open()
    assert (tmp_path / "tasks.db").is_dir()


_WRITER = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    from support.agents import a_task
    from pyswarm.agent.taskdb import PutTask, TaskDB, TaskRecord

    db = TaskDB(Path(sys.argv[1]))
    db.open()
    while True:
        tasks = [a_task("n" * 25, slot=slot) for slot in (1, 2, 3)]
        db.write([PutTask(TaskRecord(task=task, status=task.status)) for task in tasks])
        print(*(task.id for task in tasks), flush=True)
    """
)


def test_kill_9_loses_nothing_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    writer = subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(path)], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert writer.stdout is not None
    acknowledged = [writer.stdout.readline().split() for _ in range(20)]
    os.kill(writer.pid, signal.SIGKILL)
    acknowledged += [
        line.split() for line in writer.stdout.read().splitlines(keepends=True) if line.endswith("\n")
    ]
    writer.wait(10)
    found = {held.task.id for held in TaskDB(path).open().records}
    assert {task_id for batch in acknowledged for task_id in batch} <= found
    assert len(found) % 3 == 0, "a transaction was torn"
    assert not list(tmp_path.glob("*.damaged-*"))


async def test_the_journal_writes_in_order_and_what_is_left_on_closing(tmp_path: Path) -> None:
    tasks = TaskGroupOwner("test")
    journal = Journal(TaskDB(tmp_path / "tasks.db"), SystemClock(), tasks)
    await journal.open()
    held = record()
    marks = [
        journal.save(PutTask(msgspec.structs.replace(held, status=TaskStatus(state=state))))
        for state in (TaskState.ACCEPTED, TaskState.PREPARING, TaskState.READY)
    ]
    await journal.durable(marks[-1])
    with sqlite3.connect(tmp_path / "tasks.db") as raw:
        (status,) = raw.execute("SELECT status FROM tasks").fetchone()
    assert msgspec.msgpack.decode(status, type=TaskStatus).state is TaskState.READY
    journal.save(PutTask(last := msgspec.structs.replace(held, reported=True)))
    await tasks.stop()
    await journal.close()
    assert TaskDB(tmp_path / "tasks.db").open().records == (last,)


class FullDisk(TaskDB):
    """Fails to write until there is space."""

    full = True

    def write(self, changes: list[Change]) -> None:  # type: ignore[override]
        if self.full:
            raise sqlite3.OperationalError("database or disk is full")
        super().write(changes)


async def test_a_full_disk_holds_the_node_until_there_is_space(tmp_path: Path) -> None:
    class Impatient(SystemClock):
        async def sleep(self, delay_s: float) -> None:
            await asyncio.sleep(0.001)

    tasks = TaskGroupOwner("test")
    db = FullDisk(tmp_path / "tasks.db")
    journal = Journal(db, Impatient(), tasks)
    await journal.open()
    waiting = asyncio.ensure_future(journal.durable(journal.save(PutTask(record()))))
    done, _ = await asyncio.wait([waiting], timeout=0.05)
    assert not done
    db.full = False
    await asyncio.wait_for(waiting, 5)
    await tasks.stop()
    await journal.close()
