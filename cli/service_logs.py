"""``pyswarm service logs``."""

import http.client
import sys
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, unquote_plus

import click

from pyswarm.cli.base import Parsed, command, pass_client
from pyswarm.cli.client import Client
from pyswarm.cli.errors import CliError, DaemonError
from pyswarm.cli.moments import parse_moment
from pyswarm.cli.output import truncated_id
from pyswarm.common.logframes import HEADER_BYTES, STDERR, SYSTEM
from pyswarm.common.text import escaped

_NODE, _SERVICE, _TASK = "com.docker.swarm.node.id", "com.docker.swarm.service.id", "com.docker.swarm.task.id"
_READ_BYTES = 256 * 1024
_SAID = "Error grabbing logs: "
#: What is missing, rather than what went wrong.
_NOTICE = "warning: "


@command("logs", "pyswarm service logs -f --tail 20 web\npyswarm service logs --since 10m --raw web")
@click.argument("target", metavar="SERVICE|TASK")
@click.option("--details", is_flag=True, help="Show extra details provided to logs")
@click.option("-f", "--follow", is_flag=True, help="Follow log output")
@click.option("--no-resolve", is_flag=True, help="Do not map IDs to Names in output")
@click.option("--no-task-ids", is_flag=True, help="Do not include task IDs in output")
@click.option("--no-trunc", is_flag=True, help="Do not truncate output")
@click.option("--raw", is_flag=True, help="Do not neatly format logs")
@click.option(
    "--since",
    type=Parsed("time", lambda text: parse_moment(text, time.time())),
    help="Show logs since a time (2013-01-02T13:23:37Z) or relative to now (42m)",
)
@click.option(
    "-n", "--tail", default="all", metavar="NUMBER", help="Lines to show from the end of each task's log"
)
@click.option("-t", "--timestamps", is_flag=True, help="Show timestamps")
@pass_client
def logs(
    client: Client,
    target: str,
    details: bool,
    follow: bool,
    no_resolve: bool,
    no_task_ids: bool,
    no_trunc: bool,
    raw: bool,
    since: str | None,
    tail: str,
    timestamps: bool,
) -> None:
    """Fetch the logs of a service or task."""
    kind, found = _target(client, target)
    spec = found["Spec"]
    tty = bool((spec["TaskTemplate"] if kind == "services" else spec)["ContainerSpec"].get("TTY"))
    if tty and not raw:
        raise CliError("tty service logs only supported with --raw")
    query = {
        "stdout": "1",
        "stderr": "1",
        "tail": tail,
        # Without them a line would not say whose it is.
        "details": str(int(details or not raw)),
        "timestamps": str(int(timestamps)),
        "follow": str(int(follow)),
        **({"since": since} if since else {}),
    }
    reply = client.stream(f"/{kind}/{quote(found['ID'], safe='')}/logs", query)
    if tty:
        for data in _received(client, reply):
            _write(sys.stdout, data)
        return
    width = _width(kind, found)
    names = _Names(
        Client(client.host), width, resolve=not no_resolve, task_ids=not no_task_ids, trunc=not no_trunc
    )
    lines = _Lines(None if raw else names, timestamps=timestamps, details=details)
    for data in _received(client, reply):
        out, err = lines.of(data)
        _write(sys.stdout, out)
        _write(sys.stderr, err)


def _target(client: Client, ref: str) -> tuple[str, Any]:
    for kind in ("services", "tasks"):
        try:
            return kind, client.one(kind, ref)
        except DaemonError as exc:
            if exc.status != 404:
                raise
    raise CliError(f"no such task or service: {ref}")


def _width(kind: str, found: Any) -> int:
    """How many digits the largest slot has."""
    if kind == "tasks":
        return len(str(found.get("Slot", 0)))
    return len(str((found["Spec"]["Mode"].get("Replicated") or {}).get("Replicas", 0)))


def _received(client: Client, reply: http.client.HTTPResponse) -> Iterator[bytes]:
    while data := client.received(reply, lambda: reply.read1(_READ_BYTES)):
        yield data


def _write(stream: Any, data: bytes) -> None:
    # Closed by whoever started us.
    if data and stream is not None:
        stream.buffer.write(data)
        stream.flush()


