"""``pyswarmd``: one per host. Runs the agent and the overlay; supervises the gateway, the manager and etcd."""

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from importlib.metadata import version

import uvloop

from pyswarm.common.clock import SystemClock
from pyswarm.common.errors import PyswarmError
from pyswarm.common.filelock import take_lock
from pyswarm.common.log import configure_logging, get_logger
from pyswarm.common.metrics import new_registry
from pyswarm.daemon.children import Child
from pyswarm.daemon.controlserver import serve_node_control
from pyswarm.daemon.metricsserver import METRICS_PORT, MetricsServer
from pyswarm.daemon.node import NodeService
from pyswarm.daemon.preflight import check_root
from pyswarm.daemon.state import Folders

log = get_logger("daemon")


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    """The daemon's options."""
    parser = argparse.ArgumentParser(
        prog="pyswarmd",
        description="The pyswarm daemon: makes this Docker host a member of a cluster.",
        epilog="example: pyswarmd --engine unix:///var/run/docker.sock",
    )
    parser.add_argument(
        "--data-dir", default="/var/lib/pyswarm", help="state that survives a reboot [%(default)s]"
    )
    parser.add_argument("--run-dir", default="/run/pyswarm", help="sockets and pid files [%(default)s]")
    parser.add_argument("--engine", default="unix:///var/run/docker.sock", help="the Docker Engine [%(default)s]")
    parser.add_argument(
        "--metrics-addr", default=f"0.0.0.0:{METRICS_PORT}", help="where Prometheus finds /metrics [%(default)s]"
    )
    parser.add_argument("--log-level", default="info", choices=("debug", "info", "warning", "error"))
    parser.add_argument("--version", action="version", version=f"pyswarmd {version('pyswarm')}")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point: exit code 0 after SIGTERM or SIGINT, 1 with one line when it cannot run."""
    args = parse_args(sys.argv[1:] if argv is None else argv)
    configure_logging("daemon", args.log_level)
    try:
        check_root()
        uvloop.run(run(args))
    except PyswarmError as exc:
        print(f"pyswarmd: {exc}", file=sys.stderr)
        sys.exit(1)


async def run(args: argparse.Namespace) -> None:
    """Run until told to stop."""
    folders = Folders(args.data_dir, args.run_dir)
    folders.create()
    lock = await take_lock(folders.data / "lock", "pyswarmd")
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    pid_file = folders.run / "pyswarmd.pid"
    pid_file.write_text(f"{os.getpid()}\n")
    registry = new_registry("daemon")
    failures: list[str] = []

    def failed(part: str, error: BaseException) -> None:
        log.error("a part of the daemon failed; stopping, to be started again", part=part, exc_info=error)
        failures.append(part)
        stop.set()

    node = NodeService(
        folders=folders, engine_url=args.engine, clock=SystemClock(), registry=registry, on_failure=failed
    )
    metrics = MetricsServer(registry, lambda: {"manager": folders.run / "manager-metrics.sock"})
    host, _, port = args.metrics_addr.rpartition(":")
    gateway = Child(
        "gateway",
        "pyswarm.gateway",
        lambda: ("--socket", str(folders.api_socket), "--node-socket", str(folders.node_socket)),
        folders.run / "gateway.pid",
    )
    try:
        await metrics.start(host, int(port))
        server = await serve_node_control(node, folders.node_socket)
        try:
            gateway.start()
            await node.start()
            log.info("daemon started", version=version("pyswarm"), data=str(folders.data))
            await stop.wait()
            log.info("daemon stops; containers keep running")
        finally:
            await gateway.stop()
            await node.stop()
            await server.stop(grace=1.0)
    finally:
        await metrics.stop()
        pid_file.unlink(missing_ok=True)
        os.close(lock)
    if failures:
        raise PyswarmError(f"stopped because a part of it failed: {', '.join(failures)}")


if __name__ == "__main__":
    main()
