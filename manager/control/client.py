"""The Control service for callers in other rooms: typed methods that return objects and raise PyswarmErrors.

It imports only ``proto`` and ``common``, so that the gateway stays as small as it is.
"""

import copy
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

import grpc
import grpc.aio
import msgspec

from pyswarm.common.clock import Clock, SystemClock
from pyswarm.common.errors import OutcomeUnknown, PyswarmError, Unavailable
from pyswarm.common.tls import TLSIdentity
from pyswarm.common.types import (
    Cluster,
    ClusterEvent,
    ClusterSpec,
    Config,
    ConfigSpec,
    Network,
    NetworkSpec,
    Node,
    NodeSpec,
    Object,
    Secret,
    SecretSpec,
    Service,
    ServiceSpec,
    Task,
)
from pyswarm.manager.control.streams import messages_of
from pyswarm.proto.errors import answered, error_from_rpc, was_never_sent
from pyswarm.proto.v1 import control_pb2, control_pb2_grpc, events_pb2, events_pb2_grpc, logs_pb2, logs_pb2_grpc

T = TypeVar("T", bound=Object)
Filters = Mapping[str, Sequence[str]]

TIMEOUT_S = 10.0
#: A manager process that died is started again by its daemon within this time.
RESTART_PATIENCE_S = 5.0
RETRY_S = 0.1
#: Removing a network waits for the tasks that are just stopping.
REMOVE_NETWORK_TIMEOUT_S = 30.0


