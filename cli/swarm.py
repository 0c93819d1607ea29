"""``pyswarm swarm``."""

from typing import Any

import click

from pyswarm.cli.base import Parsed, command, pass_client, refused
from pyswarm.cli.client import Client
from pyswarm.cli.errors import CliError, UsageError
from pyswarm.cli.output import emit
from pyswarm.cli.units import parse_duration, parse_int, parse_uint
from pyswarm.common.text import escaped

_DURATION = Parsed("duration", parse_duration)
_UINT = Parsed("uint", parse_uint)
_INT = Parsed("int", parse_int)
_AVAILABILITY = click.Choice(["active", "pause", "drain"])


def _settings(
    spec: dict[str, Any], cert_expiry: int | None, dispatcher_heartbeat: int | None, task_history_limit: int | None
) -> dict[str, Any]:
    """Put the settings that were given into a swarm spec."""
    if cert_expiry is not None:
        spec["CAConfig"] = {**spec.get("CAConfig", {}), "NodeCertExpiry": cert_expiry}
    if dispatcher_heartbeat is not None:
        spec["Dispatcher"] = {**spec.get("Dispatcher", {}), "HeartbeatPeriod": dispatcher_heartbeat}
    if task_history_limit is not None:
        spec["Orchestration"] = {**spec.get("Orchestration", {}), "TaskHistoryRetentionLimit": task_history_limit}
    return spec


def _print_join_command(client: Client, role: str, only: bool = False) -> None:
    """The command that adds a node, with this manager's address."""
    info = client.get("/info")["Swarm"]
    token = client.get("/swarm")["JoinTokens"]["Manager" if role == "manager" else "Worker"]
    if only:
        emit(token)
        return
    managers = info.get("RemoteManagers") or []
    addr = next((m["Addr"] for m in managers if m["NodeID"] == info["NodeID"]), f"{info['NodeAddr']}:2377")
    emit(f"To add a {role} to this swarm, run the following command:\n")
    emit(f"    pyswarm swarm join --token {token} {addr}\n")


@refused("autolock!", "data-path-addr", "external-ca", "max-snapshots", "snapshot-interval")
@command(
    "init",
    "pyswarm swarm init --advertise-addr 192.0.2.1\npyswarm swarm init --default-addr-pool 10.20.0.0/16",
)
@click.option("--advertise-addr", metavar="ADDR", default="", help='Advertised address ("<ip|interface>[:port]")')
@click.option("--availability", type=_AVAILABILITY, default="active", show_default=True, help="Of this node")
@click.option("--cert-expiry", type=_DURATION, help="Validity period of node certificates [2160h0m0s]")
@click.option("--data-path-port", type=_UINT, help="UDP port of the overlay (1024 - 49151) [4789]")
@click.option("--default-addr-pool", multiple=True, metavar="CIDR", help="Pool of subnets [10.0.0.0/8]")
@click.option("--default-addr-pool-mask-length", type=_UINT, help="Mask length of subnets from the pool [24]")
@click.option("--dispatcher-heartbeat", type=_DURATION, help="Heartbeat period of nodes [1s]")
@click.option("--etcd-endpoints", metavar="URL,...", default="", help="Use this etcd instead of running one")
@click.option("--force-new-cluster", is_flag=True, help="Start a new cluster from the current state")
@click.option("--listen-addr", metavar="ADDR", default="0.0.0.0:2377", show_default=True, help="Listen address")
@click.option("--task-history-limit", type=_INT, help="Ended tasks kept per slot [5]")
@pass_client
def init(client: Client, **given: Any) -> None:
    """Initialize a swarm."""
    spec = _settings({}, given["cert_expiry"], given["dispatcher_heartbeat"], given["task_history_limit"])
    endpoints = [part.strip() for part in given["etcd_endpoints"].split(",") if part.strip()]
    pools = [part.strip() for text in given["default_addr_pool"] for part in text.split(",")]
    body = {
        "AdvertiseAddr": given["advertise_addr"],
        "ListenAddr": given["listen_addr"],
        "DataPathPort": given["data_path_port"] or 0,
        "DefaultAddrPool": pools,
        "SubnetSize": given["default_addr_pool_mask_length"] or 0,
        "Availability": given["availability"],
        "ForceNewCluster": given["force_new_cluster"],
        "Spec": spec,
        "EtcdEndpoints": endpoints,
    }
    node_id = client.post("/swarm/init", body)
    emit(f"Swarm initialized: current node ({node_id}) is now a manager.\n")
    _print_join_command(client, "worker")
    emit("To add a manager to this swarm, run 'pyswarm swarm join-token manager' and follow the instructions.\n")
    emit("To use the docker command with this swarm, run the following commands:\n")
    emit(f"    docker context create pyswarm --docker host={client.host}\n    docker context use pyswarm\n")


