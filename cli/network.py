"""``pyswarm network``."""

from urllib.parse import quote

import click

from pyswarm.cli.base import command, may_be_stale, pass_client, refused
from pyswarm.cli.client import Client
from pyswarm.cli.errors import DaemonError, UsageError
from pyswarm.cli.output import Row, each, emit, list_rows, natural, parse_filters, truncated_id
from pyswarm.cli.output import inspect as print_inspected

_COLUMNS = {
    "ID": "NETWORK ID", "Name": "NAME", "Driver": "DRIVER", "Scope": "SCOPE", "CreatedAt": "CREATED AT",
    "IPv6": "IPV6", "Internal": "INTERNAL", "Labels": "LABELS",
}  # fmt: skip


def _pairs(given: tuple[str, ...]) -> dict[str, str]:
    return {key: value for key, _, value in (text.partition("=") for text in given)}


@refused("aux-address", "config-from", "config-only!", "ipam-driver", "ipam-opt", "ipv6!", "scope")
@command(
    "create",
    "pyswarm network create -d overlay --attachable app\n"
    "pyswarm network create -d overlay --subnet 10.11.0.0/16 --gateway 10.11.0.1 back",
)
@click.argument("name", metavar="NETWORK")
@click.option("--attachable", is_flag=True, help="Enable manual container attachment")
@click.option("-d", "--driver", default="bridge", show_default=True, help="overlay: across the cluster's hosts")
@click.option("--gateway", multiple=True, help="IPv4 gateway for the subnet")
@click.option("--ingress", is_flag=True, help="Create the network through which services are published")
@click.option("--internal", is_flag=True, help="Restrict external access to the network")
@click.option("--ip-range", multiple=True, help="Allocate container IPs from a sub-range")
@click.option("--label", multiple=True, metavar="KEY=VALUE", help="Set metadata on a network")
@click.option("-o", "--opt", multiple=True, metavar="KEY=VALUE", help="Set driver specific options")
@click.option("--subnet", multiple=True, help="Subnet in CIDR format")
@pass_client
def create(
    client: Client,
    name: str,
    attachable: bool,
    driver: str,
    gateway: tuple[str, ...],
    ingress: bool,
    internal: bool,
    ip_range: tuple[str, ...],
    label: tuple[str, ...],
    opt: tuple[str, ...],
    subnet: tuple[str, ...],
) -> None:
    """Create a network."""
    if (gateway or ip_range) and not subnet:
        raise UsageError("every ip-range or gateway must have a corresponding subnet")
    if len(gateway) > len(subnet) or len(ip_range) > len(subnet):
        raise UsageError("there are more gateways or ip-ranges than subnets")
    config = []
    for number, text in enumerate(subnet):
        entry = {"Subnet": text}
        if number < len(gateway):
            entry["Gateway"] = gateway[number]
        if number < len(ip_range):
            entry["IPRange"] = ip_range[number]
        config.append(entry)
    body = {
        "Name": name,
        "CheckDuplicate": True,
        "Driver": driver,
        "Internal": internal,
        "Attachable": attachable,
        "Ingress": ingress,
        "IPAM": {"Driver": "default", "Config": config},
        "Options": _pairs(opt),
        "Labels": _pairs(label),
    }
    emit(client.post("/networks/create", body)["Id"])


@command("ls", "pyswarm network ls\npyswarm network ls --filter driver=overlay -q")
@click.option("-f", "--filter", "filters", multiple=True, help='Filter output ("driver=overlay")')
@click.option("--format", "form", help="'json', 'table TEMPLATE' or a Go template")
@click.option("--no-trunc", is_flag=True, help="Do not truncate the output")
@click.option("-q", "--quiet", is_flag=True, help="Only display network IDs")
@pass_client
@may_be_stale
def ls(client: Client, filters: tuple[str, ...], form: str | None, no_trunc: bool, quiet: bool) -> None:
    """List networks."""
    networks = client.listed("networks", parse_filters(filters))
    networks.sort(key=lambda n: natural(n["Name"]))
    if quiet:
        for network in networks:
            emit(truncated_id(network["Id"], no_trunc))
        return
    rows: list[Row] = [
        {
            "ID": truncated_id(n["Id"], no_trunc),
            "Name": n["Name"],
            "Driver": n["Driver"],
            "Scope": n["Scope"],
            "CreatedAt": n.get("Created", ""),
            "IPv6": str(n.get("EnableIPv6", False)).lower(),
            "Internal": str(n.get("Internal", False)).lower(),
            "Labels": ",".join(f"{k}={v}" for k, v in sorted((n.get("Labels") or {}).items())),
        }
        for n in networks
    ]
    list_rows(rows, _COLUMNS, form, ["ID", "Name", "Driver", "Scope"])


@refused("v/verbose!")
@command("inspect", "pyswarm network inspect app\npyswarm network inspect app --format '{{json .IPAM.Config}}'")
@click.argument("networks", metavar="NETWORK [NETWORK...]", nargs=-1, required=True)
@click.option("-f", "--format", "form", help="'json' or a Go template")
@pass_client
def inspect(client: Client, networks: tuple[str, ...], form: str | None) -> None:
    """Display detailed information on one or more networks."""
    print_inspected(networks, lambda ref: client.one("networks", ref), form, "network")


@command("rm", "pyswarm network rm app back")
@click.argument("networks", metavar="NETWORK [NETWORK...]", nargs=-1, required=True)
@click.option("-f", "--force", is_flag=True, help="Do not error if the network does not exist")
@pass_client
def rm(client: Client, networks: tuple[str, ...], force: bool) -> None:
    """Remove one or more networks."""

    def remove(ref: str) -> None:
        try:
            client.delete(f"/networks/{quote(ref, safe='')}")
        except DaemonError as exc:
            if not (force and exc.status == 404):
                raise

    each(networks, remove)
