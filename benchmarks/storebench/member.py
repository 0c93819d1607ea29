"""One manager's Raft and store in a process of its own, with a service by which a client reaches them.

The service is this benchmark's: it calls ``Store.update`` and ``RaftNode.propose`` and nothing else, so that what
is compared with etcd is storing, not the checks of the control API. That one is measured by itself (``configs``).
"""

import asyncio
import gc
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from pyswarm.common.clock import SystemClock
from pyswarm.common.errors import PyswarmError
from pyswarm.common.ids import new_id
from pyswarm.common.tls import SERVER_OPTIONS, TLSIdentity
from pyswarm.common.types import Config, ConfigSpec
from pyswarm.manager.main import SWITCH_INTERVAL_S
from pyswarm.manager.peers import PeerNetwork, PeerReceiver
from pyswarm.manager.raft import Member, RaftConfig, RaftNode
from pyswarm.manager.state import Store, Transaction
from pyswarm.proto.v1 import raft_pb2_grpc
from storebench.child import serve_questions
from storebench.figures import log, summary

SERVICE = "pyswarm.benchmark.Store"
VALUE = b"x" * 300
RETRY_S = 0.005
PATIENCE_S = 15.0


def be_like_a_manager() -> None:
    """The interpreter's settings of the manager process (``manager.main``)."""
    gc.freeze()
    gc.set_threshold(50_000, 50, 100)
    sys.setswitchinterval(SWITCH_INTERVAL_S)


async def nothing(_value: bytes) -> bytes:
    """What the RPC itself costs."""
    return b""


class _RaftServicer(raft_pb2_grpc.RaftServicer):
    def __init__(self, node: RaftNode) -> None:
        self._receiver = PeerReceiver(node.deliver)

    async def Stream(self, request_iterator: Any, context: Any) -> Any:
        return await self._receiver.stream(request_iterator, context)


class _Writes:
    """The two ways to store 300 bytes."""

    def __init__(self, node: RaftNode, store: Store) -> None:
        self._node = node
        self._store = store

    async def put(self, value: bytes) -> bytes:
        """A new object with ``value`` in it, as any component of the manager would store it."""
        object_id = new_id()
        new = Config(id=object_id, spec=ConfigSpec(name=object_id, data=value))

        def build(tx: Transaction) -> None:
            tx.create(new)

        await self._store.update(build, reason="benchmark")
        return object_id.encode()

    async def log(self, value: bytes) -> bytes:
        """A log entry, which the store refuses to understand: Raft without the store."""
        await self._node.propose(value, timeout_s=30)
        return b""


def _handler(call: Callable[[bytes], Awaitable[bytes]]) -> Any:
    async def answer(request: bytes, _context: Any) -> bytes:
        return await call(request)

    return grpc.unary_unary_rpc_method_handler(answer)


async def run(folder: Path, addr: str, members: list[str]) -> None:
    """Until standard input ends. ``members`` (id@address) are given at the first start."""
    be_like_a_manager()
    identity = TLSIdentity.load(folder / "certs")
    network = PeerNetwork(identity)
    store = Store(SystemClock())
    node = RaftNode(
        RaftConfig(str(folder / "raft"), identity.node_id, addr),
        store,
        network,
        initial_members=[Member(*m.split("@")) for m in members] if members else None,
        on_failure=lambda exc: log(f"raft of {addr} stopped: {exc}"),
    )
    store.bind(node.propose)
    network.on_connected, network.on_disconnected = node.peer_connected, node.peer_disconnected
    writes = _Writes(node, store)
    server = grpc.aio.server(options=SERVER_OPTIONS)
    raft_pb2_grpc.add_RaftServicer_to_server(_RaftServicer(node), server)
    methods = {"Put": _handler(writes.put), "Log": _handler(writes.log), "Nothing": _handler(nothing)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
    server.add_secure_port(addr, identity.server_credentials())
    network.start()
    await node.start()
    await server.start()

    async def answer(question: dict[str, Any]) -> dict[str, Any]:
        match question["what"]:
            case "state":
                return {"leads": node.is_leader, "term": node.term, "at": time.time()}
            case "write":
                return await _write_after_leader(node, writes)
            case "load":
                write = writes.put if question["through"] == "store" else writes.log
                return await load(write, question["outstanding"], question["seconds"])
            case unknown:
                raise ValueError(f"not a question: {unknown}")

    await serve_questions(answer)


async def load(write: Callable[[bytes], Awaitable[object]], outstanding: int, seconds: float) -> dict[str, float]:
    """So many writers, each waiting for its answer before it writes again, for a while."""
    took_s: list[float] = []
    began_s = time.perf_counter()
    until_s = began_s + seconds

    async def writer() -> None:
        while (start_s := time.perf_counter()) < until_s:
            await write(VALUE)
            took_s.append(time.perf_counter() - start_s)

    await asyncio.gather(*(writer() for _ in range(outstanding)))
    return summary(took_s, time.perf_counter() - began_s)


async def _write_after_leader(node: RaftNode, writes: _Writes) -> dict[str, Any]:
    """After the leader is gone: when this node's first write was acknowledged, nothing if another took over."""
    term, until_s = node.term, time.monotonic() + PATIENCE_S
    while time.monotonic() < until_s:
        try:
            await writes.put(VALUE)
            return {"at": time.time()}
        except PyswarmError:
            if node.term > term and node.leader is not None and node.leader.node_id != node.node_id:
                return {}
            await asyncio.sleep(RETRY_S)
    return {}
