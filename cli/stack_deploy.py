"""``pyswarm stack deploy``."""

import base64
import os
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

import click

from pyswarm.cli.base import command, pass_client
from pyswarm.cli.client import Client
from pyswarm.cli.errors import CliError, DaemonError
from pyswarm.cli.files import MAX_READ_BYTES
from pyswarm.cli.output import emit, fail_with
from pyswarm.cli.progress import wait_converged
from pyswarm.cli.stacks import failed, listed, remove_services
from pyswarm.common.text import escaped

if TYPE_CHECKING:
    from pyswarm.cli.compose.convert import FileObject
    from pyswarm.cli.compose.value import Value


class _File(NamedTuple):
    """A secret or config with its content. ``kind`` is ``secret`` or ``config``."""

    kind: str
    spec: dict[str, Any]


@command(
    "deploy",
    "pyswarm stack deploy -c stack.yml app\n"
    "pyswarm stack deploy -c stack.yml -c production.yml --prune --detach=false app\n"
    "cat stack.yml | pyswarm stack deploy -c - app",
)
@click.argument("stack", metavar="STACK")
@click.option("-c", "--compose-file", "files", multiple=True, help='Path to a Compose file, or "-" for stdin')
@click.option("-d", "--detach", is_flag=True, default=None, help="Do not wait for the services to converge [true]")
@click.option("--prune", is_flag=True, help="Remove services that are no longer referenced")
@click.option("-q", "--quiet", is_flag=True, help="Suppress progress output")
@click.option(
    "--resolve-image",
    type=click.Choice(["always", "changed", "never"]),
    default="always",
    help="Accepted: images are never looked up in a registry",
)
@click.option("--with-registry-auth", is_flag=True, help="Accepted: hosts pull with credentials of their own")
@pass_client
def deploy(
    client: Client,
    stack: str,
    files: tuple[str, ...],
    detach: bool | None,
    prune: bool,
    quiet: bool,
    resolve_image: str,
    with_registry_auth: bool,
) -> None:
    """Deploy a new stack or update an existing stack."""
    # Here, so that `--help` does without PyYAML.
    from pyswarm.cli.compose import references, support
    from pyswarm.cli.compose.convert import convert
    from pyswarm.cli.compose.load import load

    loaded = load(files, os.environ)
    for warning in (*loaded.warnings, *support.warnings(loaded.files)):
        click.echo(escaped(warning, keep="\n"), err=True)
    references.check(loaded.files)
    for file in loaded.files:
        support.check_supported(file)
    wanted = convert(stack, loaded.config, loaded.files)
    contents = [
        _File(kind.removesuffix("s"), {**one.spec, "Data": _content(loaded.files, kind, one)})
        for kind, objects in (("secrets", wanted.secrets), ("configs", wanted.configs))
        for one in objects
    ]
    deployment = _Deployment(client, stack)
    deployment.check_external(wanted.external_networks, wanted.external_files)
    missing = deployment.update_files(contents)
    if prune:
        deployment.prune({spec["Name"] for spec in wanted.services})
    deployment.create_networks(wanted.networks)
    deployment.create_files(missing)
    deployment.put_services(wanted.services)
    if detach is False:
        deployment.wait(quiet)


def _content(files: list["Value"], kind: str, one: "FileObject") -> str:
    from pyswarm.cli.compose.value import ComposeError, place

    where = place(files, kind, one.key, "file")
    try:
        with open(one.path, "rb") as file:
            data = file.read(MAX_READ_BYTES)
    except OSError as exc:
        raise ComposeError(where, f"{kind}.{one.key}.file", f"cannot read {one.path}: {exc.strerror}") from exc
    if not data:
        raise ComposeError(where, f"{kind}.{one.key}.file", f"{one.path} is empty")
    return base64.b64encode(data).decode()


