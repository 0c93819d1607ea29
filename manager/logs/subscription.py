"""Somebody reads the logs of a service or of one task: what of it comes when.

What is there at the beginning goes out in the order of its times, over all nodes; a node that takes too long is
not waited for. What comes afterwards goes out as it comes. Nodes that could not be asked are named at the end.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable

from pyswarm.common.clock import Clock
from pyswarm.common.errors import InvalidArgument, PyswarmError
from pyswarm.common.ids import new_id
from pyswarm.common.log import get_logger
from pyswarm.common.logmerge import Chunk, Merge
from pyswarm.common.tasks import wait_at_most
from pyswarm.manager.logs.nodefeed import CaughtUp, NodeFeed, State
from pyswarm.manager.logs.target import LogTarget
from pyswarm.manager.state import View
from pyswarm.proto.v1 import logs_pb2 as pb

log = get_logger("logs")

#: A node that does not open its stream in this time is not there.
OPEN_PATIENCE_S = 5.0
#: Others are not held up for longer than this by a node from which nothing comes.
ORDER_PATIENCE_S = 3.0
MESSAGE_BYTES = 256 * 1024


class LogSubscription:
    """One reader. ``view`` shows the present store; ``notify`` is called with the id of a node that has an order.

    Raises NotFound when the store has no such service or task.
    """

    def __init__(
        self, request: pb.ReadLogsRequest, view: Callable[[], View], *, clock: Clock, notify: Callable[[str], None]
    ) -> None:
        self.id = new_id()
        self._view = view
        self._clock = clock
        self._bell = asyncio.Event()
        self._began_ns = request.began_ns or round(clock.now() * 1e9)
        self._error: PyswarmError | None = None
        self.target = LogTarget(request, view(), began_ns=self._began_ns, changed=self._bell.set, notify=notify)
        self._merge: Merge | None = Merge(self.target.feeds)
        self._owed_since_s: dict[str, float] = {}

    def sync(self) -> None:
        """The store has changed."""
        self.target.sync(self._view())
        self._bell.set()

    def end(self, error: PyswarmError | None = None) -> None:
        """Nobody reads any more, or, with an error, the reader has to be told it."""
        self._error = error
        for feed in self.target.feeds.values():
            feed.close()
        self._bell.set()

    async def messages(self) -> AsyncGenerator[pb.ReadLogsMessage, None]:
        """Everything, until there is nothing more to come. Raises what ended it otherwise."""
        yield pb.ReadLogsMessage(began_ns=self._began_ns)
        while True:
            self._bell.clear()
            message = self._next_message()
            if message is not None:
                yield message
            elif self._error is not None:
                raise self._error
            elif self._merge is None and self.target.is_exhausted:
                break
            else:
                await self._wait()
        if notice := self.target.notice(self._view()):
            yield pb.ReadLogsMessage(notice=notice)

    # --- patience ---

    async def _wait(self) -> None:
        deadlines = [since_s + ORDER_PATIENCE_S for since_s in self._owed_since_s.values()]
        deadlines += [
            feed.waiting_since_s + OPEN_PATIENCE_S for feed in self._unopened() if feed.waiting_since_s is not None
        ]
        if deadlines:
            await wait_at_most(self._bell, self._clock, max(min(deadlines) - self._clock.monotonic(), 0.0))
        else:
            await self._bell.wait()

    def _unopened(self) -> list[NodeFeed]:
        return [feed for feed in self.target.feeds.values() if feed.state in (State.WAITING, State.BROKEN)]

    def _lose_patience(self, now_s: float) -> None:
        for feed in self._unopened():
            if feed.waiting_since_s is None:
                feed.waiting_since_s = now_s
            elif now_s - feed.waiting_since_s >= OPEN_PATIENCE_S:
                feed.give_up()

    # --- what comes next ---

    def _next_message(self) -> pb.ReadLogsMessage | None:
        now_s = self._clock.monotonic()
        self._lose_patience(now_s)
        message = pb.ReadLogsMessage()
        if self._merge is not None:
            chunks = self._in_order(self._merge, message, now_s)
        else:
            chunks = self._as_it_comes(message)
        for chunk in chunks:
            message.chunks.add(
                task_id=chunk.task_id,
                frames=chunk.frames,
                node_id=self.target.node_of(chunk.task_id),
                service_id=self.target.service_of(chunk.task_id),
            )
        if self._merge is None:
            message.gone.extend(self.target.forget_gone())
        return message if message.chunks or message.positions or message.gone else None

    def _in_order(self, merge: Merge, message: pb.ReadLogsMessage, now_s: float) -> list[Chunk]:
        """The next lines by time, if every node that is waited for has shown its next one."""
        for node_id in merge.owing:
            self._advance(merge, self.target.feeds[node_id], message)
        self._owed_since_s = {node_id: self._owed_since_s.get(node_id, now_s) for node_id in merge.owing}
        for node_id, since_s in self._owed_since_s.items():
            if now_s - since_s >= ORDER_PATIENCE_S:
                merge.end(node_id)
        chunks = merge.take()
        if merge.done:
            self._merge, self._owed_since_s = None, {}
            self._bell.set()
        return chunks

    def _advance(self, merge: Merge, feed: NodeFeed, message: pb.ReadLogsMessage) -> None:
        """Give the merge the node's next chunk, or say that there is none."""
        while feed.node_id in merge.owing:
            item = feed.take()
            if isinstance(item, Chunk):
                try:
                    merge.put(feed.node_id, item)
                except InvalidArgument as exc:
                    log.warning("a node's logs cannot be read", node=feed.node_id, reason=str(exc))
                    feed.give_up()
            elif isinstance(item, CaughtUp):
                message.positions.extend(feed.lineless())
                merge.end(feed.node_id)
            elif feed.is_exhausted:
                merge.end(feed.node_id)
            else:
                break

    def _as_it_comes(self, message: pb.ReadLogsMessage) -> list[Chunk]:
        chunks: list[Chunk] = []
        size = 0
        feeds = list(self.target.feeds.values())
        while feeds and size < MESSAGE_BYTES:
            for feed in feeds:
                item = feed.take()
                if isinstance(item, Chunk):
                    chunks.append(item)
                    size += len(item.frames)
                elif isinstance(item, CaughtUp):
                    message.positions.extend(feed.lineless())
            feeds = [feed for feed in feeds if feed.has_news]
        return chunks
