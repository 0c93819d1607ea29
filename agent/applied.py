"""Up to where the leader's writes are in force on this host, for the leader to hear."""

import asyncio

Fence = tuple[int, int]


class AppliedMark:
    """The newest mark in force. Told when it was asked for, and to each new leader."""

    def __init__(self) -> None:
        self._fence: Fence | None = None
        self._news = asyncio.Event()

    def put(self, fence: Fence, *, asked: bool) -> None:
        """What was written up to ``fence`` is in force now; ``asked``: the leader waits to hear it."""
        self._fence = fence
        if asked:
            self._news.set()

    def again(self) -> None:
        """Tell it once more: whoever leads now has not heard it."""
        if self._fence is not None:
            self._news.set()

    async def next(self) -> Fence:
        """The newest mark, once it is to be told."""
        while True:
            await self._news.wait()
            self._news.clear()
            if self._fence is not None:
                return self._fence
