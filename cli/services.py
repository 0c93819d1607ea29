"""Tables of services, for ``service ls`` and ``stack services``."""

from typing import Any

from pyswarm.cli.client import Client
from pyswarm.cli.output import Row, emit, list_rows, natural, truncated_id
from pyswarm.cli.ports import published_ports
from pyswarm.cli.tasks import short_image

_COLUMNS = {
    "ID": "ID", "Name": "NAME", "Mode": "MODE", "Replicas": "REPLICAS", "Image": "IMAGE", "Ports": "PORTS",
}  # fmt: skip


def list_services(client: Client, filters: dict[str, list[str]], quiet: bool) -> list[Any]:
    """The services that pass ``filters``; unless only ids are shown, with how many of their tasks run."""
    return client.listed("services", filters, **({} if quiet else {"status": "true"}))


def print_services(services: list[Any], quiet: bool, form: str | None) -> None:
    """The services by name."""
    services.sort(key=lambda s: natural(s["Spec"]["Name"]))
    if quiet:
        for service in services:
            emit(truncated_id(service["ID"]))
        return
    rows: list[Row] = []
    for service in services:
        spec, status = service["Spec"], service["ServiceStatus"]
        rows.append(
            {
                "ID": truncated_id(service["ID"]),
                "Name": spec["Name"],
                "Mode": next(iter(spec["Mode"])).lower(),
                "Replicas": f"{status['RunningTasks']}/{status['DesiredTasks']}",
                "Image": short_image(spec["TaskTemplate"]["ContainerSpec"]["Image"]),
                "Ports": published_ports(service),
            }
        )
    list_rows(rows, _COLUMNS, form, list(_COLUMNS))
