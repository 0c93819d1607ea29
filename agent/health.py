"""Whether the engine answers, and what changed while it did not."""

import asyncio
from collections.abc import Awaitable, Callable

import msgspec

from pyswarm.agent.engine import Engine, EngineError, EngineEvent, EngineUnavailable
from pyswarm.agent.metrics import AgentMetrics
from pyswarm.common.clock import Clock
from pyswarm.common.log import get_logger
from pyswarm.common.tasks import until_first_ends
from pyswarm.common.types import NodeDescription

log = get_logger("agent")

RETRY_FIRST_S = 0.1
RETRY_MAX_S = 2.0
#: Also how long an engine that hangs, with its connections open, goes unnoticed, beside one call's limit.
AUDIT_S = 15.0
#: Events are asked for from a little before the look at all containers, so that none falls between.
_OVERLAP_S = 1.0


class EngineHealth:
    """Follows the engine's events; when they break off, the engine is absent until it answers again.

    ``on_up`` is awaited each time the engine is (again) there: everything may have changed meanwhile. ``audit`` is
    awaited now and then while it is, and raises when it is not.
    """

    def __init__(
        self,
        engine: Engine,
        clock: Clock,
        metrics: AgentMetrics,
        *,
        description: NodeDescription,
        on_up: Callable[[], Awaitable[None]],
        audit: Callable[[], Awaitable[None]],
        on_down: Callable[[], None],
        on_event: Callable[[EngineEvent], None],
        on_description: Callable[[], None],
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._metrics = metrics
        self._on_up = on_up
        self._on_event = on_event
        self._on_description = on_description
        self._audit = audit
        self._on_down = on_down
        self._up = False
        self._asked = asyncio.Event()
        self.description = description

    @property
    def up(self) -> bool:
        """Whether the engine answered last."""
        return self._up

    async def asked(self) -> None:
        """Wait until the engine was asked once, with or without an answer."""
        await self._asked.wait()

    async def run(self) -> None:
        """Until cancelled."""
        retry_s = RETRY_FIRST_S
        while True:
            began_s = self._clock.monotonic()
            try:
                since_s = self._clock.now() - _OVERLAP_S
                description = await self._engine.describe()
                if not self.up:
                    log.info("engine is ready", version=description.engine.engine_version)
                self._up = True
                self._metrics.engine_up.set(1)
                self._tell(description)
                await self._on_up()
                await self._follow(since_s)
            except EngineError as exc:
                self._absent(str(exc))
            except Exception as exc:
                log.exception("cannot follow the engine")
                self._absent(f"internal error of the agent: {exc!r}")
            if self._clock.monotonic() - began_s > RETRY_MAX_S:
                retry_s = RETRY_FIRST_S
            await self._clock.sleep(retry_s)
            retry_s = min(retry_s * 2, RETRY_MAX_S)

    async def _follow(self, since_s: float) -> None:
        """Pass on events, and look for oneself now and then; raises when the engine is found absent."""
        await until_first_ends(self._events(since_s), self._audits())

    async def _events(self, since_s: float) -> None:
        async for event in self._engine.events(since_s):
            self._on_event(event)
        raise EngineUnavailable("the engine's events ended")

    async def _audits(self) -> None:
        while True:
            await self._clock.sleep(AUDIT_S)
            await self._audit()

    def _absent(self, reason: str) -> None:
        if self._up:
            log.warning("engine is not usable", reason=reason)
        self._up = False
        self._metrics.engine_up.set(0)
        self._on_down()
        self._tell(msgspec.structs.replace(self.description, engine_error=reason))

    def _tell(self, description: NodeDescription) -> None:
        if description != self.description:
            self.description = description
            self._on_description()
        self._asked.set()
