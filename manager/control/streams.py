"""Streams of a manager for callers in other rooms. They end with a PyswarmError, whatever ended them."""

from collections.abc import AsyncGenerator, Callable
from typing import Any

import grpc.aio

from pyswarm.common.errors import Unavailable
from pyswarm.common.tls import TLSIdentity
from pyswarm.proto.errors import answered, error_from_rpc


async def messages_of(
    identity: TLSIdentity, addr: str, open_call: Callable[[grpc.aio.Channel], Any]
) -> AsyncGenerator[Any, None]:
    """The messages of a call to the manager at ``addr``. Raises what it answered, or Unavailable when the
    connection broke.

    The connection is this stream's own: other calls must not wait behind what is read slowly.
    """
    async with identity.channel(addr) as channel:
        call = open_call(channel)
        try:
            async for message in call:
                yield message
        except grpc.aio.AioRpcError as exc:
            error = error_from_rpc(exc, addr)
            raise error if answered(exc) else Unavailable(str(error)) from exc
        finally:
            call.cancel()
