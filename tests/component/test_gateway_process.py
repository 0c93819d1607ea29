"""The gateway as the daemon runs it: its socket, its end, and how it speaks to daemon and manager."""

import asyncio
import os
import signal
import stat
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from support.gateway_fakes import FakeNode, run
from support.pki import Pki

from pyswarm.common.errors import FailedPrecondition, InvalidArgument, Unavailable
from pyswarm.common.nodecontrol import InitOptions, JoinOptions, NodeInfo
from pyswarm.common.tasks import TaskGroupOwner
from pyswarm.common.tls import TLSIdentity
from pyswarm.common.types import ClusterSpec
from pyswarm.gateway.connector import ManagerConnector
from pyswarm.gateway.node_client import NodeClient
from pyswarm.proto.errors import abort_with
from pyswarm.proto.v1 import node_pb2, node_pb2_grpc


class Daemon(node_pb2_grpc.NodeControlServicer):  # type: ignore[misc]
    """NodeControl over gRPC in front of the fake node."""

    def __init__(self, node: FakeNode) -> None:
        self.node = node
        self.last: Any = None

    async def Info(self, _request: Any, _context: Any) -> Any:
        s = self.node.state
        return node_pb2.NodeInfo(
            local_state=s.local_state,
            node_id=s.node_id,
            role=s.role,
            addr=s.addr,
            engine=s.engine,
            certs_dir=s.certs_dir,
            manager_addrs=s.manager_addrs,
        )

    async def Init(self, request: Any, context: Any) -> Any:
        self.last = request
        try:
            return node_pb2.InitReply(node_id=await self.node.init(InitOptions()))
        except FailedPrecondition as exc:
            await abort_with(context, exc)

    async def Join(self, request: Any, context: Any) -> Any:
        options = JoinOptions(remote_addrs=tuple(request.remote_addrs), token=request.token)
        try:
            await self.node.join(options)
        except InvalidArgument as exc:
            await abort_with(context, exc)
        return node_pb2.JoinReply()

    async def Leave(self, request: Any, context: Any) -> Any:
        try:
            return node_pb2.LeaveReply(warning=await self.node.leave(request.force))
        except FailedPrecondition as exc:
            await abort_with(context, exc)


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Daemon]:
    """A daemon's socket at ``node.sock``."""
    daemon = Daemon(FakeNode("unix:///nonexistent.sock"))
    server = grpc.aio.server()
    node_pb2_grpc.add_NodeControlServicer_to_server(daemon, server)
    server.add_insecure_port(f"unix://{tmp_path}/node.sock")
    await server.start()
    yield daemon
    await server.stop(grace=None)


async def test_the_node_client_carries_everything_both_ways(daemon: Daemon, tmp_path: Path) -> None:
    client = NodeClient(f"{tmp_path}/node.sock")
    try:
        assert (await client.info()).local_state == "inactive"
        options = InitOptions(
            advertise_addr="192.0.2.1",
            default_addr_pool=("10.20.0.0/16",),
            subnet_size=26,
            spec=ClusterSpec(task_history_limit=2),
            etcd_endpoints=("https://x:2379",),
        )
        node_id = await client.init(options)
        info = await client.info()
        assert info.is_manager
        assert (info.node_id, info.manager_addrs) == (node_id, ("10.99.0.1:2377",))
        assert (daemon.last.advertise_addr, list(daemon.last.default_addr_pool)) == ("192.0.2.1", ["10.20.0.0/16"])
        assert list(daemon.last.etcd_endpoints) == ["https://x:2379"]
        with pytest.raises(FailedPrecondition, match="already part of a swarm"):
            await client.init(options)
        with pytest.raises(FailedPrecondition, match="--force"):
            await client.leave(force=False)
        daemon.node.leave_warning = "containers stay"
        assert await client.leave(force=True) == "containers stay"
        with pytest.raises(InvalidArgument, match="valid join token"):
            await client.join(JoinOptions(remote_addrs=("192.0.2.1:2377",), token="x"))
    finally:
        await client.close()


async def test_a_daemon_that_is_away_is_named(tmp_path: Path) -> None:
    client = NodeClient(f"{tmp_path}/nobody.sock")
    try:
        with pytest.raises(Unavailable, match="pyswarmd on this host does not answer"):
            await client.info()
    finally:
        await client.close()


class Connected:
    """Remembers what it was made with."""

    def __init__(self, identity: TLSIdentity, addr: str) -> None:
        self.identity, self.addr, self.closed = identity, addr, False

    async def close(self) -> None:
        self.closed = True


async def test_a_renewed_certificate_is_picked_up(tmp_path: Path) -> None:
    pki, tasks = Pki(), TaskGroupOwner("test")
    connect: Any = Connected
    connector = ManagerConnector(connect, tasks)
    pki.identity("manager", "a").save(tmp_path)
    info = NodeInfo(local_state="active", role="manager", addr="192.0.2.1", certs_dir=str(tmp_path))
    first: Any = await connector(info)
    assert (first.addr, first.identity.node_id) == ("192.0.2.1:2377", "a")
    assert await connector(info) is first
    pki.identity("manager", "b").save(tmp_path)
    second: Any = await connector(info)
    assert second.identity.node_id == "b"
    assert not first.closed, "its last calls may still be under way"
    await tasks.stop()
    await connector.close()
    assert (first.closed, second.closed) == (True, True)
    with pytest.raises(Unavailable, match="certificate"):
        await connector(NodeInfo(certs_dir="/nonexistent"))


@pytest.mark.parametrize("end", ["stdin", "SIGTERM"])
async def test_the_process_serves_and_ends_with_its_daemon(daemon: Daemon, tmp_path: Path, end: str) -> None:
    path = tmp_path / "docker.sock"
    path.touch()  # left behind by one that was killed
    process = await asyncio.create_subprocess_exec(
        *(
            sys.executable,
            "-m",
            "pyswarm.gateway",
            "--socket",
            str(path),
            "--node-socket",
            f"{tmp_path}/node.sock",
        ),
        stdin=PIPE,
        stderr=PIPE,
    )
    assert process.stdin is not None
    try:
        async with asyncio.timeout(20):
            while not stat.S_ISSOCK(os.stat(path).st_mode):
                assert process.returncode is None, (await process.stderr.read()).decode()  # type: ignore[union-attr]
                await asyncio.sleep(0.02)
            assert stat.S_IMODE(os.stat(path).st_mode) in (0o600, 0o660)
            code, out, err = await run("pyswarm", "info", PYSWARM_HOST=f"unix://{path}")
            assert (code, "Swarm: inactive" in out) == (0, True), err
            code, _, err = await run("pyswarm", "swarm", "leave", PYSWARM_HOST=f"unix://{path}")
            assert (code, err) == (0, "")
            if end == "stdin":
                process.stdin.close()
            else:
                process.send_signal(signal.SIGTERM)
            assert await process.wait() == 0
        assert not path.exists()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
