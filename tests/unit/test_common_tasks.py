"""Parts that run together: the first to end ends the others, and being told to stop is never lost."""

import asyncio

import pytest

from pyswarm.common.tasks import until_first_ends


async def _forever(ended: list[str]) -> None:
    try:
        await asyncio.Event().wait()
    finally:
        ended.append("other")


async def _fails(now: asyncio.Event) -> None:
    await now.wait()
    raise ValueError("away")


async def test_the_first_failure_ends_the_others_and_is_raised() -> None:
    now, ended = asyncio.Event(), list[str]()
    now.set()
    with pytest.raises(ValueError, match="away"):
        await until_first_ends(_forever(ended), _fails(now))
    assert ended == ["other"]


async def test_a_part_that_returns_ends_the_others() -> None:
    ended: list[str] = []
    await until_first_ends(_forever(ended), asyncio.sleep(0))
    assert ended == ["other"]


async def test_a_cancellation_at_the_moment_of_a_failure_is_not_lost() -> None:
    now = asyncio.Event()
    rounds = 0

    async def loop() -> None:
        nonlocal rounds
        while True:
            rounds += 1
            try:
                await until_first_ends(_forever([]), _fails(now))
            except ValueError:
                await asyncio.sleep(0)

    task = asyncio.ensure_future(loop())
    await asyncio.sleep(0.01)
    now.set()
    await asyncio.sleep(0)
    task.cancel()
    async with asyncio.timeout(5):
        await asyncio.wait([task])
    assert task.cancelled()
