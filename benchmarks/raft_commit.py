"""Commits of three managers as three processes over mutual TLS, and failover after kill -9 of the leader.

Prints JSON. The writers are in the leader's process, so this is Raft, network and disks without the
control API. Usage: ``python benchmarks/raft_commit.py [FOLDER]``; the folder decides which disk is measured.
"""

import asyncio
import json
import signal
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc.aio

from pyswarm.common.csr import new_key_and_request
from pyswarm.common.errors import PyswarmError
from pyswarm.common.ids import new_id
from pyswarm.common.tls import TLSIdentity
from pyswarm.manager.ca.authority import create_root, sign_node_certificate
from pyswarm.manager.peers import PeerNetwork, PeerReceiver
from pyswarm.manager.raft import Member, RaftConfig, RaftNode
from pyswarm.proto.v1 import raft_pb2_grpc

WRITES = {1: 1500, 32: 10_000, 256: 20_000}
FAILOVERS = 5


class _Nothing:
    """A state machine without state."""

    def apply(self, _index: int, _command: bytes) -> bytes:
        return b""

    def snapshot(self) -> Callable[[], bytes]:
        return lambda: b""

    def restore(self, _data: bytes, _index: int) -> None:
        pass


class _Servicer(raft_pb2_grpc.RaftServicer):
    def __init__(self, node: RaftNode) -> None:
        self._receiver = PeerReceiver(node.deliver)

    async def Stream(self, request_iterator: Any, context: Any) -> Any:
        return await self._receiver.stream(request_iterator, context)


async def member(folder: Path, addr: str, members: list[str]) -> None:
    """One manager; commands come on stdin, answers go to stdout."""
    identity = TLSIdentity.load(folder / "certs")
    network = PeerNetwork(identity)
    initial = None
    if members:
        initial = [Member(*m.split("@")) for m in members]
    config = RaftConfig(str(folder / "raft"), identity.node_id, addr)
    node = RaftNode(config, _Nothing(), network, initial_members=initial)
    network.on_connected, network.on_disconnected = node.peer_connected, node.peer_disconnected
    server = grpc.aio.server()
    raft_pb2_grpc.add_RaftServicer_to_server(_Servicer(node), server)
    server.add_secure_port(addr, identity.server_credentials())
    await server.start()
    network.start()
    await node.start()
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    print(json.dumps({"started": True}), flush=True)
    while line := (await reader.readline()).decode().split():
        answer: dict[str, object] = {}
        if line[0] == "leads":
            answer = {"leads": node.is_leader, "term": node.term}
        elif line[0] == "write":
            answer = await _write_after_leader(node)
        elif line[0] == "load":
            answer = await _load(node, int(line[1]))
        elif line[0] == "cpu":
            answer = {"cpu_s": time.process_time()}
        print(json.dumps(answer), flush=True)


async def _write_after_leader(node: RaftNode) -> dict[str, object]:
    """After the leader is gone: when this node's first write was acknowledged, nothing if another took over."""
    term, until = node.term, time.monotonic() + 15
    while time.monotonic() < until:
        try:
            await node.propose(b"x" * 300, timeout_s=5)
            return {"at": time.time()}
        except PyswarmError:
            if node.term > term and node.leader is not None and node.leader.node_id != node.node_id:
                return {}
            await asyncio.sleep(0.005)
    return {}


async def _load(node: RaftNode, outstanding: int) -> dict[str, object]:
    took: list[float] = []
    left = iter(range(WRITES[outstanding]))

    async def writer() -> None:
        for _ in left:
            began = time.perf_counter()
            await node.propose(b"x" * 300, timeout_s=30)
            took.append(time.perf_counter() - began)

    began = time.perf_counter()
    await asyncio.gather(*(writer() for _ in range(outstanding)))
    elapsed = time.perf_counter() - began
    took.sort()
    return {
        "ops_per_s": round(len(took) / elapsed),
        "p50_ms": round(took[len(took) // 2] * 1e3, 2),
        "p99_ms": round(took[len(took) * 99 // 100] * 1e3, 2),
    }


class _Process:
    def __init__(self, folder: Path, node_id: str, addr: str) -> None:
        self.folder, self.node_id, self.addr = folder, node_id, addr
        self.process: asyncio.subprocess.Process | None = None

    async def start(self, members: list[str]) -> None:
        arguments = [__file__, "member", str(self.folder), self.addr, *members]
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, *arguments, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        await self._answer()

    async def _answer(self) -> dict[str, object]:
        assert self.process is not None
        assert self.process.stdout is not None
        answer: dict[str, object] = json.loads(await asyncio.wait_for(self.process.stdout.readline(), 90))
        return answer

    async def ask(self, command: str) -> dict[str, object]:
        assert self.process is not None
        assert self.process.stdin is not None
        self.process.stdin.write(command.encode() + b"\n")
        return await self._answer()

    async def kill(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        await self.process.wait()


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


async def _leader(processes: list[_Process]) -> _Process:
    until = time.monotonic() + 15
    while time.monotonic() < until:
        for process in processes:
            if (await process.ask("leads"))["leads"]:
                return process
        await asyncio.sleep(0.01)
    raise SystemExit("no leader")


async def main(folder: Path) -> None:
    """Measure and print."""
    cluster_id = new_id()
    ca, ca_key = create_root(cluster_id)
    processes = []
    for _ in range(3):
        node_id = new_id()
        key, request = new_key_and_request()
        certificate = sign_node_certificate(
            root_cert_pem=ca,
            root_key_pem=ca_key,
            csr_pem=request,
            node_id=node_id,
            role="manager",
            cluster_id=cluster_id,
            life_s=86400,
        )
        TLSIdentity(ca, certificate, key).save(folder / node_id / "certs")
        processes.append(_Process(folder / node_id, node_id, f"127.0.0.1:{_free_port()}"))
    result: dict[str, object] = {}
    try:
        everybody = [f"{p.node_id}@{p.addr}" for p in processes]
        for process in processes:
            await process.start(everybody)
        leader = await _leader(processes)
        for outstanding in WRITES:
            result[f"commits_{outstanding}_outstanding"] = await leader.ask(f"load {outstanding}")
        before = [(await p.ask("cpu"))["cpu_s"] for p in processes]
        await asyncio.sleep(5)
        after = [(await p.ask("cpu"))["cpu_s"] for p in processes]
        result["idle_cpu_percent"] = [
            round((float(str(b)) - float(str(a))) / 5 * 100, 2) for a, b in zip(before, after, strict=True)
        ]
        gaps = []
        for _ in range(FAILOVERS):
            leader = await _leader(processes)
            others = [p for p in processes if p is not leader]
            asked = [asyncio.ensure_future(p.ask("write")) for p in others]
            began = time.time()
            await leader.kill()
            times = [float(str(a["at"])) for a in await asyncio.gather(*asked) if a]
            gaps.append(min(times) - began)
            await leader.start([])
            await asyncio.sleep(1)
        result["failover_s"] = {"median": round(statistics.median(gaps), 3), "max": round(max(gaps), 3)}
    finally:
        for process in processes:
            if process.process is not None and process.process.returncode is None:
                await process.kill()
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    if sys.argv[1:2] == ["member"]:
        asyncio.run(member(Path(sys.argv[2]), sys.argv[3], sys.argv[4:]))
    else:
        with tempfile.TemporaryDirectory(dir=sys.argv[1] if sys.argv[1:] else None) as made:
            asyncio.run(main(Path(made)))
