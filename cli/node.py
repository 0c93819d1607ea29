"""``pyswarm node``."""

from typing import Any
from urllib.parse import quote

import click

from pyswarm.cli.base import command, may_be_stale, pass_client
from pyswarm.cli.client import Client
from pyswarm.cli.errors import CliError, DaemonError
from pyswarm.cli.output import Row, each, emit, fail_with, list_rows, natural, parse_filters
from pyswarm.cli.output import inspect as print_inspected
from pyswarm.cli.tasks import engine_down, print_tasks

_COLUMNS = {
    "ID": "ID", "Self": "SELF", "Hostname": "HOSTNAME", "Status": "STATUS", "Availability": "AVAILABILITY",
    "ManagerStatus": "MANAGER STATUS", "EngineVersion": "ENGINE VERSION", "TLSStatus": "TLS STATUS",
}  # fmt: skip


_ATTEMPTS = 5


def own_id(client: Client) -> str:
    """This node's id, for ``self``."""
    node_id = client.get("/info")["Swarm"]["NodeID"]
    if not node_id:
        raise CliError("this node is not part of a swarm")
    return str(node_id)


def _found(client: Client, ref: str) -> Any:
    return client.one("nodes", own_id(client) if ref == "self" else ref)


def _status(node: Any, in_table: bool) -> str:
    """The state in Docker's words; a table also tells of a node that is there but cannot run anything."""
    state = str(node["Status"]["State"]).capitalize()
    return f"{state} (engine down)" if in_table and engine_down(node) else state


@command("ls", "pyswarm node ls\npyswarm node ls --format '{{.Hostname}} {{.Status}}'")
@click.option("-f", "--filter", "filters", multiple=True, help='Filter output ("name=h1", "role=manager")')
@click.option("--format", "form", help="'json', 'table TEMPLATE' or a Go template")
@click.option("-q", "--quiet", is_flag=True, help="Only display IDs")
@pass_client
@may_be_stale
def ls(client: Client, filters: tuple[str, ...], form: str | None, quiet: bool) -> None:
    """List nodes in the swarm."""
    nodes = client.listed("nodes", parse_filters(filters))
    nodes.sort(key=lambda n: natural(n["Description"]["Hostname"]))
    if quiet:
        for node in nodes:
            emit(node["ID"])
        return
    swarm = client.get("/info")["Swarm"]
    root = (swarm.get("Cluster") or {}).get("TLSInfo")
    in_table = form in (None, "", "table")
    rows: list[Row] = []
    for node in nodes:
        manager = node.get("ManagerStatus") or {}
        reachability = manager.get("Reachability", "").capitalize()
        mark = " *" if node["ID"] == swarm["NodeID"] else ""
        rows.append(
            {
                "ID": node["ID"] + (mark or "  ") if in_table else node["ID"],
                "Self": bool(mark),
                "Hostname": node["Description"]["Hostname"],
                "Status": _status(node, in_table),
                "Availability": node["Spec"]["Availability"].capitalize(),
                "ManagerStatus": "Leader" if manager.get("Leader") else reachability,
                "EngineVersion": node["Description"]["Engine"].get("EngineVersion", ""),
                "TLSStatus": "Ready" if root and node["Description"].get("TLSInfo") == root else "Unknown",
            }
        )
    shown = ["ID", "Hostname", "Status", "Availability", "ManagerStatus", "EngineVersion"]
    columns = {**_COLUMNS, "ID": "ID  "} if in_table else _COLUMNS
    list_rows(rows, columns, form, shown)


@command("inspect", "pyswarm node inspect self\npyswarm node inspect h1 --format '{{.Status.Addr}}'")
@click.argument("nodes", metavar="self|NODE [NODE...]", nargs=-1, required=True)
@click.option("-f", "--format", "form", help="'json' or a Go template")
@click.option("--pretty", is_flag=True, help="Print the information in a human friendly format")
@pass_client
def inspect(client: Client, nodes: tuple[str, ...], form: str | None, pretty: bool) -> None:
    """Display detailed information on one or more nodes."""
    if pretty:
        for ref in nodes:
            _print_pretty(_found(client, ref))
        return
    print_inspected(nodes, lambda ref: _found(client, ref), form, "node")


def _print_pretty(node: Any) -> None:
    description, manager = node["Description"], node.get("ManagerStatus")
    labels: dict[str, str] = node["Spec"].get("Labels") or {}
    lines = [
        f"ID:\t\t\t{node['ID']}",
        *(["Labels:", *(f" - {k}={v}" for k, v in sorted(labels.items()))] if labels else []),
        f"Hostname:\t\t{description['Hostname']}",
        "Status:",
        f" State:\t\t\t{node['Status']['State'].capitalize()}",
        *([f" Message:\t\t{message}"] if (message := node["Status"].get("Message")) else []),
        f" Availability:\t\t{node['Spec']['Availability'].capitalize()}",
        f" Address:\t\t{node['Status'].get('Addr', '')}",
    ]
    if manager:
        lines += [
            "Manager Status:",
            f" Address:\t\t{manager['Addr']}",
            f" Raft Status:\t\t{manager['Reachability'].capitalize()}",
            f" Leader:\t\t{'Yes' if manager.get('Leader') else 'No'}",
        ]
    lines += [
        "Platform:",
        f" Operating System:\t{description['Platform']['OS']}",
        f" Architecture:\t\t{description['Platform']['Architecture']}",
        f"Engine Version:\t\t{description['Engine'].get('EngineVersion', '')}",
    ]
    emit("\n".join(lines))


