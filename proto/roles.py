"""Who may call what on the cluster's port, in one table, and the interceptor that holds every call to it."""

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from pyswarm.common.errors import PermissionDenied, PyswarmError
from pyswarm.common.tls import PeerIdentity, peer_identity
from pyswarm.proto.errors import abort_with

_MANAGERS = frozenset({"manager"})
_ALL = frozenset({"manager", "worker"})

#: Every method served on the cluster's port and the roles that may call it. What is not listed is refused.
ROLES: dict[str, frozenset[str]] = {
    "/pyswarm.v1.Control/Get": _MANAGERS,
    "/pyswarm.v1.Control/List": _MANAGERS,
    "/pyswarm.v1.Control/CreateService": _MANAGERS,
    "/pyswarm.v1.Control/UpdateService": _MANAGERS,
    "/pyswarm.v1.Control/RemoveService": _MANAGERS,
    "/pyswarm.v1.Control/CreateNetwork": _MANAGERS,
    "/pyswarm.v1.Control/RemoveNetwork": _MANAGERS,
    "/pyswarm.v1.Control/UpdateNode": _MANAGERS,
    "/pyswarm.v1.Control/RemoveNode": _MANAGERS,
    "/pyswarm.v1.Control/UpdateCluster": _MANAGERS,
    "/pyswarm.v1.Control/CreateSecret": _MANAGERS,
    "/pyswarm.v1.Control/UpdateSecret": _MANAGERS,
    "/pyswarm.v1.Control/RemoveSecret": _MANAGERS,
    "/pyswarm.v1.Control/CreateConfig": _MANAGERS,
    "/pyswarm.v1.Control/UpdateConfig": _MANAGERS,
    "/pyswarm.v1.Control/RemoveConfig": _MANAGERS,
    "/pyswarm.v1.Dispatcher/Session": _ALL,
    "/pyswarm.v1.Dispatcher/Heartbeat": _ALL,
    "/pyswarm.v1.Dispatcher/Assignments": _ALL,
    "/pyswarm.v1.Dispatcher/UpdateTaskStatus": _ALL,
    "/pyswarm.v1.Dispatcher/Applied": _ALL,
    "/pyswarm.v1.Dispatcher/Leave": _ALL,
    "/pyswarm.v1.Logs/Read": _MANAGERS,
    "/pyswarm.v1.LogBroker/Listen": _ALL,
    "/pyswarm.v1.LogBroker/Publish": _ALL,
    "/pyswarm.v1.Events/Watch": _MANAGERS,
    "/pyswarm.v1.CA/Renew": _ALL,
    "/pyswarm.v1.Raft/Stream": _MANAGERS,
    "/pyswarm.v1.Raft/Join": _MANAGERS,
    "/pyswarm.v1.Raft/Leave": _MANAGERS,
}

if TYPE_CHECKING:
    _Interceptor = grpc.aio.ServerInterceptor[Any, Any]
else:  # generic in its stubs only
    _Interceptor = grpc.aio.ServerInterceptor


class RoleInterceptor(_Interceptor):
    """Refuses a call unless its certificate is of this cluster, its node a member, and its role in the table.

    ``is_removed`` tells of a node that was removed from the cluster; its certificate has not run out yet.
    ``role_of`` is the role a node has now, None while that is not known: a manager that became a worker keeps a
    manager's certificate for a while, but none of its rights. ``guard`` sees method and metadata of each call of
    this cluster's nodes first, and may refuse it with a PyswarmError of its own.
    """

    def __init__(
        self,
        cluster_id: str,
        is_removed: Callable[[str], bool],
        role_of: Callable[[str], str | None] = lambda _node_id: None,
        guard: Callable[[str, Mapping[str, str]], None] = lambda _method, _metadata: None,
    ) -> None:
        self._cluster_id = cluster_id
        self._is_removed = is_removed
        self._role_of = role_of
        self._guard = guard

    def _check(self, method: str, peer: PeerIdentity, metadata: Mapping[str, str]) -> None:
        if peer.cluster_id != self._cluster_id:
            raise PermissionDenied("the certificate is of another swarm")
        self._guard(method, metadata)
        if self._is_removed(peer.node_id):
            raise PermissionDenied(f"node {peer.node_id} was removed from the swarm")
        for role in (peer.role, self._role_of(peer.node_id) or peer.role):
            if role not in ROLES.get(method, frozenset()):
                raise PermissionDenied(f"a {role} may not call {method.rpartition('/')[2]}")

    async def _admit(self, method: str, context: "grpc.aio.ServicerContext[Any, Any]") -> None:
        try:
            metadata: Any = dict(context.invocation_metadata() or ())
            self._check(method, peer_identity(context), metadata)
        except PyswarmError as exc:
            await abort_with(context, exc)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Put the check before the method's own code: only there is the caller's certificate known."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        method = handler_call_details.method
        inner = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream

        async def reply(request: Any, context: Any) -> Any:
            await self._admit(method, context)
            return await inner(request, context)

        async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
            await self._admit(method, context)
            async with aclosing(inner(request, context)) as messages:
                async for message in messages:
                    yield message

        guarded = stream if inspect.isasyncgenfunction(inner) else reply
        kind = ("stream" if handler.request_streaming else "unary") + (
            "_stream" if handler.response_streaming else "_unary"
        )
        make = getattr(grpc, f"{kind}_rpc_method_handler")
        return make(guarded, handler.request_deserializer, handler.response_serializer)
