"""Raft's network: one gRPC stream per peer, opened by the sender, authenticated both ways.

Raft calls ``send`` from its own thread; everything else happens on the manager's loop. A queue per peer is
bounded: what does not fit is dropped, as on any network, and Raft sends it again.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import grpc.aio

from pyswarm.common.log import get_logger
from pyswarm.common.tasks import TaskGroupOwner
from pyswarm.common.tls import TLSIdentity, peer_identity
from pyswarm.proto.v1 import raft_pb2, raft_pb2_grpc

log = get_logger("peers")

MAX_QUEUED_BYTES = 64 * 1024 * 1024
RECONNECT_DELAY_S = 0.1


class _Peer:
    """The sending side towards one manager."""

    def __init__(self, node_id: str, addr: str) -> None:
        self.node_id = node_id
        self.addr = addr
        self.queue: asyncio.Queue[bytes] = asyncio.Queue()
        self.queued_bytes = 0
        self.task: asyncio.Task[Any] | None = None


class PeerNetwork:
    """Implements ``manager.raft.PeerSender``.

    ``on_connected`` and ``on_disconnected`` are called with a node id, on the loop.
    """

    def __init__(self, identity: TLSIdentity) -> None:
        self._identity = identity
        self._peers: dict[str, _Peer] = {}
        self._owner = TaskGroupOwner("peers")
        self._loop: asyncio.AbstractEventLoop | None = None
        self.on_connected: Callable[[str], None] = lambda _node_id: None
        self.on_disconnected: Callable[[str], None] = lambda _node_id: None

    def start(self) -> None:
        """Bind to the running loop."""
        self._loop = asyncio.get_running_loop()

    async def stop(self) -> None:
        """Close every stream."""
        self._loop = None
        await self._owner.stop()
        self._peers.clear()

    def send(self, node_id: str, addr: str, payload: bytes) -> bool:
        """Queue one message; thread-safe, never blocks. False once stopped."""
        loop = self._loop
        if loop is None:
            return False
        try:
            loop.call_soon_threadsafe(self._enqueue, node_id, addr, payload)
        except RuntimeError:
            return False  # the loop closed between the look and the call
        return True

    def forget(self, node_id: str) -> None:
        """The member was removed: close its stream. Thread-safe."""
        loop = self._loop
        if loop is not None:
            loop.call_soon_threadsafe(self._drop, node_id)

    def _drop(self, node_id: str) -> None:
        peer = self._peers.pop(node_id, None)
        if peer is not None and peer.task is not None:
            peer.task.cancel()

    def _enqueue(self, node_id: str, addr: str, payload: bytes) -> None:
        if self._loop is None:
            return
        peer = self._peers.get(node_id)
        if peer is None or peer.addr != addr:
            self._drop(node_id)
            peer = self._peers[node_id] = _Peer(node_id, addr)
            peer.task = self._owner.spawn(self._run(peer), f"to-{node_id}")
        if peer.queued_bytes + len(payload) > MAX_QUEUED_BYTES:
            return
        peer.queued_bytes += len(payload)
        peer.queue.put_nowait(payload)

    async def _run(self, peer: _Peer) -> None:
        while True:
            channel = self._identity.channel(peer.addr, expect=peer.node_id)
            try:
                await asyncio.wait_for(channel.channel_ready(), timeout=5.0)
                self.on_connected(peer.node_id)
                stub = raft_pb2_grpc.RaftStub(channel)
                await stub.Stream(self._messages(peer))
            except (grpc.aio.AioRpcError, TimeoutError):
                pass  # the peer is down or restarting; Raft's own timeouts say what that means
            finally:
                await channel.close(grace=None)
                self.on_disconnected(peer.node_id)
            # What waited for a peer that was away is stale: Raft sends what is needed now.
            while not peer.queue.empty():
                peer.queued_bytes -= len(peer.queue.get_nowait())
            await asyncio.sleep(RECONNECT_DELAY_S)

    async def _messages(self, peer: _Peer) -> AsyncIterator[raft_pb2.RaftMessage]:
        while True:
            payload = await peer.queue.get()
            peer.queued_bytes -= len(payload)
            yield raft_pb2.RaftMessage(payload=payload)


class PeerReceiver:
    """The receiving side: hands each message to Raft with the sender its certificate names."""

    def __init__(self, deliver: Callable[[str, bytes], None]) -> None:
        self._deliver = deliver

    async def stream(
        self,
        messages: AsyncIterator[raft_pb2.RaftMessage],
        context: "grpc.aio.ServicerContext[raft_pb2.RaftMessage, raft_pb2.RaftStreamEnd]",
    ) -> raft_pb2.RaftStreamEnd:
        """Read until the peer goes."""
        sender = peer_identity(context).node_id
        async for message in messages:
            self._deliver(sender, message.payload)
        return raft_pb2.RaftStreamEnd()
