"""``pyswarm service``: everything but create and update."""

from typing import Any
from urllib.parse import quote

import click

from pyswarm.cli.base import command, may_be_stale, pass_client
from pyswarm.cli.client import Client
from pyswarm.cli.errors import CliError, DaemonError, UsageError
from pyswarm.cli.output import each, emit, fail_with, parse_filters
from pyswarm.cli.output import inspect as print_inspected
from pyswarm.cli.ports import pretty_ports
from pyswarm.cli.progress import wait_converged
from pyswarm.cli.services import list_services, print_services
from pyswarm.cli.tasks import print_tasks
from pyswarm.cli.units import go_duration, human_bytes, parse_uint


@command("ls", "pyswarm service ls\npyswarm service ls --format '{{.Name}}: {{.Replicas}}'")
@click.option("-f", "--filter", "filters", multiple=True, help='Filter output ("name=web", "label=tier")')
@click.option("--format", "form", help="'json', 'table TEMPLATE' or a Go template")
@click.option("-q", "--quiet", is_flag=True, help="Only display IDs")
@pass_client
@may_be_stale
def ls(client: Client, filters: tuple[str, ...], form: str | None, quiet: bool) -> None:
    """List services."""
    print_services(list_services(client, parse_filters(filters), quiet), quiet, form)


@command("ps", "pyswarm service ps web\npyswarm service ps --no-trunc --filter desired-state=running web")
@click.argument("services", metavar="SERVICE [SERVICE...]", nargs=-1, required=True)
@click.option("-f", "--filter", "filters", multiple=True, help='Filter output ("desired-state=running")')
@click.option("--format", "form", help="'json', 'table TEMPLATE' or a Go template")
@click.option("--no-resolve", is_flag=True, help="Do not map IDs to Names")
@click.option("--no-trunc", is_flag=True, help="Do not truncate output")
@click.option("-q", "--quiet", is_flag=True, help="Only display task IDs")
@pass_client
def ps(
    client: Client,
    services: tuple[str, ...],
    filters: tuple[str, ...],
    form: str | None,
    no_resolve: bool,
    no_trunc: bool,
    quiet: bool,
) -> None:
    """List the tasks of one or more services."""
    ids, errors = [], []
    for ref in services:
        try:
            ids.append(client.one("services", ref)["ID"])
        except DaemonError as exc:
            if exc.status != 404:
                raise
            errors.append(f"no such service: {ref}")
    if ids:
        tasks = client.listed("tasks", {**parse_filters(filters), "service": ids})
        print_tasks(client, tasks, no_trunc=no_trunc, quiet=quiet, no_resolve=no_resolve, form=form)
    fail_with(errors)


@command("inspect", "pyswarm service inspect web\npyswarm service inspect --format '{{json .Spec.Mode}}' web")
@click.argument("services", metavar="SERVICE [SERVICE...]", nargs=-1, required=True)
@click.option("-f", "--format", "form", help="'json' or a Go template")
@click.option("--pretty", is_flag=True, help="Print the information in a human friendly format")
@pass_client
def inspect(client: Client, services: tuple[str, ...], form: str | None, pretty: bool) -> None:
    """Display detailed information on one or more services."""
    if pretty:
        names = {n["Id"]: n["Name"] for n in client.listed("networks")}
        for ref in services:
            _print_pretty(client.one("services", ref, insertDefaults="true"), names)
        return
    print_inspected(services, lambda ref: client.one("services", ref, insertDefaults="true"), form, "service")


