"""How the time of a Raft node passes: on a thread of its own, or as a simulation wishes.

The node's work is an iterator of the pauses it makes. Everything between two pauses happens at one moment; a
driver decides when that is, and may never ask for the rest, as a power cut would.
"""

import asyncio
import threading
import time
from collections.abc import Iterator
from typing import Protocol

import msgspec


class Pause(msgspec.Struct, frozen=True):
    """Nothing is to be done for ``seconds``, or, if ``until_woken``, until something comes in earlier."""

    seconds: float
    until_woken: bool = False


#: A step is done and about to be made durable. A thread goes on at once; that the disk takes its time shows there.
BEFORE_SYNC = Pause(0.0)


class Driver(Protocol):
    """Runs the work of one node."""

    def start(self, work: Iterator[Pause]) -> None:
        """Run until the work ends by itself."""
        ...

    def wake(self) -> None:
        """Something came in; called from any thread."""
        ...

    async def stopped(self) -> None:
        """Wait until the work, which was told to end, has ended."""
        ...


class RaftThread:
    """The driver in production."""

    def __init__(self) -> None:
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, work: Iterator[Pause]) -> None:
        """Start the thread."""
        self._thread = threading.Thread(target=self._run, args=(work,), name="raft", daemon=True)
        self._thread.start()

    def _run(self, work: Iterator[Pause]) -> None:
        for pause in work:
            if pause.until_woken:
                self._wake.wait(pause.seconds)
                self._wake.clear()
            elif pause.seconds:
                time.sleep(pause.seconds)

    def wake(self) -> None:
        """End a pause that can be ended."""
        self._wake.set()

    async def stopped(self) -> None:
        """Join the thread."""
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)
            self._thread = None