class ControlClient:
    """Asks the managers at ``addrs`` in turn, the first one first, until one can be reached."""

    def __init__(
        self,
        identity: TLSIdentity,
        *addrs: str,
        clock: Clock | None = None,
        patience_s: float = RESTART_PATIENCE_S,
    ) -> None:
        self._identity = identity
        self._addrs = addrs
        self._clock = clock or SystemClock()
        self._patience_s = patience_s
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._stale = False
        self._timeout_s = TIMEOUT_S

    def reading(self, *, stale: bool = False, timeout_s: float = TIMEOUT_S) -> "ControlClient":
        """The same client for reads with another time limit; stale ones are answered by any manager, leader or
        not, with what it knows."""
        reader = copy.copy(self)
        reader._stale, reader._timeout_s = stale, timeout_s
        return reader

    async def close(self) -> None:
        """Close all connections; the next call opens new ones."""
        channels, self._channels = list(self._channels.values()), {}
        for channel in channels:
            await channel.close(grace=None)

    async def get_service(self, ref: str) -> Service:
        """By id, name or id prefix, as all the other ``get`` methods."""
        return await self._get("service", ref, Service)

    async def list_services(self, filters: Filters | None = None) -> list[Service]:
        """Filters are Docker's, with the values of each as a list."""
        return await self._list("service", filters, Service)

    async def create_service(self, spec: ServiceSpec) -> Service:
        """Networks in the spec may be given by name."""
        return _decode(await self._call("CreateService", _create(spec)), Service)

    async def update_service(
        self, ref: str, version: int, spec: ServiceSpec | None = None, rollback: bool = False
    ) -> Service:
        """``version`` is the one the spec was read with. With ``rollback`` the previous spec comes back."""
        request = control_pb2.UpdateRequest(
            ref=ref, version=version, spec=msgspec.msgpack.encode(spec) if spec else b"", rollback=rollback
        )
        return _decode(await self._call("UpdateService", request), Service)

    async def remove_service(self, ref: str) -> None:
        """Returns once it is recorded; the tasks stop after that."""
        await self._call("RemoveService", control_pb2.RemoveRequest(ref=ref))

    async def get_task(self, ref: str) -> Task:
        """One task."""
        return await self._get("task", ref, Task)

    async def list_tasks(self, filters: Filters | None = None) -> list[Task]:
        """Tasks, those of the past included."""
        return await self._list("task", filters, Task)

    async def get_network(self, ref: str) -> Network:
        """One cluster network."""
        return await self._get("network", ref, Network)

    async def list_networks(self, filters: Filters | None = None) -> list[Network]:
        """The cluster's networks, without the engines' own."""
        return await self._list("network", filters, Network)

    async def create_network(self, spec: NetworkSpec) -> Network:
        """Subnet, gateway and VNI are in the answer."""
        return _decode(await self._call("CreateNetwork", _create(spec)), Network)

    async def remove_network(self, ref: str) -> None:
        """Raises InUse while a service uses it; waits for tasks that are stopping."""
        request = control_pb2.RemoveRequest(ref=ref)
        await self._call("RemoveNetwork", request, timeout_s=REMOVE_NETWORK_TIMEOUT_S)

    async def get_node(self, ref: str) -> Node:
        """One node; leader and reachability are as of now."""
        return await self._get("node", ref, Node)

    async def list_nodes(self, filters: Filters | None = None) -> list[Node]:
        """The members of the cluster."""
        return await self._list("node", filters, Node)

    async def update_node(self, ref: str, version: int, spec: NodeSpec) -> Node:
        """Availability and labels."""
        return _decode(await self._call("UpdateNode", _update(ref, version, spec)), Node)

    async def remove_node(self, ref: str, force: bool = False) -> None:
        """Without ``force`` the node must be down."""
        await self._call("RemoveNode", control_pb2.RemoveRequest(ref=ref, force=force))

    async def get_secret(self, ref: str) -> Secret:
        """One secret, without its payload."""
        return await self._get("secret", ref, Secret)

    async def list_secrets(self, filters: Filters | None = None) -> list[Secret]:
        """Without their payloads."""
        return await self._list("secret", filters, Secret)

    async def create_secret(self, spec: SecretSpec) -> Secret:
        """The answer is without the payload."""
        return _decode(await self._call("CreateSecret", _create(spec)), Secret)

    async def update_secret(self, ref: str, version: int, spec: SecretSpec) -> Secret:
        """Labels only; the spec may leave the payload out."""
        return _decode(await self._call("UpdateSecret", _update(ref, version, spec)), Secret)

    async def remove_secret(self, ref: str) -> None:
        """Raises InUse while a service refers to it."""
        await self._call("RemoveSecret", control_pb2.RemoveRequest(ref=ref))

    async def get_config(self, ref: str) -> Config:
        """One config."""
        return await self._get("config", ref, Config)

    async def list_configs(self, filters: Filters | None = None) -> list[Config]:
        """With their payloads."""
        return await self._list("config", filters, Config)

    async def create_config(self, spec: ConfigSpec) -> Config:
        """A new config."""
        return _decode(await self._call("CreateConfig", _create(spec)), Config)

    async def update_config(self, ref: str, version: int, spec: ConfigSpec) -> Config:
        """Labels only."""
        return _decode(await self._call("UpdateConfig", _update(ref, version, spec)), Config)

    async def remove_config(self, ref: str) -> None:
        """Raises InUse while a service refers to it."""
        await self._call("RemoveConfig", control_pb2.RemoveRequest(ref=ref))

    async def get_cluster(self) -> Cluster:
        """The cluster, without its CA's key."""
        return await self._get("cluster", "", Cluster)

    async def update_cluster(
        self,
        version: int = 0,
        spec: ClusterSpec | None = None,
        rotate_worker_token: bool = False,
        rotate_manager_token: bool = False,
    ) -> Cluster:
        """``version`` 0 means whatever it is now; without ``spec`` settings stay."""
        request = control_pb2.UpdateClusterRequest(
            version=version,
            spec=msgspec.msgpack.encode(spec) if spec else b"",
            rotate_worker_token=rotate_worker_token,
            rotate_manager_token=rotate_manager_token,
        )
        return _decode(await self._call("UpdateCluster", request), Cluster)

    def read_logs(self, request: logs_pb2.ReadLogsRequest) -> AsyncGenerator[logs_pb2.ReadLogsMessage, None]:
        """The logs of a service or a task, of the first manager. A stream that breaks is not opened again here."""
        return messages_of(self._identity, self._addrs[0], lambda c: logs_pb2_grpc.LogsStub(c).Read(request))

    async def watch_events(self, since_ns: int) -> AsyncGenerator[list[ClusterEvent], None]:
        """Events as the first manager sees them; the first list, perhaps empty, is of what happened since then."""
        request = events_pb2.WatchEventsRequest(since_ns=since_ns)
        messages = messages_of(
            self._identity, self._addrs[0], lambda c: events_pb2_grpc.EventsStub(c).Watch(request)
        )
        async with aclosing(messages):
            async for message in messages:
                yield [msgspec.msgpack.decode(event, type=ClusterEvent) for event in message.events]

    async def _get(self, kind: str, ref: str, of: type[T]) -> T:
        reply = await self._call(
            "Get", control_pb2.GetRequest(kind=kind, ref=ref, stale=self._stale), repeatable=True
        )
        return _decode(reply, of)

    async def _list(self, kind: str, filters: Filters | None, of: type[T]) -> list[T]:
        wanted = {name: control_pb2.Values(values=values) for name, values in (filters or {}).items()}
        found: list[T] = []
        request = control_pb2.ListRequest(kind=kind, filters=wanted, stale=self._stale)
        while True:
            reply = await self._call("List", request, repeatable=True)
            found += [msgspec.msgpack.decode(data, type=of) for data in reply.objects]
            if not reply.next:
                return found
            request.after = reply.next

    async def _call(self, method: str, request: Any, *, timeout_s: float = 0.0, repeatable: bool = False) -> Any:
        """Try each manager until one is reached, again for a while if none is: a manager that died is back soon.
        A change that may have arrived is not sent twice."""
        timeout_s = timeout_s or self._timeout_s
        deadline_s = self._clock.monotonic() + min(self._patience_s, timeout_s)
        while True:
            failure: PyswarmError = Unavailable("no manager of the swarm is known")
            for addr in self._addrs:
                stub = control_pb2_grpc.ControlStub(self._channel(addr))
                try:
                    return await getattr(stub, method)(request, timeout=timeout_s)
                except grpc.aio.AioRpcError as exc:
                    failure = error_from_rpc(exc, addr)
                    if answered(exc) or (repeatable and exc.code() is grpc.StatusCode.DEADLINE_EXCEEDED):
                        raise failure from exc
                    if not was_never_sent(exc) and not repeatable:
                        raise OutcomeUnknown(
                            f"{failure}; the change may or may not have been stored: look before trying again"
                        ) from exc
            if self._clock.monotonic() >= deadline_s:
                raise failure
            await self._clock.sleep(RETRY_S)

    def _channel(self, addr: str) -> grpc.aio.Channel:
        channel = self._channels.get(addr)
        if channel is None:
            channel = self._channels[addr] = self._identity.channel(addr)
        return channel


def _create(spec: Object) -> control_pb2.CreateRequest:
    return control_pb2.CreateRequest(spec=msgspec.msgpack.encode(spec))


def _update(ref: str, version: int, spec: Object) -> control_pb2.UpdateRequest:
    return control_pb2.UpdateRequest(ref=ref, version=version, spec=msgspec.msgpack.encode(spec))


def _decode(reply: Any, of: type[T]) -> T:
    return msgspec.msgpack.decode(reply.object, type=of)
