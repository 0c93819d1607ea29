"""One task's log, read from its container: what is there already, and then what comes.

The engine may be restarted and connections may break while a log is followed. The reader then goes on from the
last line that it gave, so that each line is given once.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from pyswarm.agent.engine import Engine, EngineUnavailable, LogQuery, NoSuchContainer
from pyswarm.agent.logs.news import EngineNews
from pyswarm.common.clock import Clock
from pyswarm.common.logframes import Cursor, Resumption, epoch_text, lines, time_text
from pyswarm.common.tasks import wait_at_most
from pyswarm.proto.v1 import logs_pb2 as pb

#: An engine that does not answer is asked again so often, also without any news of it.
AGAIN_S = 2.0
BROKEN_OFF_S = 0.2
#: To find the last line read, the engine reads so many from the end; from the beginning only when that is too few.
NEAR_END_LINES = 1000


class TaskLog:
    """``history`` once, then, when following, ``live``. Both raise EngineError when there is no reading on."""

    def __init__(
        self,
        task: pb.LogTask,
        options: pb.LogOptions,
        cursor: Cursor,
        *,
        engine: Engine,
        news: EngineNews,
        clock: Clock,
    ) -> None:
        self.task_id = task.task_id
        self.cursor = cursor
        self._container = task.container
        self._tty = task.tty
        self._whole = task.whole
        self._ended = task.ended
        self._options = options
        self._engine = engine
        self._news = news
        self._clock = clock

    def end(self) -> None:
        """No container of the task will be started any more."""
        self._ended = True
        self._news.about(self.task_id)

    async def history(self) -> AsyncGenerator[bytes, None]:
        """The lines that are there already, from the cursor on if there is one. A container that is gone, or not
        there yet, has none."""
        opened = time_text(self._clock.now())
        try:
            async with aclosing(self._present()) as present:
                async for frames in present:
                    yield frames
        except NoSuchContainer:
            pass
        except EngineUnavailable:
            if self._options.follow:
                return  # the same is tried again when it is back
            raise
        self.cursor.settle(opened)

    async def _present(self) -> AsyncGenerator[bytes, None]:
        tail, hidden = self._options.tail, False
        if self.cursor or self._whole:
            tail = -1
        elif tail == 0:
            # The last line is not wanted, but following goes on behind it.
            tail, hidden = 1, True
            if not self._options.follow:
                return
        async with aclosing(self._read(follow=False, tail=tail)) as present:
            async for frames in present:
                if not hidden:
                    yield frames

    async def live(self) -> AsyncGenerator[bytes, None]:
        """What follows, until the container has ended and its last line was given."""
        broke_off = False
        with self._news.listening(self.task_id) as news:
            while True:
                news.clear()
                try:
                    if not self.cursor:
                        async with aclosing(self.history()) as history:
                            async for frames in history:
                                yield frames
                    if not self.cursor:
                        raise EngineUnavailable("the engine does not answer yet")
                    found = await self._engine.inspect(self._container)
                    if found.running:
                        if broke_off:
                            # The engine ended, or is about to.
                            await wait_at_most(news, self._clock, BROKEN_OFF_S)
                        async with aclosing(self._following()) as following:
                            async for frames in following:
                                yield frames
                        broke_off = True
                        continue
                    if found.started:
                        async with aclosing(self._read(follow=False, tail=-1)) as rest:
                            async for frames in rest:
                                yield frames
                        return
                except NoSuchContainer:
                    pass
                except EngineUnavailable:
                    await wait_at_most(news, self._clock, AGAIN_S)
                    continue
                if self._ended:
                    return
                await news.wait()

    async def _following(self) -> AsyncGenerator[bytes, None]:
        """From the cursor on until the engine has no more: the container has ended, or the engine has."""
        if max(self.cursor.stdout.lines, self.cursor.stderr.lines):
            try:
                async with aclosing(self._read(follow=True, tail=NEAR_END_LINES)) as following:
                    async for frames in following:
                        yield frames
                return
            except _TooFarBack:
                pass
        async with aclosing(self._read(follow=True, tail=-1)) as following:
            async for frames in following:
                yield frames

    async def _read(self, *, follow: bool, tail: int) -> AsyncGenerator[bytes, None]:
        """What was not given yet, of what the engine gives. Raises _TooFarBack, before it gives anything, when the
        last line read is not among the ``tail`` last ones."""
        options, since, bound = self._options, self._options.since, b""
        if self.cursor:
            self.cursor.settle(self.cursor.latest)
            since, bound = epoch_text(self.cursor.earliest), self.cursor.latest if tail >= 0 else b""
        query = LogQuery(
            stdout=options.stdout,
            stderr=options.stderr,
            follow=follow,
            since=since,
            until=options.until,
            tail=tail,
            details=options.details,
            tty=self._tty,
        )
        resumption = Resumption(self.cursor)
        async with aclosing(self._engine.logs(self._container, query)) as log:
            async for frames in log:
                if bound and next(lines(frames)).time > bound:
                    raise _TooFarBack
                bound = b""
                if fresh := resumption.take(frames):
                    yield fresh


class _TooFarBack(Exception):
    """The place to go on from must be looked for from the beginning."""
