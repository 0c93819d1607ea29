"""Child processes: exec'd, restarted when they end, gone when the daemon is gone.

A child inherits the reading end of a pipe whose writing end only the daemon holds: however the daemon ends,
the child reads the end of the pipe and exits.
"""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from pyswarm.common.log import get_logger
from pyswarm.common.parentpipe import EXIT_FATAL
from pyswarm.common.tasks import TaskGroupOwner

log = get_logger("children")

RESTART_DELAY_MIN_S = 0.1
RESTART_DELAY_MAX_S = 5.0
#: A child that ran this long was well; the next restart is quick again.
HEALTHY_AFTER_S = 10.0


class Child:
    """One supervised process: ``python -m MODULE ARGS --parent-pipe FD``."""

    def __init__(
        self,
        name: str,
        module: str,
        args: Callable[[], Sequence[str]],
        pid_file: Path,
        on_fatal: Callable[[str], None] = lambda _text: None,
        failure_file: Path | None = None,
    ) -> None:
        self.name = name
        self._module = module
        self._args = args
        self._pid_file = pid_file
        self._on_fatal = on_fatal
        self._failure_file = failure_file
        self._owner = TaskGroupOwner(name)
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = False
        self._expected = False

    def start(self) -> None:
        """Start, and keep it started."""
        self._stopping = False
        self._owner = TaskGroupOwner(self.name)
        self._owner.spawn(self._supervise(), "supervise")

    async def stop(self, patience_s: float = 10.0) -> None:
        """Ask the process to end, then make it; returns when it has ended."""
        self._stopping = True
        process = self._process
        if process is not None and process.returncode is None:
            _signal(process, signal.SIGTERM)
            try:
                await asyncio.wait_for(process.wait(), patience_s)
            except TimeoutError:
                log.warning("child does not stop; killing it", child=self.name, pid=process.pid)
                _signal(process, signal.SIGKILL)
                await process.wait()
        await self._owner.stop()
        self._pid_file.unlink(missing_ok=True)

    def restart(self) -> None:
        """End the process, for the supervision to start it again with what it reads at its start."""
        if self._process is not None and self._process.returncode is None:
            self._expected = True
            _signal(self._process, signal.SIGTERM)

    async def _supervise(self) -> None:
        delay_s = RESTART_DELAY_MIN_S
        loop = asyncio.get_running_loop()
        while not self._stopping:
            started = loop.time()
            code = await self._run_once()
            if self._stopping:
                return
            if code == EXIT_FATAL:
                reason = self._last_failure()
                log.error("child cannot run; not restarting it", child=self.name, reason=reason)
                self._on_fatal(f"the {self.name} cannot run: {reason}")
                return
            if self._expected:
                self._expected = False
                continue
            if loop.time() - started > HEALTHY_AFTER_S:
                delay_s = RESTART_DELAY_MIN_S
            log.warning("child ended; restarting it", child=self.name, exit_code=code, delay_s=delay_s)
            await asyncio.sleep(delay_s)
            delay_s = min(delay_s * 2, RESTART_DELAY_MAX_S)

    @property
    def trouble(self) -> str:
        """Why the process ended, while it does not run."""
        running = self._process is not None and self._process.returncode is None
        return "" if running or self._stopping or self._process is None else self._last_failure()

    def _last_failure(self) -> str:
        """What the process said before it ended."""
        try:
            text = self._failure_file.read_text().strip() if self._failure_file is not None else ""
        except OSError:
            text = ""
        return text or "its log says why"

    async def _run_once(self) -> int:
        if self._failure_file is not None:
            self._failure_file.unlink(missing_ok=True)
        reading, writing = os.pipe()
        try:
            argv = [sys.executable, "-m", self._module, *self._args(), "--parent-pipe", str(reading)]
            # A session of its own: Ctrl-C on a daemon in the foreground reaches the children through it, in order.
            process = await asyncio.create_subprocess_exec(
                *argv, stdin=asyncio.subprocess.DEVNULL, pass_fds=(reading,), start_new_session=True
            )
        finally:
            os.close(reading)
        try:
            self._process = process
            self._pid_file.write_text(f"{process.pid}\n")
            return await process.wait()
        finally:
            os.close(writing)
            if process.returncode is not None:
                self._pid_file.unlink(missing_ok=True)


def _signal(process: asyncio.subprocess.Process, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(number)
