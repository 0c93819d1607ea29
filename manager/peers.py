"""Raft's network: one gRPC stream per peer, opened by the sender, authenticated both ways.

Raft calls ``send`` from its own thread; everything else happens on the manager's loop. A queue per peer is
bounded: what does not fit is dropped, as on any network, and Raft sends it again.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import grpc.aio

from pyswarm.common.errors import FailedPrecondition, LeftBehind
from pyswarm.common.log import get_logger
from pyswarm.common.tasks import TaskGroupOwner
from pyswarm.common.tls import TLSIdentity, peer_identity
from pyswarm.manager.raft import Generation, parse_generation
from pyswarm.proto.errors import answered, error_from_rpc
from pyswarm.proto.v1 import raft_pb2, raft_pb2_grpc

log = get_logger("peers")

MAX_QUEUED_BYTES = 64 * 1024 * 1024
RECONNECT_DELAY_S = 0.1
#: A peer that refuses does so for a reason that seldom goes away.
REFUSED_DELAY_S = 1.0
#: Metadata of a stream: the generation of the Raft group the sender belongs to.
GENERATION_KEY = "pyswarm-generation"
#: Metadata with which a stream is taken.
ACCEPTED_KEY = "pyswarm-accepted"
#: How long a manager that starts waits for each of the others to take or refuse its stream.
GREETING_S = 1.0
ACCEPT_LIMIT_S = 2.0


class _Peer:
    """The sending side towards one manager."""

    def __init__(self, node_id: str, addr: str) -> None:
        self.node_id = node_id
        self.addr = addr
        self.queue: asyncio.Queue[bytes] = asyncio.Queue()
        self.queued_bytes = 0
        self.connected = False
        #: Set once it took or refused a stream, or could not be reached.
        self.tried = asyncio.Event()
        self.refusal = ""
        self.task: asyncio.Task[Any] | None = None


class PeerNetwork:
    """Implements ``manager.raft.PeerSender``.

    ``on_connected`` and ``on_disconnected`` are called with a node id, on the loop; ``on_left_behind`` when a peer
    says that this manager's Raft group is not the swarm's any more. ``generation`` is this manager's.

    The first messages wait until every manager they are for took or refused its stream, or a second has passed:
    of several managers that were left behind by a rescue and come back together, none may lead the others before
    they have been told.
    """

    def __init__(self, identity: TLSIdentity, generation: Callable[[], Generation] = Generation) -> None:
        self._identity = identity
        self._generation = generation
        self._peers: dict[str, _Peer] = {}
        self._owner = TaskGroupOwner("peers")
        self._greeted = asyncio.Event()
        self._greeting = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self.on_connected: Callable[[str], None] = lambda _node_id: None
        self.on_disconnected: Callable[[str], None] = lambda _node_id: None
        self.on_left_behind: Callable[[LeftBehind], None] = lambda _error: None

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

    def is_connected(self, node_id: str) -> bool:
        """Whether a stream towards that manager is open."""
        peer = self._peers.get(node_id)
        return peer is not None and peer.connected

    def refusal_of(self, node_id: str) -> str:
        """Why that manager takes no stream of this one, or nothing."""
        peer = self._peers.get(node_id)
        return peer.refusal if peer is not None else ""

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
            if not self._greeting:
                self._greeting = True
                self._owner.spawn(self._greet(), "greet")
        if peer.queued_bytes + len(payload) > MAX_QUEUED_BYTES:
            return
        peer.queued_bytes += len(payload)
        peer.queue.put_nowait(payload)

    async def _greet(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GREETING_S):
                # Raft's first round is in the table by now: its messages were handed over in one go.
                for peer in list(self._peers.values()):
                    await peer.tried.wait()
        self._greeted.set()

    async def _run(self, peer: _Peer) -> None:
        while True:
            channel = self._identity.channel(peer.addr, expect=peer.node_id)
            delay_s = RECONNECT_DELAY_S
            try:
                await asyncio.wait_for(channel.channel_ready(), timeout=5.0)
                stub = raft_pb2_grpc.RaftStub(channel)
                generation = self._generation().encoded
                call = stub.Stream(self._messages(peer), metadata=((GENERATION_KEY, generation),))
                # Who refuses ends the call without it.
                first = await asyncio.wait_for(call.initial_metadata(), timeout=ACCEPT_LIMIT_S)
                if any(key == ACCEPTED_KEY for key, _ in first or ()):
                    peer.connected, peer.refusal = True, ""
                    peer.tried.set()
                    self.on_connected(peer.node_id)
                await call
            except grpc.aio.AioRpcError as exc:
                # Else the peer is down or restarting; Raft's own timeouts say what that means.
                if answered(exc):
                    delay_s = REFUSED_DELAY_S
                    self._refused(peer, exc)
            except TimeoutError:
                pass
            finally:
                peer.tried.set()
                peer.connected = False
                await channel.close(grace=None)
                self.on_disconnected(peer.node_id)
            # What waited for a peer that was away is stale: Raft sends what is needed now.
            while not peer.queue.empty():
                peer.queued_bytes -= len(peer.queue.get_nowait())
            await asyncio.sleep(delay_s)

    def _refused(self, peer: _Peer, exc: grpc.aio.AioRpcError) -> None:
        error = error_from_rpc(exc, peer.addr)
        if str(error) != peer.refusal:
            peer.refusal = str(error)
            log.warning("another manager refuses this one", manager=peer.addr, reason=str(error))
        if isinstance(error, LeftBehind):
            self.on_left_behind(error)

    async def _messages(self, peer: _Peer) -> AsyncIterator[raft_pb2.RaftMessage]:
        await self._greeted.wait()
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
        # Tells the sender that it was let in.
        await context.send_initial_metadata(((ACCEPTED_KEY, "1"),))
        async for message in messages:
            self._deliver(sender, message.payload)
        return raft_pb2.RaftStreamEnd()


def check_generation(given: str, ours: Generation) -> None:
    """Refuse a sender of another Raft group, with what is to be done about it."""
    try:
        theirs = parse_generation(given)
    except ValueError as exc:
        raise FailedPrecondition("the sender's raft generation cannot be read") from exc
    if theirs == ours:
        return
    if theirs.number < ours.number:
        raise LeftBehind(
            "this manager was left behind: the swarm was made anew without it (swarm init --force-new-cluster on "
            "another manager). To take part again, run 'pyswarm swarm leave --force' on this node, then join again"
        )
    raise FailedPrecondition(
        f"the sender belongs to another swarm that --force-new-cluster made of this one ({theirs}, here {ours})"
    )
