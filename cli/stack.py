"""``pyswarm stack``: what only shows."""

import os
import sys
from collections import Counter

import click

from pyswarm.cli.base import command, may_be_stale, pass_client
from pyswarm.cli.client import Client
from pyswarm.cli.errors import CliError
from pyswarm.cli.output import Row, list_rows, natural, parse_filters
from pyswarm.cli.services import list_services, print_services
from pyswarm.cli.stacks import NAMESPACE_LABEL, check_filled, filters_of
from pyswarm.cli.tasks import print_tasks
from pyswarm.common.text import escaped

_COLUMNS = {"Name": "NAME", "Services": "SERVICES"}


@command("ls", "pyswarm stack ls\npyswarm stack ls --format '{{.Name}}: {{.Services}}'")
@click.option("--format", "form", help="'json', 'table TEMPLATE' or a Go template")
@pass_client
@may_be_stale
def ls(client: Client, form: str | None) -> None:
    """List stacks."""
    services = client.listed("services", {"label": [NAMESPACE_LABEL]})
    counts = Counter(service["Spec"]["Labels"][NAMESPACE_LABEL] for service in services)
    rows: list[Row] = [{"Name": name, "Services": str(counts[name])} for name in sorted(counts, key=natural)]
    list_rows(rows, _COLUMNS, form, list(_COLUMNS))


@command("ps", "pyswarm stack ps app\npyswarm stack ps --filter desired-state=running --no-trunc app")
@click.argument("stack", metavar="STACK")
@click.option("-f", "--filter", "filters", multiple=True, help='Filter output ("desired-state=running")')
@click.option("--format", "form", help="'json', 'table TEMPLATE' or a Go template")
@click.option("--no-resolve", is_flag=True, help="Do not map IDs to Names")
@click.option("--no-trunc", is_flag=True, help="Do not truncate output")
@click.option("-q", "--quiet", is_flag=True, help="Only display task IDs")
@pass_client
def ps(
    client: Client,
    stack: str,
    filters: tuple[str, ...],
    form: str | None,
    no_resolve: bool,
    no_trunc: bool,
    quiet: bool,
) -> None:
    """List the tasks in the stack."""
    check_filled(stack)
    tasks = client.listed("tasks", filters_of(stack, parse_filters(filters)))
    if not tasks:
        raise CliError(f"nothing found in stack: {stack}")
    print_tasks(client, tasks, no_trunc=no_trunc, quiet=quiet, no_resolve=no_resolve, form=form)


@command("services", "pyswarm stack services app\npyswarm stack services --filter name=app_web -q app")
@click.argument("stack", metavar="STACK")
@click.option("-f", "--filter", "filters", multiple=True, help='Filter output ("name=app_web", "label=tier")')
@click.option("--format", "form", help="'json', 'table TEMPLATE' or a Go template")
@click.option("-q", "--quiet", is_flag=True, help="Only display IDs")
@pass_client
def services(client: Client, stack: str, filters: tuple[str, ...], form: str | None, quiet: bool) -> None:
    """List the services in the stack."""
    check_filled(stack)
    found = list_services(client, filters_of(stack, parse_filters(filters)), quiet)
    if not found:
        click.echo(escaped(f"Nothing found in stack: {stack}"), err=True)
        return
    print_services(found, quiet, form)


@command("config", "pyswarm stack config -c stack.yml\npyswarm stack config -c stack.yml -c production.yml")
@click.option("-c", "--compose-file", "files", multiple=True, help='Path to a Compose file, or "-" for stdin')
@click.option("--skip-interpolation", is_flag=True, help="Output only the merged config, with its variables")
def config(files: tuple[str, ...], skip_interpolation: bool) -> None:
    """Output the final config file, after doing merges and interpolations."""
    # Here, since the other commands do without PyYAML.
    from pyswarm.cli.compose.dump import dump
    from pyswarm.cli.compose.load import load

    loaded = load(files, os.environ, interpolate=not skip_interpolation)
    for warning in loaded.warnings:
        click.echo(escaped(warning), err=True)
    sys.stdout.write(dump(loaded.config))