class _Deployment:
    """Brings the cluster's objects in line with a stack's. What is there already and may stay, stays."""

    def __init__(self, client: Client, stack: str) -> None:
        self._client = client
        self._stack = stack
        # The first question, since it tells at once of a node that is no manager.
        self._services = self._listed_services()
        self._service_ids: list[str] = []
        self._file_ids: dict[tuple[str, str], str] = {}

    def check_external(self, networks: list[str], files: list[tuple[str, str]]) -> None:
        """Raise CliError for what the stack needs, does not make and is not there; ``files``: kinds, names."""
        for name in networks:
            network = self._found("networks", name)
            if network is None:
                raise CliError(
                    f'network "{name}" is declared as external, but could not be found. You need to create a '
                    "swarm-scoped network before the stack is deployed"
                )
            if network["Scope"] != "swarm":
                raise CliError(
                    f'network "{name}" is declared as external, but it is not in the right scope: '
                    f'"{network["Scope"]}" instead of "swarm"'
                )
        for kind, name in files:
            found = self._found(f"{kind}s", name)
            if found is None:
                raise CliError(f"{kind} not found: {name}")
            self._file_ids[kind, name] = found["ID"]

    def update_files(self, files: list[_File]) -> list[_File]:
        """Update the secrets and configs that are there, and return the others. This comes before any other
        change, since the cluster refuses content that differs."""
        return [file for file in files if not self._update_file(file)]

    def prune(self, wanted: set[str]) -> None:
        """Remove the stack's services that are not wanted any more."""
        gone = [service for name, service in self._services.items() if name not in wanted]
        fail_with(remove_services(self._client, gone))

    def create_networks(self, networks: list[dict[str, Any]]) -> None:
        """Create those that the stack does not have."""
        present = {network["Name"] for network in listed(self._client, "networks", self._stack)}
        for spec in networks:
            if spec["Name"] in present:
                continue
            emit(f"Creating network {spec['Name']}")
            try:
                self._client.post("/networks/create", spec)
            except DaemonError as exc:
                raise failed(f"failed to create network {spec['Name']}", exc) from exc

    def create_files(self, files: list[_File]) -> None:
        """Create secrets and configs."""
        for kind, spec in files:
            emit(f"Creating {kind} {spec['Name']}")
            try:
                self._file_ids[kind, spec["Name"]] = self._client.post(f"/{kind}s/create", spec)["ID"]
            except DaemonError as exc:
                raise failed(f"failed to create {kind} {spec['Name']}", exc) from exc

    def put_services(self, specs: list[dict[str, Any]]) -> None:
        """Create what is missing and update what is there, each with the version that was read."""
        # Anew: the cluster itself may have written down meanwhile how an earlier update went.
        self._services = self._listed_services()
        for spec in specs:
            self._put_service(self._with_file_ids(spec))

    def wait(self, quiet: bool) -> None:
        """Wait until all services have converged, or the user has seen enough."""
        errors = []
        for service_id in self._service_ids:
            try:
                if not wait_converged(self._client, service_id, quiet=quiet):
                    return
            except CliError as exc:
                errors.append(f"{service_id}: {exc}")
        fail_with(errors)

    def _listed_services(self) -> dict[str, Any]:
        return {service["Spec"]["Name"]: service for service in listed(self._client, "services", self._stack)}

    def _found(self, kind: str, name: str) -> Any:
        """The object of exactly this name, or None."""
        try:
            found = self._client.one(kind, name)
        except DaemonError as exc:
            if exc.status == 404:
                return None
            raise
        # A unique prefix of an id is found too.
        return found if name in (found.get("Name"), found.get("Spec", {}).get("Name")) else None

    def _update_file(self, file: _File) -> bool:
        """Update a secret or config, which is refused if its content differs; False if it is not there."""
        name = file.spec["Name"]
        found = self._found(f"{file.kind}s", name)
        if found is None:
            return False
        version = str(found["Version"]["Index"])
        try:
            self._client.post(f"/{file.kind}s/{found['ID']}/update", file.spec, version=version)
        except DaemonError as exc:
            raise failed(f"failed to update {file.kind} {name}", exc) from exc
        self._file_ids[file.kind, name] = found["ID"]
        return True

    def _with_file_ids(self, spec: dict[str, Any]) -> dict[str, Any]:
        template = spec["TaskTemplate"]
        container = dict(template["ContainerSpec"])
        for kind, field in (("secret", "Secret"), ("config", "Config")):
            if f"{field}s" in container:
                container[f"{field}s"] = [
                    {**reference, f"{field}ID": self._file_ids[kind, reference[f"{field}Name"]]}
                    for reference in container[f"{field}s"]
                ]
        return {**spec, "TaskTemplate": {**template, "ContainerSpec": container}}

    def _put_service(self, spec: dict[str, Any]) -> None:
        name = spec["Name"]
        present = self._services.get(name)
        if present is None:
            emit(f"Creating service {name}")
            try:
                self._service_ids.append(self._client.post("/services/create", spec)["ID"])
            except DaemonError as exc:
                raise failed(f"failed to create service {name}", exc) from exc
            return
        emit(f"Updating service {name} (id: {present['ID']})")
        path = f"/services/{quote(present['ID'])}/update"
        try:
            self._client.post(path, _kept(spec, present["Spec"]), version=str(present["Version"]["Index"]))
        except DaemonError as exc:
            raise failed(f"failed to update service {name}", exc) from exc
        self._service_ids.append(present["ID"])


def _kept(spec: dict[str, Any], present: dict[str, Any]) -> dict[str, Any]:
    """The new spec with what a stack file does not say: how often the service was forced to update, and the digest
    that an image was found to have when another client looked it up."""
    from pyswarm.cli.compose.convert import IMAGE_LABEL

    template, old = spec["TaskTemplate"], present["TaskTemplate"]
    container = dict(template["ContainerSpec"])
    if container["Image"] == (present.get("Labels") or {}).get(IMAGE_LABEL):
        container["Image"] = old["ContainerSpec"]["Image"]
    return {
        **spec,
        "TaskTemplate": {**template, "ContainerSpec": container, "ForceUpdate": old.get("ForceUpdate", 0)},
    }