@command("rm", "pyswarm node rm h4\npyswarm node rm --force h4")
@click.argument("nodes", metavar="NODE [NODE...]", nargs=-1, required=True)
@click.option("-f", "--force", is_flag=True, help="Force remove a node from the swarm")
@pass_client
def rm(client: Client, nodes: tuple[str, ...], force: bool) -> None:
    """Remove one or more nodes from the swarm."""
    each(nodes, lambda ref: client.delete(f"/nodes/{quote(ref, safe='')}", **({"force": "1"} if force else {})))


def _change_role(client: Client, refs: tuple[str, ...], role: str, done: str) -> None:
    def change(ref: str) -> str:
        for attempt in range(_ATTEMPTS):
            found = _found(client, ref)
            spec = found["Spec"]
            if spec["Role"] == role:
                return f"Node {ref} is already a {role}."
            spec["Role"] = role
            try:
                client.post(f"/nodes/{found['ID']}/update", spec, version=str(found["Version"]["Index"]))
                break
            except DaemonError as exc:
                # The node's own reports change it too.
                if "out of sequence" not in str(exc) or attempt == _ATTEMPTS - 1:
                    raise
        return done.format(ref)

    each(refs, change)


@command("promote", "pyswarm node promote h2 h3")
@click.argument("nodes", metavar="NODE [NODE...]", nargs=-1, required=True)
@pass_client
def promote(client: Client, nodes: tuple[str, ...]) -> None:
    """Promote one or more nodes to manager in the swarm."""
    _change_role(client, nodes, "manager", "Node {} promoted to a manager in the swarm.")


@command("demote", "pyswarm node demote h2")
@click.argument("nodes", metavar="NODE [NODE...]", nargs=-1, required=True)
@pass_client
def demote(client: Client, nodes: tuple[str, ...]) -> None:
    """Demote one or more nodes from manager in the swarm."""
    _change_role(client, nodes, "worker", "Manager {} demoted in the swarm.")


@command("update", "pyswarm node update --availability drain h2\npyswarm node update --label-add disk=ssd h2")
@click.argument("node", metavar="NODE")
@click.option("--availability", type=click.Choice(["active", "pause", "drain"]), help="Whether tasks may run")
@click.option("--label-add", multiple=True, metavar="KEY=VALUE", help="Add or update a node label")
@click.option("--label-rm", multiple=True, metavar="KEY", help="Remove a node label if exists")
@click.option("--role", type=click.Choice(["worker", "manager"]), help="Role of the node")
@pass_client
def update(
    client: Client,
    node: str,
    availability: str | None,
    label_add: tuple[str, ...],
    label_rm: tuple[str, ...],
    role: str | None,
) -> None:
    """Update a node."""
    found = _found(client, node)
    spec = found["Spec"]
    if availability:
        spec["Availability"] = availability
    if role:
        spec["Role"] = role
    labels = dict(spec.get("Labels") or {})
    for text in label_add:
        key, _, value = text.partition("=")
        labels[key] = value
    for key in label_rm:
        if key not in labels:
            raise CliError(f"key {key} doesn't exist in node's labels")
        del labels[key]
    spec["Labels"] = labels
    client.post(f"/nodes/{found['ID']}/update", spec, version=str(found["Version"]["Index"]))
    emit(node)


@command("ps", "pyswarm node ps\npyswarm node ps h1 h2 --no-trunc")
@click.argument("nodes", metavar="[NODE...]", nargs=-1)
@click.option("-f", "--filter", "filters", multiple=True, help='Filter output ("desired-state=running")')
@click.option("--format", "form", help="'json', 'table TEMPLATE' or a Go template")
@click.option("--no-resolve", is_flag=True, help="Do not map IDs to Names")
@click.option("--no-trunc", is_flag=True, help="Do not truncate output")
@click.option("-q", "--quiet", is_flag=True, help="Only display task IDs")
@pass_client
def ps(
    client: Client,
    nodes: tuple[str, ...],
    filters: tuple[str, ...],
    form: str | None,
    no_resolve: bool,
    no_trunc: bool,
    quiet: bool,
) -> None:
    """List tasks running on one or more nodes, defaults to current node."""
    tasks: list[Any] = []
    errors = []
    for ref in nodes or ("self",):
        try:
            node_id = _found(client, ref)["ID"]
        except DaemonError as exc:
            if exc.status != 404:
                raise
            errors.append(f"Error: No such node: {ref}")
            continue
        tasks += client.listed("tasks", {**parse_filters(filters), "node": [node_id]})
    if tasks or not errors:
        print_tasks(client, tasks, no_trunc=no_trunc, quiet=quiet, no_resolve=no_resolve, form=form)
    fail_with(errors)
