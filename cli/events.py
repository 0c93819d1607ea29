"""``pyswarm events``."""

import json
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import click

from pyswarm.cli.base import Parsed, command, pass_client
from pyswarm.cli.client import Client
from pyswarm.cli.output import emit, parse_filters, template_of

_FIELDS = {
    "scope": "Scope", "time": "Time", "timeNano": "TimeNano", "status": "Status", "id": "ID", "from": "From",
}  # fmt: skip
_MOMENT = "a time (2013-01-02T13:23:37Z) or relative to now (42m)"


def _moment(text: str) -> str:
    from pyswarm.cli.moments import parse_moment

    return parse_moment(text, time.time())


@command("events", "pyswarm events --filter type=service\npyswarm events --since 1h --format '{{json .}}'")
@click.option("-f", "--filter", "filters", multiple=True, help='Filter output ("type=node", "service=web")')
@click.option("--format", "form", help="'json' or a Go template")
@click.option("--since", type=Parsed("time", _moment), help=f"Show all events created since {_MOMENT}")
@click.option("--until", type=Parsed("time", _moment), help=f"Stream events until {_MOMENT}")
@pass_client
def events(
    client: Client, filters: tuple[str, ...], form: str | None, since: str | None, until: str | None
) -> None:
    """Get real time events from the swarm and from this host's engine."""
    template = template_of(form) if form and form not in ("json", "{{json .}}") else None
    query = {name: value for name, value in (("since", since), ("until", until)) if value}
    if wanted := parse_filters(filters):
        query["filters"] = json.dumps({name: dict.fromkeys(values, True) for name, values in wanted.items()})
    for line in _lines(client, query):
        if template is not None:
            emit(template.render(_fields(json.loads(line))))
        else:
            emit(line if form else _pretty(json.loads(line)))
        if sys.stdout is not None:
            sys.stdout.flush()


def _lines(client: Client, query: dict[str, str]) -> Iterator[str]:
    reply = client.stream("/events", query)
    while line := client.received(reply, reply.readline):
        yield line.decode(errors="replace").rstrip("\n")


def _fields(event: dict[str, Any]) -> dict[str, Any]:
    """The event under the names that templates use."""
    return {_FIELDS.get(name, name): value for name, value in event.items()}


def _pretty(event: dict[str, Any]) -> str:
    actor = event.get("Actor") or {}
    attributes = actor.get("Attributes") or {}
    shown = ", ".join(f"{name}={attributes[name]}" for name in sorted(attributes))
    text = f"{_local(event.get('timeNano', 0))} {event['Type']} {event['Action']} {actor.get('ID', '')}"
    return f"{text} ({shown})" if shown else text


def _local(time_ns: int) -> str:
    """``2026-01-02T15:04:05.000000006+01:00``, as Docker writes it."""
    moment = datetime.fromtimestamp(time_ns // 10**9).astimezone()
    zone = moment.strftime("%z")
    shown = "Z" if zone == "+0000" else f"{zone[:3]}:{zone[3:5]}"
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{time_ns % 10**9:09d}{shown}"
