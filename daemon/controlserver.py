"""NodeControl on the daemon's own socket. Only root, and with it the gateway, can reach it."""

from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import grpc.aio
import msgspec

from pyswarm.common.nodecontrol import InitOptions, JoinOptions, NodeControl
from pyswarm.common.types import ClusterSpec
from pyswarm.proto.errors import abort_with
from pyswarm.proto.v1 import node_pb2, node_pb2_grpc


class NodeControlServicer(node_pb2_grpc.NodeControlServicer):
    """Between the messages of ``node.proto`` and the options of ``common.nodecontrol``."""

    def __init__(self, node: NodeControl) -> None:
        self._node = node

    async def _guarded(self, context: Any, call: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        try:
            return await call()
        except Exception as exc:  # noqa: BLE001 - the boundary: every failure becomes an answer
            await abort_with(context, exc)

    async def Info(self, request: node_pb2.NodeInfoRequest, context: Any) -> Any:
        """What this node is."""

        async def call() -> node_pb2.NodeInfo:
            return node_pb2.NodeInfo(**msgspec.structs.asdict(await self._node.info()))

        return await self._guarded(context, call)

    async def Init(self, request: node_pb2.InitRequest, context: Any) -> Any:
        """Start a cluster."""

        async def call() -> node_pb2.InitReply:
            spec = msgspec.msgpack.decode(request.spec, type=ClusterSpec) if request.spec else ClusterSpec()
            options = InitOptions(
                advertise_addr=request.advertise_addr,
                listen_addr=request.listen_addr,
                default_addr_pool=tuple(request.default_addr_pool),
                subnet_size=request.subnet_size,
                data_path_port=request.data_path_port,
                availability=request.availability,
                force_new_cluster=request.force_new_cluster,
                spec=spec,
                etcd_endpoints=tuple(request.etcd_endpoints),
            )
            return node_pb2.InitReply(node_id=await self._node.init(options))

        return await self._guarded(context, call)

    async def Join(self, request: node_pb2.JoinRequest, context: Any) -> Any:
        """Join a cluster."""

        async def call() -> node_pb2.JoinReply:
            info = await self._node.join(
                JoinOptions(
                    remote_addrs=tuple(request.remote_addrs),
                    token=request.token,
                    advertise_addr=request.advertise_addr,
                    listen_addr=request.listen_addr,
                    availability=request.availability,
                )
            )
            return node_pb2.JoinReply(node_id=info.node_id, role=info.role)

        return await self._guarded(context, call)

    async def Leave(self, request: node_pb2.LeaveRequest, context: Any) -> Any:
        """Leave the cluster."""

        async def call() -> node_pb2.LeaveReply:
            return node_pb2.LeaveReply(warning=await self._node.leave(request.force))

        return await self._guarded(context, call)


async def serve_node_control(node: NodeControl, socket_path: Path) -> grpc.aio.Server:
    """Listen on ``socket_path``, closed to everybody but root."""
    socket_path.unlink(missing_ok=True)
    server = grpc.aio.server()
    node_pb2_grpc.add_NodeControlServicer_to_server(NodeControlServicer(node), server)
    server.add_insecure_port(f"unix://{socket_path}")
    await server.start()
    socket_path.chmod(0o600)
    return server
