"""``python -m pyswarm.gateway``: started by the daemon, ends with it."""

import argparse
import asyncio
import grp
import os
import signal
import socket
from pathlib import Path

import uvloop
from aiohttp import web

from pyswarm.common.log import configure_logging, get_logger
from pyswarm.common.parentpipe import watch_parent
from pyswarm.common.tasks import TaskGroupOwner
from pyswarm.gateway.app import make_app, make_runner
from pyswarm.gateway.backend import API_VERSION, Backend
from pyswarm.gateway.cluster import ClusterAccess
from pyswarm.gateway.connector import ManagerConnector
from pyswarm.gateway.engine import Engine
from pyswarm.gateway.node_client import NodeClient
from pyswarm.manager.control.client import ControlClient

log = get_logger("gateway")

_BACKLOG = 512
_SHUTDOWN_S = 2.0


def bind_socket(path: Path, group: str = "docker") -> socket.socket:
    """A listening socket at ``path``, for root and ``group`` if there is one, in place of an earlier one.

    It appears under its name only once its owner and mode are right.
    """
    aside = path.with_name(f"{path.name}.{os.getpid()}")
    aside.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    old_mask = os.umask(0o177)
    try:
        listener.bind(str(aside))
    finally:
        os.umask(old_mask)
    try:
        os.chown(aside, -1, grp.getgrnam(group).gr_gid)
        aside.chmod(0o660)
    except (KeyError, PermissionError):
        aside.chmod(0o600)
    listener.listen(_BACKLOG)
    listener.setblocking(False)
    aside.rename(path)
    return listener


async def serve(socket_path: Path, node_socket: str, parent_pipe: int) -> None:
    """Answer until told to stop or the daemon is gone."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    watch_parent(parent_pipe, stop.set)
    tasks = TaskGroupOwner("gateway", on_failure=lambda _name, _error: None)
    node = NodeClient(node_socket)
    connector = ManagerConnector(ControlClient, tasks)
    engine = Engine(API_VERSION)
    app = make_app(Backend(ClusterAccess(node, connector), engine, tasks))
    runner = make_runner(app, _SHUTDOWN_S)
    await runner.setup()
    listener = bind_socket(socket_path)
    mine = os.stat(socket_path).st_ino
    await web.SockSite(runner, listener).start()
    log.info("serving the Docker API", socket=str(socket_path))
    await stop.wait()
    # A restarted daemon's gateway may have taken the name already.
    if socket_path.exists() and os.stat(socket_path).st_ino == mine:
        socket_path.unlink()
    await runner.cleanup()
    await tasks.stop(_SHUTDOWN_S)
    await connector.close()
    await engine.close()
    await node.close()


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="pyswarm.gateway", description="Docker's HTTP API for one pyswarm node.")
    parser.add_argument("--socket", required=True, type=Path, help="where to serve the API")
    parser.add_argument("--node-socket", required=True, help="the daemon's own socket")
    parser.add_argument("--parent-pipe", type=int, default=0, metavar="FD", help="ends when this ends [stdin]")
    parser.add_argument("--log-level", default="info")
    arguments = parser.parse_args()
    configure_logging("gateway", arguments.log_level)
    uvloop.run(serve(arguments.socket, arguments.node_socket, arguments.parent_pipe))


if __name__ == "__main__":
    main()
