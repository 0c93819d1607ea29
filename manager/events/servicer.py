"""The Events service. It is not forwarded: every manager has what it takes."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import msgspec

from pyswarm.manager.events.feed import EventFeed
from pyswarm.proto.errors import abort_with
from pyswarm.proto.v1 import events_pb2 as pb
from pyswarm.proto.v1 import events_pb2_grpc


class EventsServicer(events_pb2_grpc.EventsServicer):
    """Only managers may call (``proto.roles``)."""

    def __init__(self, feed: EventFeed) -> None:
        self._feed = feed

    async def Watch(self, request: pb.WatchEventsRequest, context: Any) -> AsyncIterator[pb.WatchEventsMessage]:
        """What happens."""
        try:
            async with aclosing(self._feed.watch(request.since_ns)) as batches:
                async for batch in batches:
                    yield pb.WatchEventsMessage(events=[msgspec.msgpack.encode(event) for event in batch])
        except Exception as exc:  # noqa: BLE001 - the boundary: every failure becomes an answer
            await abort_with(context, exc)