def _print_pretty(service: Any, networks: dict[str, str]) -> None:
    spec = service["Spec"]
    template = spec["TaskTemplate"]
    container, update = template["ContainerSpec"], spec["UpdateConfig"]
    lines = ["", f"ID:\t\t{service['ID']}", f"Name:\t\t{spec['Name']}"]
    lines += ["Labels:", *(f" {k}={v}" for k, v in sorted(spec["Labels"].items()))] if spec.get("Labels") else []
    lines += ["Service Mode:\tReplicated", f" Replicas:\t{spec['Mode']['Replicated']['Replicas']}"]
    status = service.get("UpdateStatus")
    if status:
        lines += ["UpdateStatus:", f" State:\t\t{status['State']}", f" Message:\t{status.get('Message', '')}"]
    lines += [
        "UpdateConfig:",
        f" Parallelism:\t{update['Parallelism']}",
        f" Delay:\t\t{go_duration(update['Delay'])}",
        f" On failure:\t{update['FailureAction']}",
        f" Monitoring Period: {go_duration(update['Monitor'])}",
        f" Max failure ratio: {update['MaxFailureRatio']:g}",
        f" Update order:      {update['Order']}",
        "ContainerSpec:",
        f" Image:\t\t{container['Image']}",
    ]
    for title, key in (("Command", "Command"), ("Args", "Args"), ("Env", "Env")):
        if container.get(key):
            lines.append(f" {title}:\t\t{' '.join(container[key])}")
    for kind in ("Config", "Secret"):
        references = container.get(f"{kind}s") or []
        lines += [f"{kind}s:"] if references else []
        for reference in references:
            lines += [f" Target:\t{reference['File']['Name']}", f"  Source:\t{reference[f'{kind}Name']}"]
    resources = []
    for title, key in (("Reservations", "Reservations"), ("Limits", "Limits")):
        limits = template["Resources"].get(key) or {}
        if limits:
            resources.append(f" {title}:")
        if limits.get("NanoCPUs"):
            resources.append(f"  CPU:\t\t{limits['NanoCPUs'] / 10**9:g}")
        if limits.get("MemoryBytes"):
            resources.append(f"  Memory:\t{human_bytes(limits['MemoryBytes'])}")
        if limits.get("Pids"):
            resources.append(f"  PIDs:\t\t{limits['Pids']}")
    lines += ["Resources:", *resources] if resources else []
    attached = [networks.get(n["Target"], n["Target"]) for n in template.get("Networks") or []]
    lines += [f"Networks: {' '.join(attached)}"] if attached else []
    lines.append(f"Endpoint Mode:\t{spec['EndpointSpec']['Mode']}")
    lines += pretty_ports(service)
    emit("\n".join(lines) + "\n")


@command("rm", "pyswarm service rm web db")
@click.argument("services", metavar="SERVICE [SERVICE...]", nargs=-1, required=True)
@pass_client
def rm(client: Client, services: tuple[str, ...]) -> None:
    """Remove one or more services."""
    each(services, lambda ref: client.delete(f"/services/{quote(ref, safe='')}"))


@command("scale", "pyswarm service scale web=12 db=2")
@click.argument("scales", metavar="SERVICE=REPLICAS [SERVICE=REPLICAS...]", nargs=-1, required=True)
@click.option("-d", "--detach", is_flag=True, help="Exit immediately instead of waiting for convergence")
@pass_client
def scale(client: Client, scales: tuple[str, ...], detach: bool) -> None:
    """Scale one or multiple replicated services."""
    wanted: list[tuple[str, int]] = []
    for text in scales:
        ref, separator, number = text.partition("=")
        if not separator or not ref:
            raise UsageError(f"invalid scale specifier '{text}': write SERVICE=REPLICAS")
        try:
            wanted.append((ref, parse_uint(number)))
        except ValueError as exc:
            raise UsageError(f"{ref}: invalid replicas value {number}: {exc}") from None
    scaled, errors = [], []
    for ref, replicas in wanted:
        try:
            scaled.append(_scale(client, ref, replicas))
        except CliError as exc:
            errors.append(f"{ref}: {exc}")
        else:
            emit(f"{ref} scaled to {replicas}")
    if not detach:
        for service_id in scaled:
            wait_converged(client, service_id)
    fail_with(errors)


def _scale(client: Client, ref: str, replicas: int) -> str:
    service = client.one("services", ref)
    spec = service["Spec"]
    if spec["Mode"].get("Replicated") is None:
        raise CliError("scale can only be used with replicated or replicated-job mode")
    spec["Mode"]["Replicated"]["Replicas"] = replicas
    client.post(f"/services/{service['ID']}/update", spec, version=str(service["Version"]["Index"]))
    return str(service["ID"])
