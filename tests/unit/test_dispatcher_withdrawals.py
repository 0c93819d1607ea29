"""A task that is to stop is held until no host leads anybody to it."""

import asyncio

import msgspec
import pytest
from support.agents import a_network, a_task
from support.virtual_clock import VirtualClock

from pyswarm.agent.applied import AppliedMark
from pyswarm.common.types import Task, TaskState, TaskStatus, Version
from pyswarm.manager.dispatcher.withdrawals import LINGER_S, PATIENCE_S, TICK_S, Withdrawals

HOSTS = ["n1", "n2"]


class Bench:
    """Withdrawals of a cluster of two hosts; ``released`` are the tasks whose agents are to be told."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.withdrawals = Withdrawals(self.clock, linger_s=0.0)
        self.hosts = list(HOSTS)
        self.released: list[tuple[str, str]] = []
        self.withdrawals.begin(lambda: self.hosts, lambda node, task: self.released.append((node, task)))

    def seen(self, task: Task) -> TaskState:
        """What the task's agent is told it shall do."""
        return self.withdrawals.shown(task).desired_state


@pytest.fixture
def bench() -> Bench:
    return Bench()


def ending(index: int = 7, state: TaskState = TaskState.RUNNING, desired: TaskState = TaskState.SHUTDOWN) -> Task:
    task = a_task("n1", networks=[(a_network(), 5)], desired=desired)
    return msgspec.structs.replace(task, status=TaskStatus(state=state), version=Version(index=index))


def test_it_runs_on_until_every_host_has_said_that_it_leads_nobody_there(bench: Bench) -> None:
    task = ending()
    assert bench.seen(task) is TaskState.RUNNING
    bench.withdrawals.synced(7, (1, 7))
    bench.withdrawals.applied("n1", (1, 7))
    assert (bench.seen(task), bench.released) == (TaskState.RUNNING, [])
    bench.withdrawals.applied("n2", (1, 8))
    assert bench.released == [("n1", task.id)]
    assert bench.seen(task) is TaskState.SHUTDOWN


def test_a_state_written_before_the_task_was_to_stop_does_not_count(bench: Bench) -> None:
    task = ending(index=9)
    bench.seen(task)
    bench.withdrawals.synced(8, (1, 8))
    for host in HOSTS:
        bench.withdrawals.applied(host, (1, 8))
    assert bench.seen(task) is TaskState.RUNNING
    bench.withdrawals.synced(9, (1, 9))
    for host in HOSTS:
        bench.withdrawals.applied(host, (1, 9))
    assert bench.seen(task) is TaskState.SHUTDOWN


def test_what_was_written_already_when_it_is_asked_for_counts(bench: Bench) -> None:
    bench.withdrawals.synced(7, (1, 7))
    for host in HOSTS:
        bench.withdrawals.applied(host, (1, 7))
    assert bench.seen(ending(index=7)) is TaskState.SHUTDOWN


def test_a_later_mark_that_nobody_was_asked_about_is_not_waited_for(bench: Bench) -> None:
    bench.withdrawals.synced(7, (1, 7))
    for host in HOSTS:
        bench.withdrawals.applied(host, (1, 7))
    bench.withdrawals.synced(8, (1, 8))
    assert bench.seen(ending(index=7)) is TaskState.SHUTDOWN


async def test_a_host_that_never_answers_holds_it_for_a_while_only(bench: Bench) -> None:
    task = ending()
    bench.seen(task)
    bench.withdrawals.synced(7, (1, 7))
    bench.withdrawals.applied("n1", (1, 7))
    await bench.clock.advance(PATIENCE_S - 0.01)
    bench.withdrawals.look()
    assert bench.released == []
    await bench.clock.advance(0.02)
    bench.withdrawals.look()
    bench.withdrawals.look()
    assert bench.released == [("n1", task.id)], "told once"
    assert bench.seen(task) is TaskState.SHUTDOWN
    await bench.clock.advance(0.1)
    assert bench.seen(task) is TaskState.SHUTDOWN, "a second stream of assignments does not hold it again"


async def test_requests_on_their_way_get_a_moment_more() -> None:
    clock, released = VirtualClock(), list[str]()
    withdrawals = Withdrawals(clock)
    withdrawals.begin(lambda: ["n1"], lambda node, task: released.append(task))
    running = asyncio.ensure_future(withdrawals.run())
    task = ending()
    withdrawals.shown(task)
    withdrawals.synced(7, (1, 7))
    withdrawals.applied("n1", (1, 7))
    await clock.advance(LINGER_S - 0.01)
    assert released == []
    await clock.advance(2 * TICK_S)
    assert released == [task.id]
    assert withdrawals.shown(task) is task
    running.cancel()


def test_a_host_that_is_lost_is_not_waited_for(bench: Bench) -> None:
    task = ending()
    bench.seen(task)
    bench.withdrawals.synced(7, (1, 7))
    bench.withdrawals.applied("n1", (1, 7))
    bench.hosts.remove("n2")
    bench.withdrawals.look()
    assert bench.released == [("n1", task.id)]


@pytest.mark.parametrize(
    "task",
    [
        ending(desired=TaskState.RUNNING),
        ending(state=TaskState.STARTING),
        ending(state=TaskState.FAILED),
        msgspec.structs.replace(ending(), networks=()),
    ],
)
def test_who_is_found_by_nobody_is_not_held(bench: Bench, task: Task) -> None:
    assert bench.withdrawals.shown(task) is task


def test_a_new_leadership_knows_nothing(bench: Bench) -> None:
    bench.withdrawals.synced(7, (1, 7))
    for host in HOSTS:
        bench.withdrawals.applied(host, (1, 7))
    bench.withdrawals.begin(lambda: HOSTS, lambda node, task: None)
    assert bench.seen(ending(index=7)) is TaskState.RUNNING


async def test_a_mark_is_told_when_it_was_asked_for_and_to_each_new_leader() -> None:
    mark = AppliedMark()
    mark.again()
    mark.put((1, 4), asked=False)
    mark.put((1, 5), asked=True)
    mark.put((1, 6), asked=False)
    assert await mark.next() == (1, 6)
    mark.again()
    assert await mark.next() == (1, 6)
