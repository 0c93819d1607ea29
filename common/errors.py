"""The errors of pyswarm: one base, and beneath it one class per thing a caller can do about it.

The message of each is one line for the person who typed the command: what was wrong and what is allowed.
``http_status`` is what Docker's API answers in the same situation; ``code`` travels in gRPC trailers so
that the same error comes out of the CLI, the API and a forwarded call.
"""

from typing import ClassVar


class PyswarmError(Exception):
    """Base of every error that may be shown to a user. ``str(error)`` is the whole text."""

    http_status: ClassVar[int] = 500
    code: ClassVar[str] = "internal"
    retryable: ClassVar[bool] = False


class InvalidArgument(PyswarmError):
    """The request itself is wrong; sending it again cannot help."""

    http_status = 400
    code = "invalid_argument"


class NotFound(PyswarmError):
    """No object has that id, name or id prefix."""

    http_status = 404
    code = "not_found"


class AlreadyExists(PyswarmError):
    """The name is taken."""

    http_status = 409
    code = "already_exists"


class FailedPrecondition(PyswarmError):
    """The request is well formed, but the cluster's present state forbids it."""

    http_status = 400
    code = "failed_precondition"


class LeftBehind(FailedPrecondition):
    """This manager belongs to a swarm of which ``--force-new-cluster`` made a new one without it."""

    code = "left_behind"


class InUse(PyswarmError):
    """The object cannot be removed while something refers to it."""

    http_status = 400
    code = "in_use"


class UpdateOutOfSequence(PyswarmError):
    """The object changed since the caller read it. Docker answers 500 here, and clients match the text."""

    code = "update_out_of_sequence"

    def __init__(self, message: str = "rpc error: code = Unknown desc = update out of sequence") -> None:
        super().__init__(message)


class NotAManager(PyswarmError):
    """A cluster command reached a node that is not a manager of a swarm."""

    http_status = 503
    code = "not_a_manager"


class PermissionDenied(PyswarmError):
    """The caller's certificate does not carry a role that may do this."""

    http_status = 403
    code = "permission_denied"


class Unavailable(PyswarmError):
    """Nobody could answer: no leader, no route, or too slow. Nothing was changed; asking again may work."""

    http_status = 503
    code = "unavailable"
    retryable = True


class OutcomeUnknown(PyswarmError):
    """Leadership was lost while a change was on its way: it may or may not have been stored."""

    http_status = 503
    code = "outcome_unknown"


class NotLeader(PyswarmError):
    """This manager does not lead; ``leader_addr`` is who does, or empty while nobody does."""

    http_status = 503
    code = "not_leader"
    retryable = True

    def __init__(self, leader_addr: str = "", leader_id: str = "") -> None:
        super().__init__(
            "The swarm does not have a leader. It's possible that too few managers are online."
            if not leader_addr
            else f"this manager is not the leader; the leader is at {leader_addr}"
        )
        self.leader_addr = leader_addr
        self.leader_id = leader_id


_BY_CODE: dict[str, type[PyswarmError]] = {
    cls.code: cls
    for cls in (
        InvalidArgument,
        NotFound,
        AlreadyExists,
        FailedPrecondition,
        LeftBehind,
        InUse,
        UpdateOutOfSequence,
        NotAManager,
        PermissionDenied,
        Unavailable,
        OutcomeUnknown,
    )
}


def error_from_code(code: str, message: str) -> PyswarmError:
    """Rebuild an error that crossed a process boundary as (code, message)."""
    return _BY_CODE.get(code, PyswarmError)(message)
