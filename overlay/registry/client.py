"""A small etcd v3 client on the generated stubs of the ``aetcd`` package.

Only what the overlay needs, and what the ready-made clients lack: mutual TLS, several endpoints, a deadline
on every call, and messages larger than gRPC's default. The certificate's CN is the etcd user; there are no
passwords. Why not a ready-made client: docs/adr/0002.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Any, TypeVar

import grpc
import msgspec
from aetcd.rpc import kv_pb2, rpc_pb2, rpc_pb2_grpc

from pyswarm.common.clock import Clock, SystemClock
from pyswarm.overlay.registry.channel import RegistryTLS, open_channel, parse_endpoint
from pyswarm.overlay.registry.errors import RegistryCompacted, RegistryDenied, RegistryUnavailable, translate

T = TypeVar("T")
_PAGE_KEYS = 2000
# The member closes the stream when it loses its leader, instead of staying silent on the wrong side of a cut.
_REQUIRE_LEADER = (("hasleader", "true"),)


class KeyValue(msgspec.Struct, frozen=True):
    """A key, its value, and the revision that wrote it."""

    key: bytes
    value: bytes
    mod_revision: int


class Listing(msgspec.Struct, frozen=True):
    """All keys of a range as of one revision of one etcd cluster."""

    kvs: tuple[KeyValue, ...]
    revision: int
    cluster_id: int


class Change(msgspec.Struct, frozen=True):
    """One change of a watched key; ``value`` is None when it was deleted."""

    key: bytes
    value: bytes | None


class WatchBatch(msgspec.Struct, frozen=True):
    """The changes up to and including ``revision``. The first one of a watch is empty: it says whom we reached."""

    changes: tuple[Change, ...]
    revision: int
    store_revision: int
    """The member's own revision when it sent this."""
    cluster_id: int


class Compare(msgspec.Struct, frozen=True):
    """A condition of a transaction on one key: that it is absent, or that its value is less than ``less_than``."""

    key: bytes
    less_than: bytes | None = None


class TxnResult(msgspec.Struct, frozen=True):
    """Whether the conditions held (then everything was done), and the revision after it."""

    succeeded: bool
    revision: int
    cluster_id: int


def prefix_end(prefix: bytes) -> bytes:
    """The first key after every key that begins with ``prefix``."""
    return prefix[:-1] + bytes([prefix[-1] + 1])


class Link:
    """One endpoint: its channel and stubs."""

    def __init__(self, url: str, tls: RegistryTLS | None) -> None:
        self.url = url
        self.channel = open_channel(url, tls)
        self.kv: Any = rpc_pb2_grpc.KVStub(self.channel)
        self.watch: Any = rpc_pb2_grpc.WatchStub(self.channel)
        self.auth: Any = rpc_pb2_grpc.AuthStub(self.channel)
        self.cluster: Any = rpc_pb2_grpc.ClusterStub(self.channel)
        self.maintenance: Any = rpc_pb2_grpc.MaintenanceStub(self.channel)
        self.closed = False

    async def close(self) -> None:
        """End the connection and the calls on it."""
        self.closed = True
        await self.channel.close(None)

    def lost(self) -> bool:
        """Whether a CancelledError means that this link was closed.

        gRPC reports calls on a closed channel as cancelled, and lets that look like the end of the waiting task.
        """
        task = asyncio.current_task()
        return self.closed and task is not None and not task.cancelling()


