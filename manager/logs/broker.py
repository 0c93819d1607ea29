"""The leader's meeting place of those who read logs and the nodes that have them.

Nothing of it is stored. When leadership ends, everything does: readers come again, to the next leader, and say how
far they had read.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator

from prometheus_client import CollectorRegistry, Counter, Gauge

from pyswarm.common.clock import Clock
from pyswarm.common.errors import InvalidArgument, PermissionDenied, PyswarmError, Unavailable
from pyswarm.common.log import get_logger
from pyswarm.manager.leadership import RaftLeadership, not_leader
from pyswarm.manager.logs.nodefeed import NodeFeed, State
from pyswarm.manager.logs.subscription import LogSubscription
from pyswarm.manager.state import Event, ResyncRequired, Store
from pyswarm.proto.errors import SessionInvalid
from pyswarm.proto.v1 import logs_pb2 as pb

log = get_logger("logs")

MAX_SUBSCRIPTIONS = 64
#: How soon a node whose stream broke, but who still listens, is told again.
TELL_AGAIN_S = 0.5
#: An agent says which subscription it is about as soon as it opens a stream.
FIRST_WORD_S = 10.0


class _Listener:
    """A node that listens to orders."""

    def __init__(self) -> None:
        self.bell = asyncio.Event()
        self.closed: set[str] = set()
        self.ended = False
        self.error: PyswarmError | None = None

    def end(self, error: PyswarmError | None) -> None:
        self.ended, self.error = True, error
        self.bell.set()


class LogBroker:
    """``run`` it while leading; without it, every call raises NotLeader."""

    def __init__(self, store: Store, raft: RaftLeadership, *, clock: Clock, registry: CollectorRegistry) -> None:
        self._store = store
        self._raft = raft
        self._clock = clock
        self._active = False
        self._subscriptions: dict[str, LogSubscription] = {}
        self._listeners: dict[str, _Listener] = {}
        self._readers_gauge = Gauge("pyswarm_log_readers", "Readers of logs", registry=registry)
        self._readers_gauge.set_function(lambda: len(self._subscriptions))
        self._bytes = Counter("pyswarm_log_bytes_total", "Bytes of logs taken from nodes", registry=registry)

    async def run(self) -> None:
        """Bring readers and nodes together until cancelled."""
        self._active = True
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._follow(), name="logs.follow")
                group.create_task(self._tell_again(), name="logs.tell-again")
        finally:
            self._active = False
            error = not_leader(self._raft)
            for subscription in self._subscriptions.values():
                subscription.end(error)
            self._subscriptions.clear()
            for listener in self._listeners.values():
                listener.end(error)
            self._listeners.clear()

    def _require_active(self) -> None:
        if not self._active:
            raise not_leader(self._raft)

    # --- following the store ---

    async def _follow(self) -> None:
        while True:
            watch = self._store.watch()
            try:
                for subscription in self._subscriptions.values():
                    subscription.sync()
                async for batch in watch:
                    self._route(batch + watch.drain())
            except ResyncRequired:
                log.warning("fell behind the store; comparing everything")
            finally:
                watch.close()

    def _route(self, events: tuple[Event, ...]) -> None:
        for subscription in self._subscriptions.values():
            if any(subscription.target.concerns(event.obj) for event in events):
                subscription.sync()

    async def _tell_again(self) -> None:
        while True:
            await self._clock.sleep(TELL_AGAIN_S)
            for node_id in self._listeners:
                for feed in self._feeds_of(node_id):
                    if feed.state is State.BROKEN:
                        feed.restart()

    def _feeds_of(self, node_id: str) -> list[NodeFeed]:
        found = (subscription.target.feeds.get(node_id) for subscription in self._subscriptions.values())
        return [feed for feed in found if feed is not None]

    def _notify(self, node_id: str) -> None:
        listener = self._listeners.get(node_id)
        if listener is not None:
            listener.bell.set()

    # --- who reads ---

    async def read(self, request: pb.ReadLogsRequest) -> AsyncGenerator[pb.ReadLogsMessage, None]:
        """Everything that is asked for, until there is nothing more to come."""
        self._require_active()
        _check_options(request.options)
        await self._raft.read_barrier()
        self._require_active()
        if len(self._subscriptions) >= MAX_SUBSCRIPTIONS:
            raise Unavailable(f"{MAX_SUBSCRIPTIONS} logs are being read already, which is as many as there may be")
        subscription = LogSubscription(request, lambda: self._store.view, clock=self._clock, notify=self._notify)
        self._subscriptions[subscription.id] = subscription
        for node_id in subscription.target.feeds:
            self._notify(node_id)
        try:
            async for message in subscription.messages():
                yield message
        finally:
            self._close(subscription)

    def _close(self, subscription: LogSubscription) -> None:
        if self._subscriptions.pop(subscription.id, None) is None:
            return
        subscription.end()
        for node_id in subscription.target.feeds:
            listener = self._listeners.get(node_id)
            if listener is not None:
                listener.closed.add(subscription.id)
                listener.bell.set()

    # --- what agents call ---

    async def listen(self, node_id: str) -> AsyncGenerator[pb.LogOrder, None]:
        """Orders for the node, now and as they come."""
        self._require_active()
        if node_id not in self._store.view.nodes:
            raise PermissionDenied(f"node {node_id} is not a member of this swarm")
        earlier = self._listeners.get(node_id)
        if earlier is not None:
            earlier.end(None)
        listener = self._listeners[node_id] = _Listener()
        for feed in self._feeds_of(node_id):
            feed.restart()
        try:
            while not listener.ended:
                listener.bell.clear()
                for order in self._orders(node_id, listener):
                    yield order
                if not listener.ended:
                    await listener.bell.wait()
        finally:
            if self._listeners.get(node_id) is listener:
                del self._listeners[node_id]
        if listener.error is not None:
            raise listener.error

    def _orders(self, node_id: str, listener: _Listener) -> list[pb.LogOrder]:
        orders = [pb.LogOrder(subscription_id=closed, close=True) for closed in sorted(listener.closed)]
        listener.closed.clear()
        for subscription in self._subscriptions.values():
            feed = subscription.target.feeds.get(node_id)
            order = feed.next_order(subscription.id) if feed is not None else None
            if order is not None:
                orders.append(order)
        return orders

    async def publish(self, node_id: str, messages: AsyncIterator[pb.PublishLogsMessage]) -> None:
        """Take what the node has for one subscription. Raises PermissionDenied for what it was not asked."""
        self._require_active()
        try:
            async with asyncio.timeout(FIRST_WORD_S):
                first = await anext(messages)
        except (TimeoutError, StopAsyncIteration) as exc:
            raise InvalidArgument("the stream names no subscription") from exc
        subscription = self._subscriptions.get(first.subscription_id)
        feed = subscription.target.feeds.get(node_id) if subscription is not None else None
        if feed is None:
            # Also what was just closed. Nobody is told which subscriptions there are.
            raise SessionInvalid("nobody waits for these logs, or no longer")
        stream = feed.open()
        try:
            async for message in messages:
                await feed.put(stream, message)
                self._bytes.inc(sum(len(chunk.frames) for chunk in message.chunks))
            feed.finish(stream)
        finally:
            feed.broke(stream)


def _check_options(options: pb.LogOptions) -> None:
    if not (options.stdout or options.stderr):
        raise InvalidArgument("Bad parameters: you must choose at least one stream")
