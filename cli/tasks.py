"""Tables of tasks, for ``service ps`` and ``node ps``."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from pyswarm.cli.client import Client
from pyswarm.cli.output import Row, emit, list_rows, natural, truncated_id
from pyswarm.cli.ports import lent_ports
from pyswarm.cli.units import ago, parse_time

COLUMNS = {
    "ID": "ID", "Name": "NAME", "Image": "IMAGE", "Node": "NODE", "DesiredState": "DESIRED STATE",
    "CurrentState": "CURRENT STATE", "Error": "ERROR", "Ports": "PORTS",
}  # fmt: skip
_MAX_ERROR_CHARS = 30
_ENDED = ("complete", "shutdown", "failed", "rejected", "remove", "orphaned")


def short_image(image: str) -> str:
    """An image without the digest."""
    return image.partition("@")[0]


def engine_down(node: Any) -> bool:
    """Whether the node is heard but its engine cannot be used; its message then tells why."""
    return node["Status"]["State"] == "ready" and bool(node["Status"].get("Message"))


def _shown_error(text: str, no_trunc: bool) -> str:
    if not text:
        return ""
    if not no_trunc and len(text) > _MAX_ERROR_CHARS:
        text = text[: _MAX_ERROR_CHARS - 1] + "…"
    return f'"{text}"'


def print_tasks(
    client: Client, tasks: Iterable[Any], *, no_trunc: bool, quiet: bool, no_resolve: bool, form: str | None
) -> None:
    """The tasks by name, the newest of each slot first and the earlier ones indented under it."""
    names: dict[str, str] = {}
    nodes: dict[str, str] = {}
    silent: set[str] = set()
    found = list(tasks)
    if not no_resolve and found:
        names = {s["ID"]: s["Spec"]["Name"] for s in client.listed("services")}
        listed = client.listed("nodes")
        nodes = {n["ID"]: n["Spec"].get("Name") or n["Description"]["Hostname"] for n in listed}
        silent = {n["ID"] for n in listed if engine_down(n)}

    def name(task: Any) -> str:
        service = names.get(task["ServiceID"], task["ServiceID"])
        return f"{service}.{task['Slot']}" if task.get("Slot") else f"{service}.{task.get('NodeID', '')}"

    found.sort(key=lambda t: (parse_time(t["CreatedAt"]), t["ID"]), reverse=True)
    found.sort(key=lambda t: t["DesiredState"] != "running")
    found.sort(key=lambda t: natural(name(t)))
    if quiet:
        for task in found:
            emit(truncated_id(task["ID"], no_trunc))
        return
    rows: list[Row] = []
    previous = ""
    now = datetime.now(UTC)
    for task in found:
        status, shown = task["Status"], name(task)
        image = task["Spec"]["ContainerSpec"]["Image"]
        node = task.get("NodeID", "")
        error = status.get("Err", "")
        if not error and node in silent and status["State"] not in _ENDED:
            error = f"engine of {nodes[node]} does not answer"
        rows.append(
            {
                "ID": truncated_id(task["ID"], no_trunc),
                # A table indents the slot's earlier tasks; a template gets the plain name.
                "Name": f" \\_ {shown}" if shown == previous and form in (None, "", "table") else shown,
                "Image": image if no_trunc else short_image(image),
                "Node": nodes.get(node, node),
                "DesiredState": task["DesiredState"].capitalize(),
                "CurrentState": f"{status['State'].capitalize()} {ago(status.get('Timestamp', ''), now).lower()}",
                "Error": _shown_error(error, no_trunc),
                "Ports": lent_ports(task),
            }
        )
        previous = shown
    list_rows(rows, COLUMNS, form, list(COLUMNS))
