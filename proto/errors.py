"""How errors cross a gRPC connection: a status code for gRPC's own purposes, the text as details, and the kind of
error in the trailing metadata, so that the caller's side raises the class the server's side raised."""

from typing import Any, NoReturn

import grpc
import grpc.aio

from pyswarm.common.errors import (
    AlreadyExists,
    FailedPrecondition,
    InUse,
    InvalidArgument,
    NotAManager,
    NotFound,
    NotLeader,
    OutcomeUnknown,
    PermissionDenied,
    PyswarmError,
    Unavailable,
    UpdateOutOfSequence,
    error_from_code,
)
from pyswarm.common.log import get_logger

log = get_logger("rpc")

ERROR_KEY = "pyswarm-error"
LEADER_KEY = "pyswarm-leader"
#: Details travel in headers, percent-encoded, and a peer may drop headers beyond 8 KiB.
MAX_DETAILS_BYTES = 1500


class SessionInvalid(PyswarmError):
    """The session was replaced or has run out; the agent must open a new one."""

    http_status = 503
    code = "session_invalid"
    retryable = True


_STATUS: tuple[tuple[type[PyswarmError], grpc.StatusCode], ...] = (
    (InvalidArgument, grpc.StatusCode.INVALID_ARGUMENT),
    (NotFound, grpc.StatusCode.NOT_FOUND),
    (AlreadyExists, grpc.StatusCode.ALREADY_EXISTS),
    (FailedPrecondition, grpc.StatusCode.FAILED_PRECONDITION),
    (InUse, grpc.StatusCode.FAILED_PRECONDITION),
    (UpdateOutOfSequence, grpc.StatusCode.ABORTED),
    (SessionInvalid, grpc.StatusCode.FAILED_PRECONDITION),
    (PermissionDenied, grpc.StatusCode.PERMISSION_DENIED),
    (NotAManager, grpc.StatusCode.UNAVAILABLE),
    (NotLeader, grpc.StatusCode.UNAVAILABLE),
    (Unavailable, grpc.StatusCode.UNAVAILABLE),
    (OutcomeUnknown, grpc.StatusCode.UNKNOWN),
)


async def abort_with(context: "grpc.aio.ServicerContext[Any, Any]", exc: BaseException) -> NoReturn:
    """End the call with ``exc``. What is not a PyswarmError is logged here and told to the caller as internal."""
    if not isinstance(exc, PyswarmError):
        log.error("call failed", peer=context.peer(), exc_info=exc)
        await context.abort(grpc.StatusCode.INTERNAL, "internal error", ((ERROR_KEY, PyswarmError.code),))
        raise AssertionError("abort returned")
    status = next((code for cls, code in _STATUS if isinstance(exc, cls)), grpc.StatusCode.UNKNOWN)
    trailing: tuple[tuple[str, str], ...] = ((ERROR_KEY, exc.code),)
    if isinstance(exc, NotLeader):
        trailing += ((LEADER_KEY, exc.leader_addr),)
    await context.abort(status, str(exc).encode()[:MAX_DETAILS_BYTES].decode(errors="ignore"), trailing)
    raise AssertionError("abort returned")


def _trailing(exc: grpc.aio.AioRpcError) -> dict[str, str]:
    pairs: Any = exc.trailing_metadata() or ()
    return {str(key): value if isinstance(value, str) else value.decode() for key, value in pairs}


def error_from_rpc(exc: grpc.aio.AioRpcError, addr: str = "") -> PyswarmError:
    """The error a failed call stands for. One that no server of ours answered names ``addr`` instead."""
    trailing = _trailing(exc)
    code = trailing.get(ERROR_KEY)
    text = exc.details() or ""
    if code == NotLeader.code:
        return NotLeader(trailing.get(LEADER_KEY, ""))
    if code == SessionInvalid.code:
        return SessionInvalid(text)
    if code is not None:
        return error_from_code(code, text)
    where = f" at {addr}" if addr else ""
    if exc.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return Unavailable(f"the manager{where} did not answer in time")
    if exc.code() is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in text:
        return InvalidArgument(f"the manager{where} takes no request as large as this one: {text}")
    if exc.code() is grpc.StatusCode.UNAVAILABLE:
        return Unavailable(f"cannot reach the manager{where}: {_reason(text)}")
    return PyswarmError(f"the call to the manager{where} failed: {exc.code().name}: {text}")


def was_never_sent(exc: grpc.aio.AioRpcError) -> bool:
    """Whether the call failed for want of a connection, so that it is certain that nobody acted on it."""
    return (
        exc.code() is grpc.StatusCode.UNAVAILABLE
        and ERROR_KEY not in _trailing(exc)
        and (exc.details() or "").startswith("failed to connect to all addresses")
    )


def answered(exc: grpc.aio.AioRpcError) -> bool:
    """Whether a server of ours refused the call, rather than the connection failing beneath it."""
    return ERROR_KEY in _trailing(exc)


def _reason(details: str) -> str:
    """The last part of gRPC's chain of causes, which is the one that helps a person."""
    for known in ("Connection refused", "No route to host", "Network is unreachable", "CERTIFICATE_VERIFY_FAILED"):
        if known in details:
            return known.replace("CERTIFICATE_VERIFY_FAILED", "its certificate is not of this swarm")
    return details.rpartition("last error: ")[2] or "no connection"
