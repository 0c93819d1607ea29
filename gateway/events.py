"""The cluster's events and the engine's in one stream.

Either side may be away for a while: the other goes on, and what was missed comes when it is back, as far as it is
remembered there.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any
from urllib.parse import urlencode

import msgspec

from pyswarm.common.clock import Clock
from pyswarm.common.errors import NotAManager, PyswarmError
from pyswarm.common.log import get_logger
from pyswarm.common.tasks import TaskGroupOwner
from pyswarm.common.types import ClusterEvent
from pyswarm.gateway.engine import Engine
from pyswarm.gateway.eventfilter import EventFilter
from pyswarm.gateway.ports import Control

log = get_logger("gateway")

RETRY_S = 1.0
#: A client does not wait longer for a manager, or for what the engine remembers.
OPEN_PATIENCE_S = 1.0
HISTORY_PATIENCE_S = 3.0
MAX_WAITING = 256


class _EngineEvent(msgspec.Struct):
    """What is looked at of an event that is passed on as it is."""

    time_ns: int = msgspec.field(name="timeNano", default=0)
    actor: dict[str, Any] = msgspec.field(name="Actor", default={})


def shown(event: ClusterEvent) -> bytes:
    """A line of Docker's."""
    body = {
        "Type": event.type,
        "Action": event.action,
        "Actor": {"ID": event.id, "Attributes": event.attributes},
        "scope": "swarm",
        "time": event.time_ns // 10**9,
        "timeNano": event.time_ns,
    }
    return json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"


class EventStream:
    """What one client asked for. ``control`` gives a client of the local manager; times are in ns since 1970."""

    def __init__(
        self,
        wanted: EventFilter,
        *,
        control: Callable[[], Awaitable[Control]],
        engine: Engine,
        engine_url: str,
        clock: Clock,
    ) -> None:
        self._wanted = wanted
        self._control = control
        self._engine = engine
        self._engine_url = engine_url
        self._clock = clock
        self._opened: AsyncGenerator[list[ClusterEvent], None] | None = None
        self._remembered: list[ClusterEvent] = []

    async def open(self, since_ns: int) -> None:
        """Begin to watch the cluster, so that nothing that happens from now on is missed; what it remembers since
        then, if that is not 0, is for ``past``. A manager that is away is asked again by ``live``."""
        try:
            async with asyncio.timeout(OPEN_PATIENCE_S):
                self._opened = (await self._control()).watch_events(since_ns)
                self._remembered = await anext(self._opened)
        except (PyswarmError, TimeoutError) as exc:
            log.warning("the cluster's events are not to be had yet", reason=str(exc))
            await self.close()

    async def close(self) -> None:
        """Watch no more."""
        if self._opened is not None:
            opened, self._opened = self._opened, None
            await opened.aclose()

    # --- what was ---

    async def past(self, since_ns: int, until_ns: int, now_ns: int) -> list[bytes]:
        """What both sides remember of that time (``until_ns`` 0: up to now), in its order."""
        found = [
            (event.time_ns, shown(event))
            for event in self._remembered
            if (not until_ns or event.time_ns <= until_ns) and self._wanted.passes(event)
        ]
        found += await self._engine_past(since_ns, min(until_ns or now_ns, now_ns))
        return [line for _, line in sorted(found, key=lambda item: item[0])]

    async def _engine_past(self, since_ns: int, until_ns: int) -> list[tuple[int, bytes]]:
        found: list[tuple[int, bytes]] = []
        if not self._wanted.wants_engine:
            return found
        try:
            async with asyncio.timeout(HISTORY_PATIENCE_S):
                async with aclosing(self._of_engine(since=_seconds(since_ns), until=_seconds(until_ns))) as lines:
                    async for event, line in lines:
                        found.append((event.time_ns, line))
        except (PyswarmError, TimeoutError) as exc:
            log.warning("the engine's events of earlier are not to be had", reason=str(exc))
        return found

    # --- what comes ---

    async def live(self, since_ns: int) -> AsyncGenerator[bytes, None]:
        """What happens after ``since_ns``, until nobody listens any more."""
        waiting: asyncio.Queue[bytes] = asyncio.Queue(MAX_WAITING)
        owner = TaskGroupOwner("events")
        told_ns = max([since_ns, *(event.time_ns for event in self._remembered)])
        owner.spawn(self._keep(self._cluster_live, waiting, told_ns), "cluster")
        if self._wanted.wants_engine:
            owner.spawn(self._keep(self._engine_live, waiting, since_ns), "engine")
        try:
            while True:
                lines = [await waiting.get()]
                while not waiting.empty():
                    lines.append(waiting.get_nowait())
                yield b"".join(lines)
        finally:
            await owner.stop()

    async def _keep(
        self,
        side: Callable[[int], AsyncGenerator[tuple[int, bytes], None]],
        waiting: asyncio.Queue[bytes],
        last: int,
    ) -> None:
        """Pass on what one side says, and ask again, from the last event on, when that breaks off."""
        reason = ""
        while True:
            try:
                async with aclosing(side(last)) as events:
                    async for time_ns, line in events:
                        await waiting.put(line)
                        last, reason = max(last, time_ns), ""
                new_reason = "the stream ended"
            except NotAManager:
                return
            except PyswarmError as exc:
                new_reason = str(exc)
            if not reason:
                log.info("events are asked for again", reason=new_reason)
            reason = new_reason
            await self._clock.sleep(RETRY_S)

    async def _cluster_live(self, last_ns: int) -> AsyncGenerator[tuple[int, bytes], None]:
        opened, self._opened = self._opened, None
        async with aclosing(opened or (await self._control()).watch_events(last_ns + 1)) as batches:
            async for events in batches:
                for event in events:
                    if self._wanted.passes(event):
                        yield event.time_ns, shown(event)

    async def _engine_live(self, last_ns: int) -> AsyncGenerator[tuple[int, bytes], None]:
        async with aclosing(self._of_engine(since=_seconds(last_ns + 1))) as lines:
            async for event, line in lines:
                yield event.time_ns, line

    async def _of_engine(self, **query: str) -> AsyncGenerator[tuple[_EngineEvent, bytes], None]:
        filters = self._wanted.for_engine
        asked = urlencode({**query, **({"filters": json.dumps(filters)} if filters else {})})
        async with aclosing(self._engine.lines(self._engine_url, f"/events?{asked}")) as lines:
            async for line in lines:
                event = msgspec.json.decode(line, type=_EngineEvent)
                if self._wanted.passes_name((event.actor.get("Attributes") or {}).get("name", "")):
                    yield event, line


def _seconds(time_ns: int) -> str:
    return f"{time_ns // 10**9}.{time_ns % 10**9:09d}"