class EtcdClient:
    """Calls go to the endpoint that answered last; when it fails they go to the next, each at most once a call."""

    def __init__(
        self,
        endpoints: Sequence[str],
        tls: RegistryTLS | None,
        *,
        timeout_s: float = 3.0,
        clock: Clock | None = None,
    ) -> None:
        self._tls = tls
        self._timeout_s = timeout_s
        self._clock: Clock = clock or SystemClock()
        self._links: dict[str, Link] = {}
        self._endpoints: tuple[str, ...] = ()
        self._current = 0
        self._set(endpoints)

    @property
    def endpoints(self) -> tuple[str, ...]:
        """The endpoints in use."""
        return self._endpoints

    def _set(self, endpoints: Sequence[str]) -> None:
        for url in endpoints:
            parse_endpoint(url)
        self._endpoints = tuple(dict.fromkeys(endpoints))
        self._current = 0

    async def set_endpoints(self, endpoints: Sequence[str]) -> None:
        """Use these endpoints from now on. Calls and watches on those that are gone end, and move on."""
        if tuple(dict.fromkeys(endpoints)) == self._endpoints:
            return
        keep = self._endpoints[self._current % len(self._endpoints)] if self._endpoints else ""
        self._set(endpoints)
        if keep in self._endpoints:
            self._current = self._endpoints.index(keep)
        for url in [u for u in self._links if u not in self._endpoints]:
            await self._links.pop(url).close()

    async def set_tls(self, tls: RegistryTLS | None) -> None:
        """Use a renewed certificate: open connections are closed, watches resume with the new one."""
        if tls == self._tls:
            return
        self._tls = tls
        links, self._links = list(self._links.values()), {}
        for link in links:
            await link.close()

    async def close(self) -> None:
        """Close every connection."""
        links, self._links = list(self._links.values()), {}
        for link in links:
            await link.close()

    def link(self, url: str) -> Link:
        """The connection to one endpoint, for calls that are about that member."""
        if url not in self._links:
            self._links[url] = Link(url, self._tls)
        return self._links[url]

    def _next_link(self) -> Link:
        if not self._endpoints:
            raise RegistryUnavailable("no etcd endpoint is known")
        return self.link(self._endpoints[self._current % len(self._endpoints)])

    def _move_on(self, failed: Link) -> None:
        """Another call may have moved on already; only the one that saw the current endpoint fail does."""
        if self._endpoints and self._endpoints[self._current % len(self._endpoints)] == failed.url:
            self._current = (self._current + 1) % len(self._endpoints)

    async def call(self, what: Callable[[Link, float], Awaitable[T]], timeout_s: float | None = None) -> T:
        """Do ``what`` (given a link and a deadline in seconds) on one endpoint after the other until one answers.

        Every call here may be repeated: reads, fenced transactions, changes that find themselves already done.
        """
        deadline = self._clock.monotonic() + (timeout_s or self._timeout_s) * max(1, len(self._endpoints))
        error: Exception | None = None
        for _ in range(max(1, len(self._endpoints))):
            left_s = min(timeout_s or self._timeout_s, deadline - self._clock.monotonic())
            if left_s <= 0:
                break
            link = self._next_link()
            try:
                return await self.on(link, what, left_s)
            except RegistryUnavailable as exc:
                error = exc
                self._move_on(link)
        raise error or RegistryUnavailable("etcd does not answer in time")

    @staticmethod
    async def on(link: Link, what: Callable[[Link, float], Awaitable[T]], timeout_s: float) -> T:
        """Do ``what`` on this endpoint and no other."""
        try:
            return await what(link, timeout_s)
        except grpc.aio.AioRpcError as exc:
            raise translate(exc, link.url) from exc
        except grpc.aio.UsageError as exc:
            raise RegistryUnavailable(f"the connection to etcd at {link.url} was closed") from exc
        except asyncio.CancelledError as exc:
            if not link.lost():
                raise
            raise RegistryUnavailable(f"the connection to etcd at {link.url} was closed") from exc

    async def get(self, key: bytes) -> KeyValue | None:
        """The key's value, or None."""
        response = await self.call(lambda ln, t: ln.kv.Range(rpc_pb2.RangeRequest(key=key), timeout=t))
        return _key_value(response.kvs[0]) if response.kvs else None

    async def list(self, prefix: bytes, page_keys: int = _PAGE_KEYS) -> Listing:
        """Every key that begins with ``prefix``, in pages, all as of one revision."""
        found: list[KeyValue] = []
        start, revision, cluster_id = prefix, 0, 0
        while True:
            request = rpc_pb2.RangeRequest(
                key=start, range_end=prefix_end(prefix), limit=page_keys, revision=revision
            )
            response = await self.call(lambda ln, t, r=request: ln.kv.Range(r, timeout=t))  # type: ignore[misc]
            if cluster_id and response.header.cluster_id != cluster_id:
                raise RegistryCompacted("etcd was replaced by a new cluster during a listing")
            revision, cluster_id = revision or response.header.revision, response.header.cluster_id
            found.extend(_key_value(kv) for kv in response.kvs)
            if not response.more:
                return Listing(tuple(found), revision, cluster_id)
            start = found[-1].key + b"\0"

    async def put(self, key: bytes, value: bytes) -> int:
        """Write one key; the revision that did it."""
        response = await self.call(lambda ln, t: ln.kv.Put(rpc_pb2.PutRequest(key=key, value=value), timeout=t))
        return int(response.header.revision)

    async def txn(
        self, compares: Sequence[Compare], puts: Sequence[tuple[bytes, bytes]], deletes: Sequence[bytes]
    ) -> TxnResult:
        """If all ``compares`` hold, do all puts and deletes at one revision; else do nothing."""
        request = rpc_pb2.TxnRequest(
            compare=[_compare(c) for c in compares],
            success=[
                *(rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=k, value=v)) for k, v in puts),
                *(rpc_pb2.RequestOp(request_delete_range=rpc_pb2.DeleteRangeRequest(key=k)) for k in deletes),
            ],
        )
        response = await self.call(lambda ln, t: ln.kv.Txn(request, timeout=t))
        return TxnResult(bool(response.succeeded), int(response.header.revision), int(response.header.cluster_id))

    async def compact(self, revision: int) -> None:
        """Forget the history before ``revision``."""
        request = rpc_pb2.CompactionRequest(revision=revision)
        await self.call(lambda ln, t: ln.kv.Compact(request, timeout=t))

    async def watch(self, prefix: bytes, start_revision: int) -> AsyncGenerator[WatchBatch, None]:
        """The changes under ``prefix`` from ``start_revision`` on, from one endpoint until it fails.

        Yields an empty batch once etcd has accepted the watch. Raises RegistryUnavailable when the endpoint is
        lost (the next watch tries the next one) and RegistryCompacted when the history is gone. ``follow``
        builds on it.
        """
        link = self._next_link()
        create = rpc_pb2.WatchCreateRequest(
            key=prefix,
            range_end=prefix_end(prefix),
            start_revision=start_revision,
            progress_notify=True,
            fragment=True,
        )
        stream = link.watch.Watch(metadata=_REQUIRE_LEADER)
        try:
            pending: list[Change] = []
            revision = start_revision - 1
            async with asyncio.timeout(self._timeout_s):  # from here on keepalive notices a silent host
                await stream.write(rpc_pb2.WatchRequest(create_request=create))
                response = await stream.read()
            while True:
                if not isinstance(response, rpc_pb2.WatchResponse):  # gRPC's mark for the end of the stream
                    raise RegistryUnavailable(f"etcd at {link.url} ended the watch")
                if response.canceled:
                    if response.compact_revision:
                        raise RegistryCompacted("etcd compacted the watched history")
                    if "permission denied" in response.cancel_reason:
                        raise RegistryDenied(f"etcd at {link.url} does not allow the watch")
                    raise RegistryUnavailable(f"etcd at {link.url} ended the watch: {response.cancel_reason}")
                for event in response.events:
                    deleted = event.type == kv_pb2.Event.DELETE
                    pending.append(Change(event.kv.key, None if deleted else event.kv.value))
                    revision = max(revision, event.kv.mod_revision)
                if not response.fragment:
                    if not response.events and not response.created:
                        # A progress note: everything up to the header's revision has been sent.
                        revision = max(revision, response.header.revision)
                    header = response.header
                    yield WatchBatch(tuple(pending), revision, header.revision, header.cluster_id)
                    pending = []
                response = await stream.read()
        except grpc.aio.AioRpcError as exc:
            self._move_on(link)
            raise translate(exc, link.url) from exc
        except grpc.aio.UsageError as exc:
            raise RegistryUnavailable(f"the connection to etcd at {link.url} was closed") from exc
        except asyncio.CancelledError as exc:
            if not link.lost():
                raise
            raise RegistryUnavailable(f"the connection to etcd at {link.url} was closed") from exc
        except TimeoutError as exc:
            self._move_on(link)
            raise RegistryUnavailable(f"etcd at {link.url} does not accept the watch in time") from exc
        except RegistryUnavailable:
            self._move_on(link)
            raise
        finally:
            stream.cancel()


def _key_value(kv: Any) -> KeyValue:
    return KeyValue(kv.key, kv.value, kv.mod_revision)


def _compare(condition: Compare) -> Any:
    if condition.less_than is None:
        return rpc_pb2.Compare(
            key=condition.key,
            target=rpc_pb2.Compare.CREATE,
            result=rpc_pb2.Compare.EQUAL,
            create_revision=0,
        )
    return rpc_pb2.Compare(
        key=condition.key,
        target=rpc_pb2.Compare.VALUE,
        result=rpc_pb2.Compare.LESS,
        value=condition.less_than,
    )
