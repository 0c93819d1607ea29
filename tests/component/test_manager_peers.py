"""Streams between managers: who is let in, who is told that it was left behind, and what waits for that."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc.aio
import pytest
from support.managers import eventually
from support.pki import Pki

from pyswarm.common.errors import FailedPrecondition, LeftBehind
from pyswarm.common.tls import SERVER_OPTIONS
from pyswarm.manager import peers
from pyswarm.manager.peers import GENERATION_KEY, PeerNetwork, PeerReceiver, check_generation
from pyswarm.manager.raft import Generation
from pyswarm.proto.roles import RoleInterceptor
from pyswarm.proto.v1 import raft_pb2_grpc

OLD, NEW, OTHER = Generation(), Generation(1, "a"), Generation(1, "b")


class Listener(raft_pb2_grpc.RaftServicer):
    """A manager's listener, which remembers what it heard."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, bytes]] = []
        self._receiver = PeerReceiver(lambda sender, payload: self.heard.append((sender, payload)))

    async def Stream(self, request_iterator: Any, context: Any) -> Any:
        return await self._receiver.stream(request_iterator, context)


class Stand:
    """One sender and any number of listeners."""

    def __init__(self, pki: Pki, generation: Generation) -> None:
        self.pki = pki
        self.sender = PeerNetwork(pki.identity("manager"), lambda: generation)
        self.left_behind: list[LeftBehind] = []
        self.sender.on_left_behind = self.left_behind.append
        self._servers: list[grpc.aio.Server] = []

    async def listen(self, generation: Generation) -> tuple[str, str, Listener]:
        identity = self.pki.identity("manager")
        listener = Listener()

        def guard(_method: str, metadata: Any) -> None:
            check_generation(metadata.get(GENERATION_KEY, ""), generation)

        interceptor = RoleInterceptor(self.pki.cluster_id, lambda _node_id: False, guard=guard)
        server = grpc.aio.server(interceptors=(interceptor,), options=SERVER_OPTIONS)
        raft_pb2_grpc.add_RaftServicer_to_server(listener, server)
        port = server.add_secure_port("127.0.0.1:0", identity.server_credentials())
        await server.start()
        self._servers.append(server)
        return identity.node_id, f"127.0.0.1:{port}", listener

    async def stop(self) -> None:
        await self.sender.stop()
        for server in self._servers:
            await server.stop(grace=None)


@asynccontextmanager
async def stand(generation: Generation) -> AsyncIterator[Stand]:
    made = Stand(Pki(), generation)
    made.sender.start()
    try:
        yield made
    finally:
        await made.stop()


@pytest.mark.parametrize("generation", [OLD, NEW])
async def test_managers_of_one_generation_hear_each_other(generation: Generation) -> None:
    async with stand(generation) as s:
        node_id, addr, listener = await s.listen(generation)
        assert not s.sender.is_connected(node_id)
        s.sender.send(node_id, addr, b"one")
        s.sender.send(node_id, addr, b"two")
        await eventually(lambda: [p for _, p in listener.heard] == [b"one", b"two"], "both messages")
        assert s.sender.is_connected(node_id)


async def test_a_manager_of_an_older_generation_is_told_what_to_do_and_never_heard() -> None:
    async with stand(OLD) as s:
        node_id, addr, listener = await s.listen(NEW)
        s.sender.send(node_id, addr, b"vote for me")
        await eventually(lambda: s.left_behind, "the sender is told")
        assert "swarm leave --force" in str(s.left_behind[0])
        assert "join again" in str(s.left_behind[0])
        assert not s.sender.is_connected(node_id)
        assert listener.heard == []


async def test_two_rescues_that_knew_nothing_of_each_other_stay_apart() -> None:
    async with stand(NEW) as s:
        node_id, addr, listener = await s.listen(OTHER)
        s.sender.send(node_id, addr, b"vote for me")
        await eventually(lambda: "another swarm" in s.sender.refusal_of(node_id), "the sender is refused")
        assert not s.sender.is_connected(node_id)
        assert (s.left_behind, listener.heard) == ([], [])


async def test_nothing_is_said_to_anybody_before_all_have_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two old managers that come back together none may win the other's vote before the new one is asked."""
    monkeypatch.setattr(peers, "GREETING_S", 5.0)
    async with stand(OLD) as s:
        old_id, old_addr, old = await s.listen(OLD)
        new_id, new_addr, new = await s.listen(NEW)
        refused: list[int] = []
        s.sender.on_left_behind = lambda _error: refused.append(len(old.heard))
        s.sender.send(old_id, old_addr, b"vote for me")
        s.sender.send(new_id, new_addr, b"vote for me")
        await eventually(lambda: refused, "the sender is told")
        assert refused[0] == 0
        assert new.heard == []


async def test_a_manager_that_is_away_holds_the_others_up_for_a_moment_only() -> None:
    async with stand(OLD) as s:
        node_id, addr, listener = await s.listen(OLD)
        s.sender.send("gone", "127.0.0.1:1", b"hello")
        s.sender.send(node_id, addr, b"hello")
        await eventually(lambda: listener.heard, "the other hears it", timeout_s=peers.GREETING_S + 2)
        assert not s.sender.is_connected("gone")


def test_what_a_generation_is_answered() -> None:
    check_generation("", OLD)
    check_generation("1.a", NEW)
    with pytest.raises(LeftBehind):
        check_generation("", NEW)
    with pytest.raises(FailedPrecondition, match="another swarm") as caught:
        check_generation("1.b", NEW)
    assert not isinstance(caught.value, LeftBehind)
    with pytest.raises(FailedPrecondition, match="another swarm"):
        check_generation("1.a", OLD)
    with pytest.raises(FailedPrecondition, match="cannot be read"):
        check_generation("x.y", OLD)
