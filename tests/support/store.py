"""A store without Raft: proposals are applied at once, or as a test wishes."""

import asyncio

from pyswarm.common.clock import Clock
from pyswarm.manager.state import Store


class LocalProposer:
    """Applies each proposal with the next index. ``fail`` is raised instead while it is set; ``gate``, while it is
    set, holds proposals back until the test releases it."""

    def __init__(self, *stores: Store) -> None:
        self._stores = stores
        self.index = 0
        self.log: list[bytes] = []
        self.fail: Exception | None = None
        self.gate: asyncio.Event | None = None

    async def propose(self, command: bytes) -> bytes:
        """As ``RaftNode.propose``."""
        if self.gate is not None:
            await self.gate.wait()
        await asyncio.sleep(0)
        if self.fail is not None:
            raise self.fail
        self.index += 1
        self.log.append(command)
        results = [store.apply(self.index, command) for store in self._stores]
        return results[0]


def local_store(clock: Clock) -> tuple[Store, LocalProposer]:
    """A store whose proposals are applied in this process."""
    store = Store(clock)
    proposer = LocalProposer(store)
    store.bind(proposer.propose)
    return store, proposer
