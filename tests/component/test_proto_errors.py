"""An error raised behind gRPC is the same error in front of it."""

from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest

from pyswarm.common import errors
from pyswarm.common.errors import NotLeader, PyswarmError, Unavailable
from pyswarm.proto.errors import MAX_DETAILS_BYTES, SessionInvalid, abort_with, error_from_rpc, was_never_sent


class Raiser(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Answers every call with ``error``."""

    error: Exception = PyswarmError("unset")

    def service(self, handler_call_details: Any) -> Any:
        async def call(_request: bytes, context: Any) -> bytes:
            await abort_with(context, self.error)

        return grpc.unary_unary_rpc_method_handler(call)


@pytest.fixture
async def raiser() -> AsyncIterator[tuple[Raiser, Any]]:
    raiser, server = Raiser(), grpc.aio.server()
    server.add_generic_rpc_handlers((raiser,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield raiser, channel.unary_unary("/x/Y")
    await server.stop(grace=None)


async def through(call: Any, addr: str = "") -> PyswarmError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(b"", timeout=5)
    return error_from_rpc(caught.value, addr)


KINDS = [
    errors.InvalidArgument,
    errors.NotFound,
    errors.AlreadyExists,
    errors.FailedPrecondition,
    errors.InUse,
    errors.UpdateOutOfSequence,
    errors.NotAManager,
    errors.PermissionDenied,
    errors.Unavailable,
    errors.OutcomeUnknown,
    SessionInvalid,
]


@pytest.mark.parametrize("kind", KINDS, ids=[kind.code for kind in KINDS])
async def test_kind_and_text_survive(raiser: tuple[Raiser, Any], kind: type[PyswarmError]) -> None:
    raiser[0].error = kind('Größe: 100 % of "web"')
    error = await through(raiser[1])
    assert (type(error), str(error)) == (kind, str(raiser[0].error))


async def test_the_leader_s_address_survives(raiser: tuple[Raiser, Any]) -> None:
    for addr in ("10.0.0.1:2377", ""):
        raiser[0].error = NotLeader(addr, "id")
        error = await through(raiser[1])
        assert isinstance(error, NotLeader)
        assert error.leader_addr == addr


async def test_what_went_wrong_inside_is_not_told(raiser: tuple[Raiser, Any]) -> None:
    raiser[0].error = ValueError("the key is 4711")
    error = await through(raiser[1])
    assert (type(error), str(error)) == (PyswarmError, "internal error")


async def test_long_texts_are_cut_rather_than_lost(raiser: tuple[Raiser, Any]) -> None:
    raiser[0].error = errors.InvalidArgument("ä" * 100_000)
    error = await through(raiser[1])
    assert isinstance(error, errors.InvalidArgument)
    assert 0 < len(str(error).encode()) <= MAX_DETAILS_BYTES


async def test_nobody_there_is_named_and_certainly_untouched() -> None:
    async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary("/x/Y")(b"", timeout=5)
    error = error_from_rpc(caught.value, "127.0.0.1:1")
    assert isinstance(error, Unavailable)
    assert str(error) == "cannot reach the manager at 127.0.0.1:1: Connection refused"
    assert was_never_sent(caught.value)
