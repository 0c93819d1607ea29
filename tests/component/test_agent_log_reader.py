"""One task's log as the agent reads it: every line once, whatever happens to the engine meanwhile."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest
from support.agents import a_task, until
from support.fake_engine import FakeEngine
from support.virtual_clock import VirtualClock

from pyswarm.agent.engine import LogsUnreadable
from pyswarm.agent.logs.news import EngineNews
from pyswarm.agent.logs.reader import NEAR_END_LINES, TaskLog
from pyswarm.common.ids import new_id
from pyswarm.common.logframes import STDERR, Cursor, lines
from pyswarm.common.types import Task
from pyswarm.proto.logs import cursor_of, position_of
from pyswarm.proto.v1 import logs_pb2 as pb

NODE = new_id()


class Rig:
    """A container of a task, and what reads its log."""

    def __init__(self) -> None:
        self.engine = FakeEngine()
        self.news = EngineNews()
        # February of the year in whose first seconds the containers say what they say.
        self.clock = VirtualClock(1_770_000_000)
        self.task: Task = a_task(NODE)
        self.name = self.task.container_name
        self.given: list[str] = []

    async def start(self) -> None:
        await self.engine.create(self.task, [], egress=False)
        await self.engine.start(self.name)
        self.news.about(self.task.id)

    def say(self, *texts: str) -> None:
        for text in texts:
            self.engine.say(self.name, text)

    def log(
        self, cursor: Cursor | None = None, *, ended: bool = False, whole: bool = False, **options: object
    ) -> TaskLog:
        task = pb.LogTask(task_id=self.task.id, container=self.name, ended=ended, whole=whole)
        wanted = {"stdout": True, "stderr": True, "tail": -1, "follow": True, **options}
        return TaskLog(
            task,
            pb.LogOptions(**wanted),  # type: ignore[arg-type]
            cursor or Cursor(),
            engine=self.engine,
            news=self.news,
            clock=self.clock,
        )

    async def read(self, frames: AsyncGenerator[bytes, None]) -> list[str]:
        """All of it, also kept in ``given`` as it comes."""
        found = []
        async with aclosing(frames):
            async for part in frames:
                texts = [line.text.decode().strip() for line in lines(part)]
                found += texts
                self.given += texts
        return found


@pytest.fixture
async def rig() -> Rig:
    return Rig()


def numbers(first: int, last: int) -> list[str]:
    return [str(n) for n in range(first, last + 1)]


async def test_history_then_what_follows_until_the_container_ends(rig: Rig) -> None:
    await rig.start()
    rig.say(*numbers(1, 3))
    log = rig.log()
    assert await rig.read(log.history()) == numbers(1, 3)
    rig.say("4")
    following = asyncio.ensure_future(rig.read(log.live()))
    await until(lambda: "4" in rig.given, "what was said meanwhile")
    rig.say("5")
    rig.engine.exit(rig.name)
    assert await following == ["4", "5"]


@pytest.mark.parametrize("tail", [0, 1, 2])
async def test_tail_is_of_what_is_there_at_the_beginning(rig: Rig, tail: int) -> None:
    await rig.start()
    rig.say(*numbers(1, 3))
    log = rig.log(tail=tail)
    assert await rig.read(log.history()) == numbers(4 - tail, 3)
    rig.say(*numbers(4, 6))
    rig.engine.exit(rig.name)
    assert await rig.read(log.live()) == numbers(4, 6)
    assert await rig.read(rig.log(tail=tail, whole=True).history()) == numbers(1, 6)


async def test_an_engine_that_restarts_repeats_and_loses_nothing(rig: Rig) -> None:
    await rig.start()
    rig.say(*numbers(1, 3))
    log = rig.log()
    await rig.read(log.history())
    following = asyncio.ensure_future(rig.read(log.live()))
    await until(lambda: rig.engine.count("logs") >= 2, "it follows")
    for number in (4, 8):
        rig.engine.go_down()
        # Lines of one and the same time, and lines said while the engine was away.
        for text in numbers(number, number + 1):
            rig.engine.say(rig.name, text, tick=number)
        await rig.clock.settle()
        rig.engine.come_back()
        rig.news.anything()
        await until(lambda number=number: str(number + 1) in rig.given, "it goes on")  # type: ignore[misc]
        for text in numbers(number + 2, number + 3):
            rig.engine.say(rig.name, text, tick=number)
        await until(lambda number=number: str(number + 3) in rig.given, "it follows")  # type: ignore[misc]
    rig.engine.exit(rig.name)
    await following
    assert rig.given == numbers(1, 11)


async def test_an_engine_that_comes_back_unheard_is_asked_now_and_then(rig: Rig) -> None:
    await rig.start()
    rig.engine.go_down()
    log = rig.log(tail=1)
    assert await rig.read(log.history()) == []
    following = asyncio.ensure_future(rig.read(log.live()))
    await rig.clock.settle()
    rig.say("1", "2")
    rig.engine.come_back()
    await rig.clock.advance(3)
    await until(lambda: rig.given == ["2"], "the tail is read once the engine is there")
    rig.engine.exit(rig.name)
    await following


async def test_a_reader_that_is_made_anew_goes_on_where_the_other_was(rig: Rig) -> None:
    await rig.start()
    rig.say(*numbers(1, 3))
    rig.engine.say(rig.name, "e1", STDERR)
    log = rig.log()
    await rig.read(log.history())
    carried = cursor_of(position_of("", log.cursor))
    rig.say(*numbers(4, 5))
    rig.engine.say(rig.name, "e2", STDERR)
    assert await rig.read(rig.log(carried, tail=0).history()) == ["4", "5", "e2"]


async def test_one_stream_that_said_nothing_does_not_bring_back_what_tail_left_out(rig: Rig) -> None:
    await rig.start()
    rig.engine.say(rig.name, "old", STDERR)
    rig.say(*numbers(1, 3))
    log = rig.log(tail=2)
    assert await rig.read(log.history()) == ["2", "3"]
    rig.say("4")
    assert await rig.read(rig.log(log.cursor.copy()).history()) == ["4"]


async def test_the_place_to_go_on_is_looked_for_near_the_end_first(rig: Rig) -> None:
    await rig.start()
    rig.say("1")
    log = rig.log()
    await rig.read(log.history())
    rig.say(*numbers(2, NEAR_END_LINES + 2))
    following = asyncio.ensure_future(rig.read(log.live()))
    await until(lambda: len(rig.given) == NEAR_END_LINES + 2, "all of them")
    assert rig.given == numbers(1, NEAR_END_LINES + 2)
    asked = [call for call in rig.engine.calls if "follow=True" in call]
    assert [call.split()[2] for call in asked] == [f"tail={NEAR_END_LINES}", "tail=-1"]
    rig.engine.exit(rig.name)
    await following


async def test_a_container_that_is_not_there_yet_is_waited_for(rig: Rig) -> None:
    log = rig.log(tail=0)
    assert await rig.read(log.history()) == []
    following = asyncio.ensure_future(rig.read(log.live()))
    await rig.clock.settle()
    await rig.engine.create(rig.task, [], egress=False)
    rig.news.about(rig.task.id)
    await rig.clock.settle()
    assert not following.done()
    await rig.engine.start(rig.name)
    rig.engine.say(rig.name, "1", tick=10**10)
    rig.news.about(rig.task.id)
    await until(lambda: rig.given == ["1"], "its first line")
    rig.engine.exit(rig.name)
    await following


async def test_a_container_that_will_never_be_there_is_not(rig: Rig) -> None:
    log = rig.log()
    following = asyncio.ensure_future(rig.read(log.live()))
    await rig.clock.settle()
    assert not following.done()
    log.end()
    assert await following == []
    gone = rig.log(ended=True)
    assert await rig.read(gone.history()) == []
    assert await rig.read(gone.live()) == []


async def test_a_log_that_cannot_be_read_says_so(rig: Rig) -> None:
    await rig.start()
    rig.engine.unreadable.add(rig.name)
    with pytest.raises(LogsUnreadable):
        await rig.read(rig.log().history())
