"""``pyswarm service create``."""

from typing import Any

import click

from pyswarm.cli.base import command, pass_client, refused
from pyswarm.cli.client import Client
from pyswarm.cli.errors import UsageError, not_supported
from pyswarm.cli.file_options import CONFIG, SECRET, change
from pyswarm.cli.output import emit
from pyswarm.cli.ports import PUBLISH
from pyswarm.cli.progress import wait_converged
from pyswarm.cli.service_options import (
    REFUSED,
    Spec,
    apply_shared,
    environment,
    environment_files,
    labels,
    network_attachment,
    shared_options,
)

_MODES = ("global", "replicated-job", "global-job")


@refused(
    *REFUSED, "constraint", "dns", "dns-option", "dns-search", "generic-resource", "host", "mount",
    "placement-pref", "sysctl", "ulimit",
)  # fmt: skip
@command(
    "create",
    "pyswarm service create --name web --replicas 6 -p 8080:80 busybox:latest httpd -f -p 80\n"
    "pyswarm service create --name db -e MODE=primary --limit-memory 512m postgres:15",
    # What follows the image is the service's own command line, options included.
    context_settings={"allow_interspersed_args": False},
)
@click.argument("image", metavar="IMAGE")
@click.argument("args", metavar="[COMMAND] [ARG...]", nargs=-1, type=click.UNPROCESSED)
@click.option("--config", multiple=True, type=CONFIG, help="Configurations to expose to the service")
@click.option("--container-label", multiple=True, metavar="KEY=VALUE", help="Container labels")
@click.option("-e", "--env", multiple=True, metavar="NAME=VALUE", help="Set environment variables")
@click.option("--env-file", multiple=True, metavar="FILE", help="Read in a file of environment variables")
@click.option("--group", multiple=True, help="Supplementary user groups for the container")
@click.option("-l", "--label", multiple=True, metavar="KEY=VALUE", help="Service labels")
@click.option("--mode", default="replicated", show_default=True, help="Service mode")
@click.option("--name", default="", help="Service name")
@click.option("--network", multiple=True, metavar="NETWORK", help="Network attachments")
@click.option("-p", "--publish", type=PUBLISH, multiple=True, metavar="PORT", help="Publish a port as a node port")
@click.option("--secret", multiple=True, type=SECRET, help="Secrets to expose to the service")
@shared_options
@pass_client
def create(client: Client, image: str, args: tuple[str, ...], **given: Any) -> None:
    """Create a new service."""
    spec = _spec(image, args, given)
    container = spec["TaskTemplate"]["ContainerSpec"]
    change(client, container, "secret", (), given["secret"])
    change(client, container, "config", (), given["config"])
    attached = [network_attachment(client, text) for text in given["network"]]
    if attached:
        spec["TaskTemplate"]["Networks"] = attached
    service_id = client.post("/services/create", spec)["ID"]
    emit(service_id)
    if not given["detach"]:
        wait_converged(client, service_id, quiet=given["quiet"])


def _spec(image: str, args: tuple[str, ...], given: dict[str, Any]) -> Spec:
    if given["mode"] in _MODES:
        raise not_supported(f"--mode {given['mode']}")
    if given["mode"] != "replicated":
        raise UsageError(f"Unknown mode: {given['mode']}, only replicated is supported")
    container: Spec = {"Image": image}
    if args:
        container["Args"] = list(args)
    env = environment_files(given["env_file"]) + environment(given["env"])
    if env:
        container["Env"] = env
    if given["container_label"]:
        container["Labels"] = labels(given["container_label"])
    if given["group"]:
        container["Groups"] = list(given["group"])
    spec: Spec = {
        "Name": given["name"],
        "Labels": labels(given["label"]),
        "TaskTemplate": {"ContainerSpec": container},
        "Mode": {"Replicated": {"Replicas": 1}},
        "EndpointSpec": {"Mode": "vip"},
    }
    apply_shared(spec, given)
    if given["publish"]:
        spec["EndpointSpec"]["Ports"] = [port for ports in given["publish"] for port in ports]
    return spec
