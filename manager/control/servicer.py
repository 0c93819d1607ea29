"""The Control service: decodes requests, sees to it that the leader acts on them, and counts."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec
from prometheus_client import CollectorRegistry, Counter, Histogram

from pyswarm.common.clock import Clock
from pyswarm.common.errors import InvalidArgument, PyswarmError
from pyswarm.common.files import FileKind
from pyswarm.common.tls import TLSIdentity
from pyswarm.common.types import (
    ClusterSpec,
    ConfigSpec,
    NetworkSpec,
    NodeSpec,
    Object,
    SecretSpec,
    ServiceSpec,
)
from pyswarm.manager.control.actions import Actions, Managers
from pyswarm.manager.control.file_actions import FileActions
from pyswarm.manager.control.filters import decode_filters
from pyswarm.manager.control.forward import FORWARDED_KEY, NO_LEADER, LeaderCalls
from pyswarm.manager.control.replies import encoded, page
from pyswarm.manager.leadership import RaftLeadership
from pyswarm.manager.state import Store
from pyswarm.proto.errors import abort_with
from pyswarm.proto.v1 import control_pb2, control_pb2_grpc

S = TypeVar("S", bound=Object)

DEFAULT_TIMEOUT_S = 30.0


class ControlServicer(control_pb2_grpc.ControlServicer):
    """Every manager serves it; who does not lead passes calls on. Only managers may call (``proto.roles``)."""

    def __init__(
        self,
        store: Store,
        raft: RaftLeadership,
        identity: TLSIdentity,
        *,
        clock: Clock,
        registry: CollectorRegistry,
        managers: Managers | None = None,
    ) -> None:
        self._clock = clock
        self._actions = Actions(store, raft, clock, managers)
        self._files = FileActions(store)
        no_leader = managers.no_leader if managers is not None else lambda: NO_LEADER
        self._calls = LeaderCalls(raft, identity, clock, no_leader)
        self._requests = Counter(
            "pyswarm_control_requests_total", "Calls of the Control service", ("method", "code"), registry=registry
        )
        self._latency = Histogram(
            "pyswarm_control_request_seconds", "Time to answer a call", ("method",), registry=registry
        )

    async def close(self) -> None:
        """Close the connections to other managers."""
        await self._calls.close()

    async def _serve(
        self,
        method: str,
        request: Any,
        context: Any,
        act: Callable[[float], Awaitable[Any]],
        repeatable: bool = False,
        stale: bool = False,
    ) -> Any:
        """``act`` gets the seconds the caller waits at most. A stale read is answered here, whoever leads."""
        start_s = self._clock.monotonic()
        given_s = context.time_remaining()
        timeout_s = DEFAULT_TIMEOUT_S if given_s is None else float(given_s)
        forwarded = any(key == FORWARDED_KEY for key, _ in context.invocation_metadata() or ())
        try:
            reply = (
                await act(timeout_s)
                if stale
                else await self._calls.call(
                    method,
                    request,
                    lambda: act(timeout_s),
                    forwarded=forwarded,
                    timeout_s=timeout_s,
                    repeatable=repeatable,
                )
            )
        except Exception as exc:  # noqa: BLE001 - the boundary: every failure becomes an answer
            self._count(method, exc.code if isinstance(exc, PyswarmError) else PyswarmError.code, start_s)
            await abort_with(context, exc)
        self._count(method, "ok", start_s)
        return reply

    def _count(self, method: str, code: str, start_s: float) -> None:
        """Before the answer goes out, so that whoever has it finds it counted."""
        self._requests.labels(method, code).inc()
        self._latency.labels(method).observe(self._clock.monotonic() - start_s)

    async def Get(self, request: control_pb2.GetRequest, context: Any) -> Any:
        """One object."""

        async def act(_timeout_s: float) -> Any:
            return _object(await self._actions.get(request.kind, request.ref, stale=request.stale))

        return await self._serve("Get", request, context, act, repeatable=True, stale=request.stale)

    async def List(self, request: control_pb2.ListRequest, context: Any) -> Any:
        """The objects of a kind that pass filters, page by page."""

        async def act(_timeout_s: float) -> Any:
            wanted = decode_filters(request.filters)
            found = await self._actions.list(request.kind, wanted, stale=request.stale)
            objects, rest = page(found, request.after)
            return control_pb2.ListReply(objects=objects, next=rest)

        return await self._serve("List", request, context, act, repeatable=True, stale=request.stale)

    async def CreateService(self, request: control_pb2.CreateRequest, context: Any) -> Any:
        """A new service."""

        async def act(_timeout_s: float) -> Any:
            return _object(await self._actions.create_service(_decode(request.spec, ServiceSpec)))

        return await self._serve("CreateService", request, context, act)

    async def UpdateService(self, request: control_pb2.UpdateRequest, context: Any) -> Any:
        """A new spec for a service, or its previous one again."""

        async def act(_timeout_s: float) -> Any:
            if request.rollback:
                return _object(await self._actions.rollback_service(request.ref, request.version))
            spec = _decode(request.spec, ServiceSpec)
            return _object(await self._actions.update_service(request.ref, request.version, spec))

        return await self._serve("UpdateService", request, context, act)

    async def RemoveService(self, request: control_pb2.RemoveRequest, context: Any) -> Any:
        """The end of a service."""

        async def act(_timeout_s: float) -> Any:
            await self._actions.remove_service(request.ref)
            return control_pb2.Empty()

        return await self._serve("RemoveService", request, context, act)

    async def CreateNetwork(self, request: control_pb2.CreateRequest, context: Any) -> Any:
        """A new network, with its subnet and VNI."""

        async def act(_timeout_s: float) -> Any:
            return _object(await self._actions.create_network(_decode(request.spec, NetworkSpec)))

        return await self._serve("CreateNetwork", request, context, act)

    async def RemoveNetwork(self, request: control_pb2.RemoveRequest, context: Any) -> Any:
        """The end of a network; waits for tasks that are already stopping."""

        async def act(timeout_s: float) -> Any:
            await self._actions.remove_network(request.ref, timeout_s)
            return control_pb2.Empty()

        return await self._serve("RemoveNetwork", request, context, act)

    async def UpdateNode(self, request: control_pb2.UpdateRequest, context: Any) -> Any:
        """Availability and labels of a node."""

        async def act(_timeout_s: float) -> Any:
            spec = _decode(request.spec, NodeSpec)
            return _object(await self._actions.update_node(request.ref, request.version, spec))

        return await self._serve("UpdateNode", request, context, act)

    async def RemoveNode(self, request: control_pb2.RemoveRequest, context: Any) -> Any:
        """Forget a node."""

        async def act(_timeout_s: float) -> Any:
            await self._actions.remove_node(request.ref, force=request.force)
            return control_pb2.Empty()

        return await self._serve("RemoveNode", request, context, act)

    async def UpdateCluster(self, request: control_pb2.UpdateClusterRequest, context: Any) -> Any:
        """Settings and join tokens."""

        async def act(_timeout_s: float) -> Any:
            cluster = await self._actions.update_cluster(
                request.version,
                _decode(request.spec, ClusterSpec) if request.spec else None,
                rotate_worker_token=request.rotate_worker_token,
                rotate_manager_token=request.rotate_manager_token,
            )
            return _object(cluster)

        return await self._serve("UpdateCluster", request, context, act)

    async def CreateSecret(self, request: control_pb2.CreateRequest, context: Any) -> Any:
        """A new secret."""
        return await self._create_file("CreateSecret", SecretSpec, request, context)

    async def CreateConfig(self, request: control_pb2.CreateRequest, context: Any) -> Any:
        """A new config."""
        return await self._create_file("CreateConfig", ConfigSpec, request, context)

    async def UpdateSecret(self, request: control_pb2.UpdateRequest, context: Any) -> Any:
        """Other labels for a secret."""
        return await self._update_file("UpdateSecret", "secret", SecretSpec, request, context)

    async def UpdateConfig(self, request: control_pb2.UpdateRequest, context: Any) -> Any:
        """Other labels for a config."""
        return await self._update_file("UpdateConfig", "config", ConfigSpec, request, context)

    async def RemoveSecret(self, request: control_pb2.RemoveRequest, context: Any) -> Any:
        """The end of a secret."""
        return await self._remove_file("RemoveSecret", "secret", request, context)

    async def RemoveConfig(self, request: control_pb2.RemoveRequest, context: Any) -> Any:
        """The end of a config."""
        return await self._remove_file("RemoveConfig", "config", request, context)

    async def _create_file(
        self, method: str, of: type[SecretSpec] | type[ConfigSpec], request: Any, context: Any
    ) -> Any:
        async def act(_timeout_s: float) -> Any:
            return _object(await self._files.create(_decode(request.spec, of)))

        return await self._serve(method, request, context, act)

    async def _update_file(
        self, method: str, kind: FileKind, of: type[SecretSpec] | type[ConfigSpec], request: Any, context: Any
    ) -> Any:
        async def act(_timeout_s: float) -> Any:
            spec = _decode(request.spec, of)
            return _object(await self._files.update(kind, request.ref, request.version, spec))

        return await self._serve(method, request, context, act)

    async def _remove_file(self, method: str, kind: FileKind, request: Any, context: Any) -> Any:
        async def act(_timeout_s: float) -> Any:
            await self._files.remove(kind, request.ref)
            return control_pb2.Empty()

        return await self._serve(method, request, context, act)


def _object(obj: Object) -> control_pb2.ObjectReply:
    return control_pb2.ObjectReply(object=encoded(obj))


def _decode(data: bytes, kind: type[S]) -> S:
    try:
        return msgspec.msgpack.decode(data, type=kind)
    except msgspec.DecodeError as exc:
        raise InvalidArgument(f"the spec cannot be read: {exc}") from exc
