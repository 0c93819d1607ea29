"""What the agent knows of its tasks across a restart, on disk before anything is done about it.

SQLite with a write-ahead log, each transaction flushed. A file that cannot be read is moved aside: what is
lost with it comes back with the leader's first full set and the labels of the containers.
"""

import asyncio
import sqlite3
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from pyswarm.common.clock import Clock
from pyswarm.common.errors import FailedPrecondition
from pyswarm.common.log import get_logger
from pyswarm.common.tasks import TaskGroupOwner
from pyswarm.common.types import Network, Task, TaskStatus

log = get_logger("agent")

SCHEMA_VERSION = 1
_RETRY_S = 1.0
_SCHEMA = """
CREATE TABLE IF NOT EXISTS tasks (
  id TEXT PRIMARY KEY, task BLOB NOT NULL, status BLOB NOT NULL, reported INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS networks (id TEXT PRIMARY KEY, network BLOB NOT NULL) WITHOUT ROWID;
"""


class TaskRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A task as assigned, what was last observed of it, and whether a manager acknowledged that."""

    task: Task
    status: TaskStatus
    reported: bool = False


class PutTask(msgspec.Struct, frozen=True):
    """Write a record."""

    record: TaskRecord


class DropTask(msgspec.Struct, frozen=True):
    """Forget a task."""

    task_id: str


class PutNetwork(msgspec.Struct, frozen=True):
    """Write a network."""

    network: Network


class DropNetwork(msgspec.Struct, frozen=True):
    """Forget a network."""

    network_id: str


Change = PutTask | DropTask | PutNetwork | DropNetwork


class Contents(msgspec.Struct, frozen=True):
    """Everything in the database."""

    records: tuple[TaskRecord, ...] = ()
    networks: tuple[Network, ...] = ()


class TaskDB:
    """The file. Used by one thread at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None

    def open(self) -> Contents:
        """Read everything. A damaged file is moved aside, and an empty one takes its place."""
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            return self._open()
        except sqlite3.OperationalError as exc:
            raise FailedPrecondition(f"cannot open the task database {self._path}: {exc}") from exc
        except (sqlite3.DatabaseError, msgspec.DecodeError, UnicodeDecodeError) as exc:
            self.close()
            aside = self._move_aside()
            log.error("the task database was damaged and is moved aside", moved_to=str(aside), reason=str(exc))
            return self._open()

    def _open(self) -> Contents:
        connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        self._connection = connection
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version not in (0, SCHEMA_VERSION):
            raise sqlite3.DatabaseError(f"schema version {version} is not known")
        (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise sqlite3.DatabaseError(verdict)
        connection.executescript(_SCHEMA)
        connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        records = tuple(
            TaskRecord(
                task=msgspec.msgpack.decode(task, type=Task),
                status=msgspec.msgpack.decode(status, type=TaskStatus),
                reported=bool(reported),
            )
            for task, status, reported in connection.execute("SELECT task, status, reported FROM tasks")
        )
        networks = tuple(
            msgspec.msgpack.decode(network, type=Network)
            for (network,) in connection.execute("SELECT network FROM networks")
        )
        return Contents(records, networks)

    def _move_aside(self) -> Path:
        number = 1
        while (aside := self._path.with_name(f"{self._path.name}.damaged-{number}")).exists():
            number += 1
        self._path.rename(aside)
        for suffix in ("-wal", "-shm"):
            self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
        return aside

    def write(self, changes: Sequence[Change]) -> None:
        """All of it or nothing, on disk when this returns."""
        connection = self._connection
        if connection is None:
            raise sqlite3.ProgrammingError("the task database is closed")
        connection.execute("BEGIN IMMEDIATE")
        try:
            for change in changes:
                _apply(connection, change)
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise

    def close(self) -> None:
        """Close the file."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _apply(connection: sqlite3.Connection, change: Change) -> None:
    match change:
        case PutTask(record):
            connection.execute(
                "INSERT OR REPLACE INTO tasks VALUES (?, ?, ?, ?)",
                (
                    record.task.id,
                    msgspec.msgpack.encode(record.task),
                    msgspec.msgpack.encode(record.status),
                    int(record.reported),
                ),
            )
        case DropTask(task_id):
            connection.execute("DELETE FROM tasks WHERE id = ?", (task_id,))
        case PutNetwork(network):
            connection.execute(
                "INSERT OR REPLACE INTO networks VALUES (?, ?)", (network.id, msgspec.msgpack.encode(network))
            )
        case DropNetwork(network_id):
            connection.execute("DELETE FROM networks WHERE id = ?", (network_id,))


class Journal:
    """The database for the loop: changes are written in order, many to a flush, by a thread of its own."""

    def __init__(self, db: TaskDB, clock: Clock, tasks: TaskGroupOwner) -> None:
        self._db = db
        self._clock = clock
        self._tasks = tasks
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="agent-db")
        self._queue: list[Change] = []
        self._queued = 0
        self._written = 0
        self._progress = asyncio.Condition()
        self._work = asyncio.Event()

    async def open(self) -> Contents:
        """Read what an earlier agent left, and begin to write."""
        contents = await asyncio.get_running_loop().run_in_executor(self._executor, self._db.open)
        self._tasks.spawn(self._run(), "journal")
        return contents

    def save(self, *changes: Change) -> int:
        """Queue changes; returns what to give ``durable`` to wait for them."""
        self._queue.extend(changes)
        self._queued += len(changes)
        self._work.set()
        return self._queued

    async def durable(self, mark: int) -> None:
        """Wait until everything up to ``mark`` is on disk."""
        async with self._progress:
            await self._progress.wait_for(lambda: self._written >= mark)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._work.wait()
            self._work.clear()
            batch, self._queue = self._queue, []
            while batch:
                try:
                    await loop.run_in_executor(self._executor, self._db.write, batch)
                    break
                except asyncio.CancelledError:
                    self._queue[:0] = batch  # close() writes it, a second time perhaps, which changes nothing
                    raise
                except sqlite3.Error as exc:
                    # Such as a full disk. Nothing is begun that is not written, so the node waits with it.
                    log.error("cannot write the task database; trying again", reason=str(exc))
                    await self._clock.sleep(_RETRY_S)
            async with self._progress:
                self._written += len(batch)
                self._progress.notify_all()

    async def close(self) -> None:
        """Write what is still queued, once, and close. The task that writes has been stopped before."""
        loop = asyncio.get_running_loop()
        batch, self._queue = self._queue, []
        try:
            if batch:
                await loop.run_in_executor(self._executor, self._db.write, batch)
        except sqlite3.Error as exc:
            log.error("the last changes to the task database are lost", reason=str(exc))
        await loop.run_in_executor(self._executor, self._db.close)
        self._executor.shutdown(wait=True)
