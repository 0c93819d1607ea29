"""Processes that are asked by lines of JSON on their standard input and answer in the same way."""

import asyncio
import json
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from storebench.figures import log

ANSWER_LIMIT_S = 300.0

Answer = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]


async def serve_questions(answer: Answer) -> None:
    """For the child: answer until nobody asks any more."""
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    print(json.dumps({"started": True}), flush=True)
    while line := await reader.readline():
        print(json.dumps(await answer(json.loads(line))), flush=True)


class Child:
    """One such process, started with a role's name and arguments for ``benchmarks/store.py``; with ``netns``, a
    name below /run/netns, in that network."""

    def __init__(self, *arguments: str, netns: str = "") -> None:
        self._arguments = arguments
        self._prefix = ("nsenter", f"--net=/run/netns/{netns}") if netns else ()
        self.process: asyncio.subprocess.Process | None = None

    async def start(self, *more: str) -> None:
        """Returns once it says that it runs."""
        script = str(Path(__file__).resolve().parents[1] / "store.py")
        self.process = await asyncio.create_subprocess_exec(
            *self._prefix,
            sys.executable,
            script,
            *self._arguments,
            *more,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        await self._answer()

    async def _answer(self) -> dict[str, Any]:
        assert self.process is not None
        assert self.process.stdout is not None
        line = await asyncio.wait_for(self.process.stdout.readline(), ANSWER_LIMIT_S)
        if not line:
            raise SystemExit(f"the process {' '.join(self._arguments)} ended")
        answer: dict[str, Any] = json.loads(line)
        return answer

    async def ask(self, what: str, **details: Any) -> dict[str, Any]:
        """One question, one answer."""
        assert self.process is not None
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"what": what, **details}).encode() + b"\n")
        return await self._answer()

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self.process is not None
        return self.process.pid

    async def kill(self) -> None:
        """As a power cut would end it; nothing happens to one that has ended."""
        if self.process is not None and self.process.returncode is None:
            self.process.send_signal(signal.SIGKILL)
            await self.process.wait()


async def in_turn(
    ways: dict[str, tuple[Child, dict[str, Any]]], repeat: int, outstanding: int, seconds: float, what: str
) -> dict[str, list[dict[str, Any]]]:
    """Put the same load on each way after the other, ``repeat`` times, so that noise meets all of them alike.

    A first round warms up connections and caches, and is not counted.
    """
    rounds: dict[str, list[dict[str, Any]]] = {way: [] for way in ways}
    for number in range(repeat + 1):
        for way, (whom, details) in ways.items():
            figures = await whom.ask("load", outstanding=outstanding, seconds=seconds, **details)
            if number:
                rounds[way].append(figures)
                log(f"{what}, {way}: {figures}")
    return rounds
