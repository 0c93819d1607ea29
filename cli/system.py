"""``pyswarm version`` and ``pyswarm info``."""

import platform
from typing import Any

import click

from pyswarm.cli.base import command, pass_client
from pyswarm.cli.client import API_VERSION, Client
from pyswarm.cli.errors import CliError
from pyswarm.cli.output import emit, template_of
from pyswarm.cli.units import go_duration, human_bytes
from pyswarm.common.text import escaped


def _own_version() -> str:
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as package_version

    try:
        return package_version("pyswarm")
    except PackageNotFoundError:
        return "unknown"


@command("version", "pyswarm version\npyswarm version --format '{{.Server.Version}}'")
@click.option("-f", "--format", "form", help="'json' or a Go template")
@pass_client
def version(client: Client, form: str | None) -> None:
    """Show the version information."""
    own = {
        "Version": _own_version(),
        "ApiVersion": API_VERSION,
        "PythonVersion": platform.python_version(),
        "Os": platform.system().lower(),
        "Arch": platform.machine(),
    }
    failure: CliError | None = None
    server: dict[str, Any] | None = None
    try:
        server = client.get("/version")
    except CliError as exc:
        failure = exc
    if form:
        emit(template_of(form).render({"Client": own, "Server": server}))
    else:
        emit(f"Client: pyswarm\n Version:           {own['Version']}\n API version:       {API_VERSION}")
        emit(f" Python version:    {own['PythonVersion']}\n OS/Arch:           {own['Os']}/{own['Arch']}")
        if server is not None:
            _print_server(server)
    if failure is not None:
        raise failure


def _print_server(server: dict[str, Any]) -> None:
    emit("\nServer:")
    for component in server.get("Components", []):
        details = component.get("Details") or {}
        emit(f" {component['Name']}:\n  Version:          {component['Version']}")
        if details.get("ApiVersion"):
            emit(f"  API version:      {details['ApiVersion']}")


@command("info", "pyswarm info\npyswarm info --format '{{.Swarm.LocalNodeState}}'")
@click.option("-f", "--format", "form", help="'json' or a Go template")
@pass_client
def info(client: Client, form: str | None) -> None:
    """Display system-wide information."""
    found = client.get("/info")
    if form:
        emit(template_of(form).render(found))
        return
    for title, key in (
        ("Containers", "Containers"), (" Running", "ContainersRunning"), (" Paused", "ContainersPaused"),
        (" Stopped", "ContainersStopped"), ("Images", "Images"), ("Engine Version", "ServerVersion"),
        ("Storage Driver", "Driver"),
    ):  # fmt: skip
        if key in found:
            emit(f"{title}: {found[key]}")
    _print_swarm(found["Swarm"])
    for title, key in (
        ("Kernel Version", "KernelVersion"), ("Operating System", "OperatingSystem"), ("OSType", "OSType"),
        ("Architecture", "Architecture"), ("CPUs", "NCPU"),
    ):  # fmt: skip
        if key in found:
            emit(f"{title}: {found[key]}")
    if "MemTotal" in found:
        emit(f"Total Memory: {human_bytes(found['MemTotal'])}")
    for title, key in (("Name", "Name"), ("Engine ID", "ID"), ("Docker Root Dir", "DockerRootDir")):
        if key in found:
            emit(f"{title}: {found[key]}")
    for warning in found.get("Warnings") or []:
        click.echo(escaped(warning), err=True)


def _print_swarm(swarm: dict[str, Any]) -> None:
    emit(f"Swarm: {swarm['LocalNodeState']}")
    if swarm.get("Error"):
        emit(f" Error: {swarm['Error']}")
    if swarm["LocalNodeState"] != "active":
        return
    emit(f" NodeID: {swarm['NodeID']}")
    emit(f" Is Manager: {str(swarm['ControlAvailable']).lower()}")
    cluster = swarm.get("Cluster")
    if cluster:
        spec = cluster["Spec"]
        emit(f" ClusterID: {cluster['ID']}\n Managers: {swarm['Managers']}\n Nodes: {swarm['Nodes']}")
        emit(
            f" Default Address Pool: {'  '.join(cluster['DefaultAddrPool'])}\n SubnetSize: {cluster['SubnetSize']}"
        )
        emit(f" Data Path Port: {cluster['DataPathPort']}")
        emit(f" Task History Retention Limit: {spec['Orchestration']['TaskHistoryRetentionLimit']}")
        emit(f" Heartbeat Period: {go_duration(spec['Dispatcher']['HeartbeatPeriod'])}")
        emit(f" Certificate Expiry: {go_duration(spec['CAConfig']['NodeCertExpiry'])}")
    emit(f" Node Address: {swarm['NodeAddr']}")
    managers = sorted(m["Addr"] for m in swarm.get("RemoteManagers") or [])
    if managers:
        emit("\n  ".join([" Manager Addresses:", *managers]))
