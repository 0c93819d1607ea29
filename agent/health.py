"""Whether the engine answers, and what changed while it did not."""

import asyncio
from collections.abc import Awaitable, Callable

import msgspec

from pyswarm.agent.engine import Engine, EngineError, EngineEvent, EngineUnavailable
from pyswarm.agent.metrics import AgentMetrics
from pyswarm.common.clock import Clock
from pyswarm.common.log import get_logger
from pyswarm.common.types import NodeDescription

log = get_logger("agent")

RETRY_FIRST_S = 0.1
RETRY_MAX_S = 2.0
#: Events are asked for from a little before the look at all containers, so that none falls between.
_OVERLAP_S = 1.0


class EngineHealth:
    """Follows the engine's events; when they break off, the engine is absent until it answers again.

    ``on_up`` is awaited each time the engine is (again) there: everything may have changed meanwhile.
    """

    def __init__(
        self,
        engine: Engine,
        clock: Clock,
        metrics: AgentMetrics,
        *,
        description: NodeDescription,
        on_up: Callable[[], Awaitable[None]],
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
            try:
                since_s = self._clock.now() - _OVERLAP_S
                description = await self._engine.describe()
                if not self.up:
                    log.info("engine is ready", version=description.engine.engine_version)
                self._up = True
                self._metrics.engine_up.set(1)
                self._tell(description)
                await self._on_up()
                async for event in self._engine.events(since_s):
                    retry_s = RETRY_FIRST_S
                    self._on_event(event)
                raise EngineUnavailable("the engine's events ended")
            except EngineError as exc:
                self._absent(str(exc))
            except Exception as exc:
                log.exception("cannot follow the engine")
                self._absent(f"internal error of the agent: {exc!r}")
            await self._clock.sleep(retry_s)
            retry_s = min(retry_s * 2, RETRY_MAX_S)

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
