"""One subscription's part on this node: the logs of its tasks here, in one stream to the leader.

What is there already goes out in the order of its times, then lines go out as they come. The leader takes a
message only when it has room; until then this node reads no further, and neither does the engine.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing
from typing import Any

from pyswarm.agent.engine import Engine
from pyswarm.agent.logs.news import EngineNews
from pyswarm.agent.logs.reader import TaskLog
from pyswarm.common.clock import Clock
from pyswarm.common.errors import PyswarmError
from pyswarm.common.logframes import Cursor, lines
from pyswarm.common.logmerge import Chunk, Merge, joined
from pyswarm.common.tasks import TaskGroupOwner
from pyswarm.proto.logs import cursor_of, position_of
from pyswarm.proto.v1 import logs_pb2 as pb

#: A message is sent with as much as there is, up to this, beside the last chunk.
MESSAGE_BYTES = 128 * 1024
#: Chunks of all tasks that wait for the leader; each is what the engine gave at once.
MAX_WAITING = 16


class Subscription:
    """``run`` it with the stream to write to; orders may add to it meanwhile."""

    def __init__(self, order: pb.LogOrder, *, engine: Engine, news: EngineNews, clock: Clock) -> None:
        self._options = order.options
        self._engine = engine
        self._news = news
        self._clock = clock
        self._logs: dict[str, TaskLog] = {}
        self._sent: dict[str, Cursor] = {}
        self._ends: list[pb.LogEnd] = []
        self._failed: set[str] = set()
        self._pumps: TaskGroupOwner | None = None
        self._waiting: asyncio.Queue[Chunk | pb.LogEnd] = asyncio.Queue(MAX_WAITING)
        self.order(order.tasks)

    def order(self, tasks: Any) -> None:
        """Read these too; of those that are read already, what is new is whether they can still start."""
        for task in tasks:
            log = self._logs.get(task.task_id)
            if log is None:
                log = self._begin(task)
            if task.ended:
                log.end()

    def _begin(self, task: pb.LogTask) -> TaskLog:
        cursor = cursor_of(task.position)
        log = self._logs[task.task_id] = TaskLog(
            task, self._options, cursor, engine=self._engine, news=self._news, clock=self._clock
        )
        self._sent[task.task_id] = cursor.copy()
        if self._pumps is not None:
            self._pumps.spawn(self._pump(log), "pump")
        return log

    async def run(self, stream: Any) -> None:
        """Write everything to ``stream``. Returns at the end of what is there, or, when following, never."""
        await self._history(stream)
        for log in self._logs.values():
            self._sent[log.task_id] = log.cursor.copy()
        await self._send(stream, [], caught_up=True)
        if not self._options.follow:
            return
        self._pumps = TaskGroupOwner("log-pumps")
        try:
            for task_id in self._logs.keys() - self._failed:
                self._pumps.spawn(self._pump(self._logs[task_id]), "pump")
            while True:
                await self._send_waiting(stream)
        finally:
            await self._pumps.stop()

    # --- what is there already ---

    async def _history(self, stream: Any) -> None:
        merge = Merge(self._logs)
        async with AsyncExitStack() as stack:
            logs = {
                task_id: await stack.enter_async_context(aclosing(log.history()))
                for task_id, log in self._logs.items()
            }
            while not merge.done:
                owing = sorted(merge.owing)
                for task_id, frames in zip(
                    owing, await asyncio.gather(*(self._next(i, logs[i]) for i in owing)), strict=True
                ):
                    if frames:
                        merge.put(task_id, Chunk(task_id, frames))
                    else:
                        merge.end(task_id)
                await self._send(stream, merge.take())

    async def _next(self, task_id: str, log: AsyncGenerator[bytes, None]) -> bytes:
        """The log's next frames; nothing at its end, which is told when it came too early."""
        try:
            return await anext(log, b"")
        except PyswarmError as exc:
            self._ends.append(pb.LogEnd(task_id=task_id, failure=str(exc)))
            self._failed.add(task_id)
            return b""

    # --- what comes ---

    async def _pump(self, log: TaskLog) -> None:
        end = pb.LogEnd(task_id=log.task_id)
        try:
            async with aclosing(log.live()) as live:
                async for frames in live:
                    await self._waiting.put(Chunk(log.task_id, frames))
        except PyswarmError as exc:
            end.failure = str(exc)
        await self._waiting.put(end)

    async def _send_waiting(self, stream: Any) -> None:
        chunks: list[Chunk] = []
        size = 0
        item: Chunk | pb.LogEnd | None = await self._waiting.get()
        while item is not None:
            if isinstance(item, Chunk):
                chunks.append(item)
                size += len(item.frames)
            else:
                self._ends.append(item)
            more = size < MESSAGE_BYTES and not self._waiting.empty()
            item = self._waiting.get_nowait() if more else None
        await self._send(stream, joined(chunks))

    # --- sending ---

    async def _send(self, stream: Any, chunks: list[Chunk], *, caught_up: bool = False) -> None:
        while True:
            part: list[Chunk] = []
            size = 0
            while chunks and (not part or size + len(chunks[0].frames) <= MESSAGE_BYTES):
                part.append(chunks.pop(0))
                size += len(part[-1].frames)
            message = self._message(part, caught_up=caught_up and not chunks)
            if message is not None:
                await stream.write(message)
            if not chunks:
                return

    def _message(self, chunks: list[Chunk], *, caught_up: bool) -> pb.PublishLogsMessage | None:
        if not (chunks or self._ends or caught_up):
            return None
        for chunk in chunks:
            sent = self._sent[chunk.task_id]
            for line in lines(chunk.frames):
                sent.read(line.stream, line.time)
        moved = self._sent if caught_up else {chunk.task_id for chunk in chunks}
        ends, self._ends = self._ends, []
        return pb.PublishLogsMessage(
            chunks=[pb.LogChunk(task_id=chunk.task_id, frames=chunk.frames) for chunk in chunks],
            positions=[position_of(task_id, self._sent[task_id]) for task_id in moved],
            caught_up=caught_up,
            ends=ends,
        )
