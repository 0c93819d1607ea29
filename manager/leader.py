"""What only the leader runs: started in one order when leadership is gained, stopped in reverse on losing it."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol

from pyswarm.common.errors import PyswarmError
from pyswarm.common.log import get_logger
from pyswarm.common.tasks import TaskGroupOwner

log = get_logger("leader")

RESTART_DELAY_S = 1.0


class Component(Protocol):
    """One loop of the leader. ``run`` reconciles everything first, then follows the store until cancelled."""

    async def run(self) -> None:
        """Work until cancelled."""
        ...


class LeaderComponents:
    """``prepare`` runs before the components, once per leadership: what they all rely on."""

    def __init__(
        self,
        components: Sequence[tuple[str, Component]],
        prepare: Callable[[], Coroutine[Any, Any, None]],
    ) -> None:
        self._components = components
        self._prepare = prepare
        self._owner: TaskGroupOwner | None = None
        self._changing = asyncio.Lock()

    async def start(self, term: int) -> None:
        """Leadership was gained."""
        async with self._changing:
            if self._owner is not None:
                return
            self._owner = TaskGroupOwner("leader")
            self._owner.spawn(self._run_all(self._owner), "start")
            log.info("became leader", term=term)

    async def stop(self) -> None:
        """Leadership was lost, or the manager stops."""
        async with self._changing:
            if self._owner is None:
                return
            owner, self._owner = self._owner, None
            await owner.stop()
            log.info("no longer leader")

    async def _run_all(self, owner: TaskGroupOwner) -> None:
        while True:
            try:
                await self._prepare()
                break
            except PyswarmError as exc:
                log.warning("leadership not taken up yet", reason=str(exc))
                await asyncio.sleep(RESTART_DELAY_S)
        for name, component in self._components:
            owner.spawn(self._keep_running(name, component), name)

    async def _keep_running(self, name: str, component: Component) -> None:
        """A component that fails starts over from a full reconcile; the others go on meanwhile."""
        while True:
            try:
                await component.run()
            except asyncio.CancelledError:
                raise
            except PyswarmError as exc:
                log.warning("component starts over", part=name, reason=str(exc))
            except Exception:
                log.exception("component failed; starting it over", part=name)
            await asyncio.sleep(RESTART_DELAY_S)
