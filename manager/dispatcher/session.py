"""One agent's session: what its streams wait for, and how they end."""

import asyncio

from pyswarm.common.clock import Clock
from pyswarm.common.errors import PyswarmError
from pyswarm.common.ids import new_id
from pyswarm.manager.dispatcher.assignments import AssignmentSet
from pyswarm.manager.dispatcher.batching import Batcher


class Feed:
    """An open assignments stream: what was sent on it, and the bell that something may have to be."""

    def __init__(self, node_id: str, clock: Clock) -> None:
        self.sent = AssignmentSet(node_id)
        self.batcher = Batcher(clock)
        self.sequence = 0
        self.closed = False

    def task_changed(self, task_id: str) -> None:
        """The task may have to be sent, or taken back."""
        self.sent.dirty_tasks.add(task_id)
        self.batcher.ring()

    def anything_changed(self) -> None:
        """Events were missed, or concern no single task: compare everything."""
        self.sent.dirty_all = True
        self.batcher.ring()


class Session:
    """From an agent's registration until it registers again, falls silent, or the manager stops leading."""

    def __init__(self, node_id: str) -> None:
        self.id = new_id()
        self.node_id = node_id
        #: Set when the session message may differ from the last one sent, and at the end.
        self.message_bell = asyncio.Event()
        self.feed: Feed | None = None
        self.ended = False
        self.error: PyswarmError | None = None

    def open_feed(self, clock: Clock) -> Feed:
        """Start a stream of assignments; an older one of this session ends."""
        self.close_feed(self.feed)
        self.feed = Feed(self.node_id, clock)
        return self.feed

    def close_feed(self, feed: Feed | None) -> None:
        """End a stream of this session; nothing is kept for an agent that does not listen."""
        if feed is not None:
            feed.closed = True
            feed.batcher.ring()
            if self.feed is feed:
                self.feed = None

    def end(self, error: PyswarmError | None) -> None:
        """End both streams, with ``error`` or, when the agent itself opened a newer session, without one."""
        self.ended = True
        self.error = error
        self.message_bell.set()
        self.close_feed(self.feed)