@refused("data-path-addr")
@command("join", "pyswarm swarm join --token SWMTKN-1-... 192.0.2.1:2377")
@click.argument("remote", metavar="HOST:PORT")
@click.option("--advertise-addr", metavar="ADDR", default="", help='Advertised address ("<ip|interface>[:port]")')
@click.option("--availability", type=_AVAILABILITY, default="active", show_default=True, help="Of this node")
@click.option("--listen-addr", metavar="ADDR", default="0.0.0.0:2377", show_default=True, help="Listen address")
@click.option("--token", default="", help="Token for entry into the swarm")
@pass_client
def join(
    client: Client, remote: str, advertise_addr: str, availability: str, listen_addr: str, token: str
) -> None:
    """Join a swarm as a node and/or manager."""
    if not token:
        raise UsageError("--token is required: 'pyswarm swarm join-token worker' on a manager prints it")
    body = {
        "RemoteAddrs": [remote],
        "JoinToken": token,
        "AdvertiseAddr": advertise_addr,
        "ListenAddr": listen_addr,
        "Availability": availability,
    }
    client.post("/swarm/join", body)
    role = "manager" if client.get("/info")["Swarm"]["ControlAvailable"] else "worker"
    emit(f"This node joined a swarm as a {role}.")


@command("join-token", "pyswarm swarm join-token worker\npyswarm swarm join-token --rotate -q manager")
@click.argument("role", metavar="(worker|manager)")
@click.option("-q", "--quiet", is_flag=True, help="Only display token")
@click.option("--rotate", is_flag=True, help="Rotate join token")
@pass_client
def join_token(client: Client, role: str, quiet: bool, rotate: bool) -> None:
    """Manage join tokens."""
    if role not in ("worker", "manager"):
        raise CliError(f"unknown role {role}")
    if rotate:
        swarm = client.get("/swarm")
        which = {"rotateManagerToken" if role == "manager" else "rotateWorkerToken": "true"}
        client.post("/swarm/update", swarm["Spec"], version=str(swarm["Version"]["Index"]), **which)
        if not quiet:
            emit(f"Successfully rotated {role} join token.\n")
    _print_join_command(client, role, only=quiet)


@command("leave", "pyswarm swarm leave\npyswarm swarm leave --force    # on a manager")
@click.option("-f", "--force", is_flag=True, help="Force this node to leave the swarm, ignoring warnings")
@pass_client
def leave(client: Client, force: bool) -> None:
    """Leave the swarm."""
    answer = client.post("/swarm/leave", **({"force": "1"} if force else {})) or {}
    for warning in answer.get("Warnings") or ():
        click.echo(escaped(f"WARNING: {warning}"), err=True)
    emit("Node left the swarm.")


@refused("autolock!", "external-ca", "max-snapshots", "snapshot-interval")
@command("update", "pyswarm swarm update --task-history-limit 10")
@click.option("--cert-expiry", type=_DURATION, help="Validity period of node certificates")
@click.option("--dispatcher-heartbeat", type=_DURATION, help="Heartbeat period of nodes")
@click.option("--task-history-limit", type=_INT, help="Ended tasks kept per slot")
@pass_client
def update(
    client: Client, cert_expiry: int | None, dispatcher_heartbeat: int | None, task_history_limit: int | None
) -> None:
    """Update the swarm."""
    swarm = client.get("/swarm")
    spec = _settings(swarm["Spec"], cert_expiry, dispatcher_heartbeat, task_history_limit)
    client.post("/swarm/update", spec, version=str(swarm["Version"]["Index"]))
    emit("Swarm updated.")
