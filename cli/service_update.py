"""``pyswarm service update``."""

from typing import Any

import click

from pyswarm.cli.base import command, pass_client, refused
from pyswarm.cli.client import Client
from pyswarm.cli.errors import CliError
from pyswarm.cli.file_options import CONFIG, SECRET, change
from pyswarm.cli.output import emit
from pyswarm.cli.ports import PUBLISH, changed_ports
from pyswarm.cli.progress import wait_converged
from pyswarm.cli.service_options import (
    REFUSED,
    SHELL_WORDS,
    Spec,
    apply_shared,
    environment,
    labels,
    network_attachment,
    shared_options,
)


@refused(
    *REFUSED, "constraint-add", "constraint-rm", "dns-add", "dns-option-add",
    "dns-option-rm", "dns-rm", "dns-search-add", "dns-search-rm", "generic-resource-add", "generic-resource-rm",
    "host-add", "host-rm", "mount-add", "mount-rm", "placement-pref-add", "placement-pref-rm", "sysctl-add",
    "sysctl-rm", "ulimit-add", "ulimit-rm",
)  # fmt: skip
@command(
    "update",
    "pyswarm service update --env-add A=1 --publish-add 8443:443 web\n"
    "pyswarm service update --image busybox:1.36 --update-parallelism 2 --update-delay 5s web",
)
@click.argument("service", metavar="SERVICE")
@click.option("--args", type=SHELL_WORDS, help="Service command args")
@click.option("--config-add", multiple=True, type=CONFIG, help="Add or update a config file on a service")
@click.option("--config-rm", multiple=True, metavar="CONFIG", help="Remove a configuration file")
@click.option("--container-label-add", multiple=True, metavar="KEY=VALUE", help="Add or update a container label")
@click.option("--container-label-rm", multiple=True, metavar="KEY", help="Remove a container label by its key")
@click.option("--env-add", multiple=True, metavar="NAME=VALUE", help="Add or update an environment variable")
@click.option("--env-rm", multiple=True, metavar="NAME", help="Remove an environment variable")
@click.option("--force", is_flag=True, help="Force update even if no changes require it")
@click.option("--group-add", multiple=True, help="Add a supplementary user group to the container")
@click.option("--group-rm", multiple=True, help="Remove a supplementary user group from the container")
@click.option("--image", help="Service image tag")
@click.option("--label-add", multiple=True, metavar="KEY=VALUE", help="Add or update a service label")
@click.option("--label-rm", multiple=True, metavar="KEY", help="Remove a label by its key")
@click.option("--network-add", multiple=True, metavar="NETWORK", help="Add a network")
@click.option("--network-rm", multiple=True, metavar="NETWORK", help="Remove a network")
@click.option("--publish-add", type=PUBLISH, multiple=True, metavar="PORT", help="Add or update a published port")
@click.option(
    "--publish-rm", type=PUBLISH, multiple=True, metavar="PORT", help="Remove a published port by its target port"
)
@click.option("--rollback", is_flag=True, help="Rollback to previous specification")
@click.option("--secret-add", multiple=True, type=SECRET, help="Add or update a secret on a service")
@click.option("--secret-rm", multiple=True, metavar="SECRET", help="Remove a secret")
@shared_options
@pass_client
def update(client: Client, service: str, **given: Any) -> None:
    """Update a service."""
    found = client.one("services", service)
    spec = found["Spec"]
    query = {"version": str(found["Version"]["Index"])}
    if given["rollback"]:
        if any(v for k, v in given.items() if k not in ("rollback", "detach", "quiet")):
            raise CliError("other flags may not be combined with --rollback")
        query["rollback"] = "previous"
    else:
        apply_shared(spec, given)
        _apply(client, spec, given)
    client.post(f"/services/{found['ID']}/update", spec, **query)
    emit(service)
    if not given["detach"]:
        wait_converged(client, found["ID"], quiet=given["quiet"])


@command("rollback", "pyswarm service rollback web")
@click.argument("service", metavar="SERVICE")
@click.option("-d", "--detach", is_flag=True, help="Exit immediately instead of waiting for convergence")
@click.option("-q", "--quiet", is_flag=True, help="Suppress progress output")
@pass_client
def rollback(client: Client, service: str, detach: bool, quiet: bool) -> None:
    """Revert changes to a service's configuration."""
    found = client.one("services", service)
    version = str(found["Version"]["Index"])
    client.post(f"/services/{found['ID']}/update", found["Spec"], version=version, rollback="previous")
    emit(service)
    if not detach:
        wait_converged(client, found["ID"], quiet=quiet)


def _apply(client: Client, spec: Spec, given: dict[str, Any]) -> None:
    template = spec["TaskTemplate"]
    container = template["ContainerSpec"]
    if given["image"] is not None:
        container["Image"] = given["image"]
    if given["args"] is not None:
        container["Args"] = given["args"]
    if given["force"]:
        template["ForceUpdate"] = template.get("ForceUpdate", 0) + 1
    spec["Labels"] = _changed_labels(spec.get("Labels"), given["label_add"], given["label_rm"])
    own = _changed_labels(container.get("Labels"), given["container_label_add"], given["container_label_rm"])
    if own or container.get("Labels"):
        container["Labels"] = own
    if given["env_add"] or given["env_rm"]:
        container["Env"] = _changed_env(container.get("Env") or [], given["env_add"], given["env_rm"])
    if given["group_add"] or given["group_rm"]:
        groups = [g for g in container.get("Groups") or [] if g not in given["group_rm"]]
        container["Groups"] = groups + [g for g in given["group_add"] if g not in groups]
    for kind in ("secret", "config"):
        change(client, container, kind, given[f"{kind}_rm"], given[f"{kind}_add"])
    if given["network_add"] or given["network_rm"]:
        _change_networks(client, template, given)
    if given["publish_add"] or given["publish_rm"]:
        endpoint = spec.get("EndpointSpec") or {}
        ports = changed_ports(endpoint.get("Ports") or [], given["publish_add"], given["publish_rm"])
        spec["EndpointSpec"] = {**endpoint, "Ports": ports}


def _changed_labels(
    present: dict[str, str] | None, add: tuple[str, ...], remove: tuple[str, ...]
) -> dict[str, str]:
    kept = {key: value for key, value in (present or {}).items() if key not in remove}
    return {**kept, **labels(add)}


def _changed_env(present: list[str], add: tuple[str, ...], remove: tuple[str, ...]) -> list[str]:
    """Each variable once, where it stood; new ones at the end."""
    values = {text.partition("=")[0]: text for text in present}
    for name in remove:
        values.pop(name, None)
    values.update({text.partition("=")[0]: text for text in environment(add)})
    return list(values.values())


def _change_networks(client: Client, template: Spec, given: dict[str, Any]) -> None:
    removed = {network_attachment(client, text)["Target"] for text in given["network_rm"]}
    networks = [n for n in template.get("Networks") or [] if n["Target"] not in removed]
    for text in given["network_add"]:
        added = network_attachment(client, text)
        if any(n["Target"] == added["Target"] for n in networks):
            raise CliError(f"service is already attached to network {text}")
        networks.append(added)
    template["Networks"] = networks
