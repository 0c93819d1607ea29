"""What can go wrong with the registry, as seen by those who use it. gRPC's errors stop at this door."""

from typing import ClassVar

import grpc

from pyswarm.common.errors import PyswarmError


class RegistryError(PyswarmError):
    """Base of all registry errors."""

    code: ClassVar[str] = "registry"


class RegistryUnavailable(RegistryError):
    """No member answered in time, or the members have no leader. Asking again may work."""

    http_status = 503
    code = "registry_unavailable"
    retryable = True


class RegistryRefused(RegistryError):
    """etcd understood the request and will not do it as things stand; the message is etcd's own reason."""

    code = "registry_refused"


class RegistryDenied(RegistryError):
    """The certificate's user may not do this."""

    http_status = 403
    code = "registry_denied"


class RegistryFenced(RegistryError):
    """A newer leader has written to the registry: the caller is deposed and must stop writing."""

    code = "registry_fenced"


class RegistryCompacted(RegistryError):
    """The history from the wanted revision on is gone: list, then watch from there."""

    code = "registry_compacted"


# etcd gives these the codes of a wrong request, but they say "not now", or "not with this history".
_RETRYABLE_TEXT = ("revision of auth store is old", "no leader", "leader changed", "request timed out")
_DENIED_TEXT = ("permission denied", "user name is empty", "invalid auth token", "auth is not enabled")
_RETRYABLE_CODES = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
)


def translate(error: grpc.aio.AioRpcError, endpoint: str) -> RegistryError:
    """The registry's error for what gRPC reported from ``endpoint``."""
    code, details = error.code(), error.details() or ""
    if "mvcc: required revision has been compacted" in details:
        return RegistryCompacted("etcd compacted the wanted revision")
    if any(text in details for text in _RETRYABLE_TEXT):
        return RegistryUnavailable(f"etcd at {endpoint}: {details}")
    if code in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED) or any(
        text in details for text in _DENIED_TEXT
    ):
        return RegistryDenied(f"etcd at {endpoint} does not allow this: {details}")
    if code in _RETRYABLE_CODES:
        return RegistryUnavailable(f"etcd at {endpoint} does not answer: {details or code.name}")
    return RegistryRefused(f"etcd at {endpoint} refused: {details or code.name}")