class _Names:
    """``web.1.<id>@h2`` for where a line comes from, so that short ones take as much room as long ones."""

    def __init__(self, client: Client, width: int, *, resolve: bool, task_ids: bool, trunc: bool) -> None:
        self._client = client
        self._width = width
        self._resolve = resolve
        self._task_ids = task_ids
        self._trunc = trunc
        self._known: dict[tuple[str, str], str] = {}

    def of(self, node_id: str, service_id: str, task_id: str) -> str:
        """The name; made of ids where the cluster knows no other any more."""
        service = self._name("services", service_id, lambda s: s["Spec"]["Name"])
        node = self._name("nodes", node_id, lambda n: n["Spec"].get("Name") or n["Description"]["Hostname"])
        slot = self._slot(task_id)
        task = f"{service}.{slot}" + (f".{truncated_id(task_id, not self._trunc)}" if self._task_ids else "")
        return escaped(f"{task}@{node}") + " " * (self._width - len(slot))

    def _name(self, kind: str, ref: str, read: Any) -> str:
        if not self._resolve:
            return ref
        known = self._known.get((kind, ref))
        if known is None:
            known = self._known[kind, ref] = self._ask(kind, ref, read, ref)
        return known

    def _slot(self, task_id: str) -> str:
        return self._ask("tasks", task_id, lambda t: str(t.get("Slot", 0)), "?")

    def _ask(self, kind: str, ref: str, read: Any, otherwise: str) -> str:
        try:
            return str(read(self._client.one(kind, ref)))
        except DaemonError as exc:
            if exc.status != 404:
                raise
            return otherwise


class _Lines:
    """From the stream's frames to lines of output: each frame is one."""

    def __init__(self, names: _Names | None, *, timestamps: bool, details: bool) -> None:
        self._names = names
        self._timestamps = timestamps
        self._details = details
        self._rest = b""
        self._heads: dict[bytes, bytes] = {}

    def of(self, data: bytes) -> tuple[bytes, bytes]:
        """Output and error output for what arrived. Raises CliError with what the daemon said within it."""
        data = self._rest + data if self._rest else data
        out: list[bytes] = []
        err: list[bytes] = []
        position, size = 0, len(data)
        while (start := position + HEADER_BYTES) <= size:
            end = start + int.from_bytes(data[position + 4 : start], "big")
            if end > size:
                break
            stream, text = data[position], data[start:end]
            position = end
            if stream == SYSTEM:
                _write(sys.stdout, b"".join(out))
                _write(sys.stderr, b"".join(err))
                out, err = [_said(text.decode(errors="replace").strip())], []
                continue
            (err if stream == STDERR else out).append(text if self._names is None else self._formatted(text))
        self._rest = data[position:]
        return b"".join(out), b"".join(err)

    def _formatted(self, text: bytes) -> bytes:
        time_text = b""
        if self._timestamps:
            time_text, _, text = text.partition(b" ")
            time_text += b" "
        context, _, text = text.partition(b" ")
        head = self._heads.get(context)
        if head is None:
            head = self._heads[context] = self._head(context.decode(errors="replace"))
        return time_text + head + text

    def _head(self, context: str) -> bytes:
        given = (pair.partition("=")[::2] for pair in context.split(","))
        pairs = {unquote_plus(key): unquote_plus(value) for key, value in given}
        if self._names is None or not {_NODE, _SERVICE, _TASK} <= pairs.keys():
            raise CliError("the daemon sent a line of log that does not say whose it is")
        name = self._names.of(pairs.pop(_NODE), pairs.pop(_SERVICE), pairs.pop(_TASK))
        details = ",".join(f"{key}={pairs[key]}" for key in sorted(pairs)) + " " if self._details else ""
        return f"{name}    | {details}".encode()


def _said(text: str) -> bytes:
    """What the daemon says at the end of a stream: a notice is shown, an error ends the command."""
    text = text.removeprefix(_SAID)
    if not text.startswith(_NOTICE):
        raise CliError(f"from the daemon: {text}")
    print(escaped(text), file=sys.stderr)
    return b""
