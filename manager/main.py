"""The manager process of a node: Raft, the store, the services on 2377 and 2378, and the leader's loops."""

import argparse
import asyncio
import gc
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import uvloop

from pyswarm.common.clock import SystemClock
from pyswarm.common.errors import FailedPrecondition, PyswarmError, Unavailable
from pyswarm.common.filelock import take_lock
from pyswarm.common.log import configure_logging, get_logger
from pyswarm.common.metrics import new_registry, serve_child_metrics
from pyswarm.common.parentpipe import EXIT_FATAL, watch_parent
from pyswarm.common.tls import TLSIdentity
from pyswarm.manager.manager import Manager, ManagerConfig

log = get_logger("manager")

#: How long the loop may keep the Raft thread waiting for the interpreter, and the other way round. Each commit
#: passes between them several times; with Python's own 5 ms a busy manager stored about a tenth less.
SWITCH_INTERVAL_S = 0.0005


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    """What the daemon passes; nobody else starts a manager."""
    parser = argparse.ArgumentParser(prog="python -m pyswarm.manager", description="Started by pyswarmd.")
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--certs-dir", required=True)
    parser.add_argument(
        "--listen", required=True, help="ip:port of the services; joining listens on the next port"
    )
    parser.add_argument("--advertise", required=True, help="ip:port under which other managers reach this one")
    parser.add_argument("--metrics-socket", required=True)
    parser.add_argument("--peer", action="append", default=[], help="ip:port of a manager known to the daemon")
    parser.add_argument("--failure-file", required=True, help="where to say why this process cannot run")
    parser.add_argument("--parent-pipe", type=int, required=True)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point."""
    args = parse_args(sys.argv[1:] if argv is None else argv)
    configure_logging("manager")
    # What imports left behind never becomes garbage, and the store's objects have no cycles: full collections
    # would only stop the process for as long as it takes to walk over all tasks.
    gc.freeze()
    gc.set_threshold(50_000, 50, 100)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    try:
        uvloop.run(run(args))
    except Unavailable as exc:
        log.error("manager cannot run now", reason=str(exc))
        _tell(args.failure_file, exc)
        sys.exit(1)
    except PyswarmError as exc:
        log.error("manager cannot run", reason=str(exc))
        _tell(args.failure_file, exc)
        sys.exit(EXIT_FATAL)


def _tell(path: str, exc: PyswarmError) -> None:
    """Leave the reason for the daemon, which shows it to people who ask."""
    try:
        Path(path).write_text(str(exc))
    except OSError as failure:
        log.error("the reason cannot be left for the daemon", path=path, reason=failure.strerror)


async def run(args: argparse.Namespace) -> None:
    """Run until SIGTERM, or until the daemon is gone."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    watch_parent(args.parent_pipe, stop.set)
    failures: list[Exception] = []

    def failed(exc: Exception) -> None:
        failures.append(exc)
        stop.set()

    data_dir = Path(args.data_dir)
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as exc:
        raise FailedPrecondition(f"cannot create the folder {data_dir}: {exc.strerror}") from exc
    lock = await take_lock(data_dir / "lock", "manager")
    registry = new_registry("manager")
    metrics = await serve_child_metrics(registry, args.metrics_socket)
    manager = Manager(
        ManagerConfig(
            data_dir=data_dir,
            listen=args.listen,
            advertise=args.advertise,
            peers=tuple(args.peer),
        ),
        identity=TLSIdentity.load(args.certs_dir),
        clock=SystemClock(),
        registry=registry,
        on_failure=failed,
    )
    try:
        starting = loop.create_task(manager.start(), name="manager.start")
        stopping = loop.create_task(stop.wait(), name="manager.wait-for-stop")
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
            await asyncio.wait({starting})
        else:
            starting.result()
        await stopping
    finally:
        await manager.stop()
        await metrics.cleanup()
        os.close(lock)
    if failures:
        raise failures[0]
