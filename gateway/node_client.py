"""``NodeControl`` over the daemon's unix socket."""

import grpc
import grpc.aio
import msgspec

from pyswarm.common.errors import PyswarmError, Unavailable
from pyswarm.common.nodecontrol import InitOptions, JoinOptions, NodeInfo
from pyswarm.proto.errors import answered, error_from_rpc
from pyswarm.proto.v1 import node_pb2, node_pb2_grpc

INFO_TIMEOUT_S = 5.0
#: Joining waits for other hosts, with time limits of its own that say which host; this one only ends a hang.
CHANGE_TIMEOUT_S = 180.0


class NodeClient:
    """Asks ``pyswarmd`` on this host."""

    def __init__(self, socket_path: str) -> None:
        self._channel = grpc.aio.insecure_channel(
            f"unix://{socket_path}",
            options=(
                ("grpc.initial_reconnect_backoff_ms", 100),
                ("grpc.max_reconnect_backoff_ms", 500),
                # The default authority of a unix channel is its path, which HTTP/2 servers refuse.
                ("grpc.default_authority", "localhost"),
            ),
        )
        self._stub = node_pb2_grpc.NodeControlStub(self._channel)

    async def info(self) -> NodeInfo:
        """What this node is at the moment."""
        try:
            reply = await self._stub.Info(node_pb2.NodeInfoRequest(), timeout=INFO_TIMEOUT_S)
        except grpc.aio.AioRpcError as exc:
            raise _translated(exc) from exc
        return NodeInfo(
            local_state=reply.local_state,
            node_id=reply.node_id,
            cluster_id=reply.cluster_id,
            role=reply.role,
            addr=reply.addr,
            error=reply.error,
            manager_addrs=tuple(reply.manager_addrs),
            engine=reply.engine,
            certs_dir=reply.certs_dir,
            version=reply.version,
        )

    async def init(self, options: InitOptions) -> str:
        """Start a new cluster; returns the node's id."""
        request = node_pb2.InitRequest(
            advertise_addr=options.advertise_addr,
            listen_addr=options.listen_addr,
            default_addr_pool=options.default_addr_pool,
            subnet_size=options.subnet_size,
            data_path_port=options.data_path_port,
            availability=options.availability,
            force_new_cluster=options.force_new_cluster,
            spec=msgspec.msgpack.encode(options.spec),
            etcd_endpoints=options.etcd_endpoints,
        )
        try:
            reply = await self._stub.Init(request, timeout=CHANGE_TIMEOUT_S)
        except grpc.aio.AioRpcError as exc:
            raise _translated(exc) from exc
        return str(reply.node_id)

    async def join(self, options: JoinOptions) -> NodeInfo:
        """Join the cluster the token belongs to."""
        request = node_pb2.JoinRequest(
            remote_addrs=options.remote_addrs,
            token=options.token,
            advertise_addr=options.advertise_addr,
            listen_addr=options.listen_addr,
            availability=options.availability,
        )
        try:
            await self._stub.Join(request, timeout=CHANGE_TIMEOUT_S)
        except grpc.aio.AioRpcError as exc:
            raise _translated(exc) from exc
        return await self.info()

    async def leave(self, force: bool) -> str:
        """Leave the cluster and forget it; a warning of what could not be removed, or nothing."""
        try:
            reply = await self._stub.Leave(node_pb2.LeaveRequest(force=force), timeout=CHANGE_TIMEOUT_S)
        except grpc.aio.AioRpcError as exc:
            raise _translated(exc) from exc
        return str(reply.warning)

    async def close(self) -> None:
        """Close the connection."""
        await self._channel.close(None)


def _translated(exc: grpc.aio.AioRpcError) -> PyswarmError:
    if answered(exc):
        return error_from_rpc(exc)
    return Unavailable(f"pyswarmd on this host does not answer: {exc.details() or exc.code().name}")
