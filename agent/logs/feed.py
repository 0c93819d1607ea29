"""Listens to what the leader wants of this node's logs, and gives it that."""

import asyncio
from typing import Any

import grpc.aio

from pyswarm.agent.engine import Engine, EngineEvent
from pyswarm.agent.logs.news import EngineNews
from pyswarm.agent.logs.subscription import Subscription
from pyswarm.common.clock import Clock
from pyswarm.common.errors import PyswarmError
from pyswarm.common.log import get_logger
from pyswarm.common.tasks import TaskGroupOwner
from pyswarm.common.tls import TLSIdentity
from pyswarm.proto.errors import error_from_rpc
from pyswarm.proto.v1 import logs_pb2 as pb
from pyswarm.proto.v1 import logs_pb2_grpc

log = get_logger("agent")

#: After a stream broke off whose session goes on.
RETRY_S = 1.0


class LogFeed:
    """``serve`` it for as long as a session with the leader lasts. It has a connection of its own: heartbeats must
    not wait behind what somebody's containers say."""

    def __init__(self, engine: Engine, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock
        self._news = EngineNews()

    def engine_event(self, event: EngineEvent) -> None:
        """Something happened to a container."""
        self._news.about(event.task_id)

    def engine_up(self) -> None:
        """The engine is there, perhaps again."""
        self._news.anything()

    async def serve(self, identity: TLSIdentity, addr: str) -> None:
        """Do what the leader at ``addr`` orders, until cancelled."""
        while True:
            try:
                async with identity.channel(addr) as channel:
                    await self._listen(logs_pb2_grpc.LogBrokerStub(channel))
            except grpc.aio.AioRpcError as exc:
                log.debug("no orders for logs", reason=str(error_from_rpc(exc, addr)))
            await self._clock.sleep(RETRY_S)

    async def _listen(self, stub: Any) -> None:
        owner = TaskGroupOwner("logs")
        running: dict[str, tuple[Subscription, asyncio.Task[Any]]] = {}
        try:
            async for order in stub.Listen(pb.ListenLogsRequest()):
                key = order.subscription_id
                if (order.close or order.HasField("options")) and key in running:
                    running.pop(key)[1].cancel()
                if order.HasField("options"):
                    subscription = Subscription(order, engine=self._engine, news=self._news, clock=self._clock)
                    running[key] = (subscription, owner.spawn(self._publish(stub, key, subscription), "publish"))
                elif key in running:
                    running[key][0].order(order.tasks)
        finally:
            await owner.stop()

    async def _publish(self, stub: Any, subscription_id: str, subscription: Subscription) -> None:
        call = stub.Publish()
        try:
            await call.write(pb.PublishLogsMessage(subscription_id=subscription_id))
            await subscription.run(call)
            await call.done_writing()
            await call
        except grpc.aio.AioRpcError as exc:
            # The leader orders anew what it still wants.
            log.debug("logs not taken", reason=str(error_from_rpc(exc)))
        except asyncio.InvalidStateError:
            log.debug("logs not taken", reason="the call has ended")
        except PyswarmError as exc:
            log.warning("logs cannot be read", reason=str(exc))
        finally:
            call.cancel()
