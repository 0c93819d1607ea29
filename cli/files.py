"""``pyswarm secret`` and ``pyswarm config``, which differ in little but their name."""

import base64
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import click

from pyswarm.cli.base import command, may_be_stale, pass_client, refused
from pyswarm.cli.client import Client
from pyswarm.cli.errors import CliError
from pyswarm.cli.output import Row, each, emit, list_rows, natural, parse_filters
from pyswarm.cli.output import inspect as print_inspected
from pyswarm.cli.service_options import labels
from pyswarm.cli.units import ago, parse_time

#: Twice what is ever allowed: the daemon tells the limit, and a slip does not read a disk into memory.
MAX_READ_BYTES = 2 * 1000 * 1024


def _content(path: str) -> bytes:
    """What is in a file, or comes on standard input."""
    where = "STDIN" if path == "-" else path
    try:
        if path == "-":
            data = sys.stdin.buffer.read(MAX_READ_BYTES) if sys.stdin is not None else b""
        else:
            with open(path, "rb") as file:
                data = file.read(MAX_READ_BYTES)
    except (OSError, ValueError) as exc:
        raise CliError(f"cannot read from {where}: {getattr(exc, 'strerror', None) or exc}") from exc
    if not data:
        raise CliError(f"cannot read from {where}: data is empty")
    return data


def _make_create(kind: str, unsupported: tuple[str, ...], example: str) -> click.Command:
    @refused(*unsupported)
    @command("create", example, help=f"Create a {kind} from a file or STDIN as content.")
    @click.argument("name", metavar=kind.upper())
    @click.argument("path", metavar="file|-")
    @click.option("-l", "--label", multiple=True, metavar="KEY=VALUE", help=f"{kind.capitalize()} labels")
    @pass_client
    def create(client: Client, name: str, path: str, label: tuple[str, ...]) -> None:
        body = {"Name": name, "Labels": labels(label), "Data": base64.b64encode(_content(path)).decode()}
        emit(client.post(f"/{kind}s/create", body)["ID"])

    return create


def _make_ls(kind: str, columns: dict[str, str]) -> click.Command:
    @command("ls", f"pyswarm {kind} ls\npyswarm {kind} ls --filter name=tls -q", help=f"List {kind}s.")
    @click.option("-f", "--filter", "filters", multiple=True, help='Filter output ("name=tls", "label=tier")')
    @click.option("--format", "form", help="'json', 'table TEMPLATE' or a Go template")
    @click.option("-q", "--quiet", is_flag=True, help="Only display IDs")
    @pass_client
    @may_be_stale
    def ls(client: Client, filters: tuple[str, ...], form: str | None, quiet: bool) -> None:
        found = client.listed(f"{kind}s", parse_filters(filters))
        found.sort(key=lambda obj: natural(obj["Spec"]["Name"]))
        if quiet:
            for obj in found:
                emit(obj["ID"])
            return
        now = datetime.now(UTC)
        rows: list[Row] = [
            {
                "ID": obj["ID"],
                "Name": obj["Spec"]["Name"],
                "Driver": "",
                "CreatedAt": ago(obj["CreatedAt"], now),
                "UpdatedAt": ago(obj["UpdatedAt"], now),
                "Labels": ",".join(f"{k}={v}" for k, v in sorted((obj["Spec"].get("Labels") or {}).items())),
            }
            for obj in found
        ]
        list_rows(rows, columns, form, [name for name in columns if name != "Labels"])

    return ls


def _make_inspect(kind: str, pretty_lines: Callable[[Any], list[str]]) -> click.Command:
    @command(
        "inspect",
        f"pyswarm {kind} inspect tls\npyswarm {kind} inspect --format '{{{{.Spec.Labels}}}}' tls",
        help=f"Display detailed information on one or more {kind}s.",
    )
    @click.argument("refs", metavar=f"{kind.upper()} [{kind.upper()}...]", nargs=-1, required=True)
    @click.option("-f", "--format", "form", help="'json' or a Go template")
    @click.option("--pretty", is_flag=True, help="Print the information in a human friendly format")
    @pass_client
    def inspect(client: Client, refs: tuple[str, ...], form: str | None, pretty: bool) -> None:
        if pretty:
            for ref in refs:
                emit("\n".join(pretty_lines(client.one(f"{kind}s", ref))))
            return
        print_inspected(refs, lambda ref: client.one(f"{kind}s", ref), form, None)

    return inspect


def _make_rm(kind: str) -> click.Command:
    @command("rm", f"pyswarm {kind} rm tls old", help=f"Remove one or more {kind}s.")
    @click.argument("refs", metavar=f"{kind.upper()} [{kind.upper()}...]", nargs=-1, required=True)
    @pass_client
    def rm(client: Client, refs: tuple[str, ...]) -> None:
        each(refs, lambda ref: client.delete(f"/{kind}s/{quote(ref, safe='')}"))

    return rm


def _time(text: str) -> str:
    """As Docker shows it: ``2026-05-01 12:00:00.123456 +0000 utc``."""
    return f"{parse_time(text).astimezone(UTC).replace(tzinfo=None)} +0000 utc"


def _label_lines(spec: Any) -> list[str]:
    given: dict[str, str] = spec.get("Labels") or {}
    return ["Labels:", *(f" - {k}={v}" if v else f" - {k}" for k, v in sorted(given.items()))] if given else []


def _pretty_secret(obj: Any) -> list[str]:
    return [
        f"ID:              {obj['ID']}",
        f"Name:              {obj['Spec']['Name']}",
        *_label_lines(obj["Spec"]),
        "Driver:            ",
        f"Created at:        {_time(obj['CreatedAt'])}",
        f"Updated at:        {_time(obj['UpdatedAt'])}",
    ]


def _pretty_config(obj: Any) -> list[str]:
    return [
        f"ID:\t\t\t{obj['ID']}",
        f"Name:\t\t\t{obj['Spec']['Name']}",
        *_label_lines(obj["Spec"]),
        f"Created at:            \t{_time(obj['CreatedAt'])}",
        f"Updated at:            \t{_time(obj['UpdatedAt'])}",
        "Data:",
        base64.b64decode(obj["Spec"].get("Data") or "").decode(errors="replace"),
    ]


_CONFIG_COLUMNS = {
    "ID": "ID", "Name": "NAME", "CreatedAt": "CREATED", "UpdatedAt": "UPDATED", "Labels": "LABELS",
}  # fmt: skip
_SECRET_COLUMNS = {
    "ID": "ID", "Name": "NAME", "Driver": "DRIVER", "CreatedAt": "CREATED", "UpdatedAt": "UPDATED",
    "Labels": "LABELS",
}  # fmt: skip

secret_create = _make_create(
    "secret",
    ("d/driver", "template-driver"),
    "pyswarm secret create --label tier=front tls.key ./tls.key\n"
    'printf %s "$PASSWORD" | pyswarm secret create password -',
)
secret_ls = _make_ls("secret", _SECRET_COLUMNS)
secret_inspect = _make_inspect("secret", _pretty_secret)
secret_rm = _make_rm("secret")
config_create = _make_create(
    "config",
    ("template-driver",),
    "pyswarm config create nginx.conf ./nginx.conf",
)
config_ls = _make_ls("config", _CONFIG_COLUMNS)
config_inspect = _make_inspect("config", _pretty_config)
config_rm = _make_rm("config")
