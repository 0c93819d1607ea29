"""Runs this node's etcd member, as the leader assigned it. Lives in the daemon."""

import asyncio
import re
import shutil
import signal
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Callable
from pathlib import Path

from pyswarm.common.clock import Clock, SystemClock
from pyswarm.common.log import get_logger
from pyswarm.common.tasks import TaskGroupOwner
from pyswarm.common.tls import manager_name
from pyswarm.overlay.registry.plan import EtcdAssignment
from pyswarm.overlay.registry.server import BINARY, EtcdServerConfig, EtcdTLSFiles, etcd_argv

log = get_logger("etcd")
NOT_INSTALLED = "etcd is not installed: apt-get install etcd-server"
# Asked to stop, etcd first waits seconds for its watchers to leave, which they never do; a killed member loses
# nothing that it has acknowledged.
_STOP_PATIENCE_S = 1.0
_BACKOFF_MIN_S = 0.5
_BACKOFF_MAX_S = 10.0
_STEADY_AFTER_S = 30.0
_REPORT_AFTER_FAILURES = 3
_LOG_LIMIT_BYTES = 4 * 1024 * 1024
_ERROR = re.compile(r'"error":"((?:[^"\\]|\\.)*)"')
_FOLDER = re.compile(r"\d+-\d+")


class EtcdRunner:
    """Starts, restarts and stops etcd so that it is what was last applied.

    Another generation or incarnation means that what is on the disk is worthless: its folder is deleted.
    Everything else keeps the folder, so that a restarted daemon's etcd goes on where it was.
    """

    def __init__(
        self,
        *,
        certs_dir: Path,
        data_dir: Path,
        addr: str,
        pid_file: Path,
        node_id: str,
        cluster_id: str,
        on_failure: Callable[[EtcdAssignment, str], None] | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._tls = EtcdTLSFiles(
            str(certs_dir / "ca.crt"), str(certs_dir / "node.crt"), str(certs_dir / "node.key")
        )
        self._data_dir = data_dir
        self._addr = addr
        self._pid_file = pid_file
        self._node_id = node_id
        self._manager_name = manager_name(cluster_id)
        self._on_failure = on_failure
        self._clock: Clock = clock or SystemClock()
        self._tasks = TaskGroupOwner("etcd-runner")
        self._started = False
        self._wanted: EtcdAssignment | None = None
        self._changed = asyncio.Event()
        self._process: Process | None = None
        self._failures = 0

    @property
    def pid(self) -> int | None:
        """etcd's process id while it runs."""
        return self._process.pid if self._process is not None else None

    def apply(self, assignment: EtcdAssignment | None) -> None:
        """Run this from now on; None runs nothing and deletes the data. Returns at once."""
        if self._started and assignment == self._wanted:
            return
        self._wanted = assignment
        self._changed.set()
        if not self._started:
            self._started = True
            self._tasks.spawn(self._run(), "run")

    async def stop(self) -> None:
        """Stop etcd and keep its data."""
        await self._tasks.stop()
        await self._end_process()

    async def _run(self) -> None:
        while True:
            self._changed.clear()
            wanted = self._wanted
            self._tidy(wanted)
            if wanted is None:
                await self._changed.wait()
                continue
            failure = await self._run_one(wanted)
            if failure and not self._changed.is_set():
                await self._failed(wanted, failure)

    async def _run_one(self, wanted: EtcdAssignment) -> str:
        """Run etcd until something else is wanted (then "") or it ends by itself (then why)."""
        started_at = self._clock.monotonic()
        try:
            self._process = await self._spawn(wanted)
        except OSError as exc:
            return f"etcd cannot be started: {exc}"
        if self._process is None:
            return NOT_INSTALLED
        exited = self._tasks.spawn(self._process.wait(), "wait")
        try:
            while not exited.done():
                changed = self._tasks.spawn(self._changed.wait(), "changed")
                await asyncio.wait((exited, changed), return_when=asyncio.FIRST_COMPLETED)
                changed.cancel()
                if exited.done():
                    break
                self._changed.clear()
                if self._wanted is None or _needs_restart(wanted, self._wanted):
                    self._changed.set()
                    self._failures = 0
                    return ""
        finally:
            # A folder that is in use must not be deleted; nor may two of them hold the ports.
            await asyncio.shield(self._end_process())
        if self._clock.monotonic() - started_at > _STEADY_AFTER_S:
            self._failures = 0
        return f"etcd ended with code {exited.result()}: {self._last_words()}"

    async def _spawn(self, wanted: EtcdAssignment) -> Process | None:
        if shutil.which(BINARY) is None:
            return None
        folder = self._data_dir / wanted.folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        config = EtcdServerConfig(
            node_id=self._node_id,
            ip=self._addr,
            data_dir=str(folder),
            tls=self._tls,
            manager_name=self._manager_name,
            initial_cluster=wanted.initial_cluster,
            state=wanted.state,
            token=wanted.token,
            sealed=wanted.sealed,
            client_port=wanted.client_port,
            peer_port=wanted.peer_port,
        )
        with self._log_file.open("ab") as out:
            process = await asyncio.create_subprocess_exec(
                # A session of its own, so that Ctrl-C in a terminal reaches only the daemon.
                *etcd_argv(config),
                stdin=DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        self._pid_file.parent.mkdir(parents=True, exist_ok=True)
        self._pid_file.write_text(f"{process.pid}\n")
        log.info("etcd started", generation=wanted.generation, incarnation=wanted.incarnation)
        return process

    async def _end_process(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(_STOP_PATIENCE_S):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()
        self._pid_file.unlink(missing_ok=True)

    async def _failed(self, wanted: EtcdAssignment, failure: str) -> None:
        self._failures += 1
        log.warning("etcd does not run", reason=failure, attempt=self._failures)
        if self._on_failure is not None and self._failures >= _REPORT_AFTER_FAILURES:
            self._on_failure(wanted, failure)
        delay_s = min(_BACKOFF_MIN_S * 2 ** (self._failures - 1), _BACKOFF_MAX_S)
        waits = {
            self._tasks.spawn(self._clock.sleep(delay_s), "backoff"),
            self._tasks.spawn(self._changed.wait(), "changed"),
        }
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for task in waits:
            task.cancel()

    @property
    def _log_file(self) -> Path:
        return self._data_dir / "etcd.log"

    def _tidy(self, wanted: EtcdAssignment | None) -> None:
        """Delete the folders of other generations and incarnations, and a log that has grown."""
        self._data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in self._data_dir.iterdir():
            if _FOLDER.fullmatch(folder.name) and (wanted is None or folder.name != wanted.folder):
                log.info("deleting etcd data that is out of date", folder=folder.name)
                shutil.rmtree(folder, ignore_errors=True)
        if self._log_file.exists() and self._log_file.stat().st_size > _LOG_LIMIT_BYTES:
            self._log_file.replace(self._log_file.with_suffix(".log.1"))

    def _last_words(self) -> str:
        """The last error that etcd logged, or else its last line, for a person to read."""
        try:
            with self._log_file.open("rb") as file:
                file.seek(max(0, self._log_file.stat().st_size - 2000))
                lines = file.read().decode(errors="replace").strip().splitlines()
        except OSError:
            return ""
        errors = [found[1] for line in lines if (found := _ERROR.search(line))]
        return (errors or lines or [""])[-1][:300]


def _needs_restart(running: EtcdAssignment, wanted: EtcdAssignment) -> bool:
    """What etcd reads only while its folder is empty does not matter to one that runs."""
    return (running.folder, running.sealed, running.client_port, running.peer_port) != (
        wanted.folder,
        wanted.sealed,
        wanted.client_port,
        wanted.peer_port,
    )
