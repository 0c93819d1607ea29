"""From a task to the engine's ``POST /containers/create``. Pure."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pyswarm.agent.engine.api import NODE_LABEL, OURS_LABEL, TASK_LABEL, Attachment, FileMount
from pyswarm.common.types import SECOND_NS, ContainerSpec, PortConfig, Task
from pyswarm.overlay.api import RESOLVER_ADDR

DEFAULT_GRACE_NS = 10 * SECOND_NS
#: From this version of its API on, an endpoint's MAC address is taken; before, it always follows from the address.
MAC_API = (1, 44)


def grace_s(spec: ContainerSpec) -> float:
    """How long a container may take to end by itself."""
    given = spec.stop_grace_period_ns
    return (DEFAULT_GRACE_NS if given is None else given) / SECOND_NS


def labels(task: Task) -> dict[str, str]:
    """The labels by which clients, and the agent after a restart, know a task's container."""
    return {
        **task.spec.container_spec.labels,
        NODE_LABEL: task.node_id,
        "com.docker.swarm.service.id": task.service_id,
        "com.docker.swarm.service.name": task.service_name,
        "com.docker.swarm.task": "",
        TASK_LABEL: task.id,
        OURS_LABEL: "",
        "com.docker.swarm.task.name": task.container_name,
    }


def endpoint(attachment: Attachment, api: tuple[int, int]) -> dict[str, Any]:
    """The settings of one network's endpoint."""
    settings: dict[str, Any] = {"IPAMConfig": {"IPv4Address": attachment.addr}}
    if attachment.mac and api >= MAC_API:
        settings["MacAddress"] = attachment.mac
    return settings


def port_bindings(task: Task) -> dict[str, list[dict[str, str]]]:
    """The ports of mode ``host``, as the engine wants them; it chooses a number where none is given."""
    bindings: dict[str, list[dict[str, str]]] = {}
    for port in task.ports:
        if port.publish_mode == "host":
            number = str(port.published_port) if port.published_port else ""
            bindings.setdefault(f"{port.target_port}/{port.protocol}", []).append({"HostPort": number})
    return bindings


def lent_ports(shown: Mapping[str, Any]) -> tuple[PortConfig, ...]:
    """What the host lends a container, from the engine's ``NetworkSettings.Ports``: each once, whether it is lent
    for IPv4, IPv6 or both."""
    found: dict[PortConfig, None] = {}
    for key, bindings in shown.items():
        target, _, protocol = key.partition("/")
        for binding in bindings or ():
            published = str(binding.get("HostPort") or "")
            if target.isdecimal() and published.isdecimal():
                found[
                    PortConfig(
                        protocol=protocol or "tcp",
                        target_port=int(target),
                        published_port=int(published),
                        publish_mode="host",
                    )
                ] = None
    return tuple(sorted(found, key=lambda p: (p.protocol, p.published_port, p.target_port)))


def mount(given: FileMount) -> dict[str, Any]:
    """Bound read-only. As a mount, not a bind, for which the engine would make up a source that is missing."""
    return {
        "Type": "bind",
        "Source": given.source,
        "Target": given.target,
        "ReadOnly": True,
        "BindOptions": {"Propagation": "rprivate"},
    }


def container_config(
    task: Task, attachments: Sequence[Attachment], api: tuple[int, int], mounts: Sequence[FileMount] = ()
) -> dict[str, Any]:
    """The body. It names the first network only: the others are connected one by one, in order."""
    spec, limits = task.spec.container_spec, task.spec.resources.limits
    host: dict[str, Any] = {
        # The cluster decides what runs here, so the engine brings nothing back by itself.
        "RestartPolicy": {"Name": "no"},
        "ReadonlyRootfs": spec.read_only,
    }
    if limits.memory_bytes:
        host["Memory"] = limits.memory_bytes
    if limits.nano_cpus:
        host["NanoCpus"] = limits.nano_cpus
    if limits.pids:
        host["PidsLimit"] = limits.pids
    if spec.init is not None:
        host["Init"] = spec.init
    if mounts:
        host["Mounts"] = [mount(given) for given in mounts]
    if spec.groups:
        host["GroupAdd"] = list(spec.groups)
    bindings = port_bindings(task)
    if bindings:
        host["PortBindings"] = bindings
    config: dict[str, Any] = {
        "Image": spec.image,
        "Env": list(spec.env),
        "Labels": labels(task),
        "Tty": spec.tty,
        "OpenStdin": spec.open_stdin,
        "StopTimeout": math.ceil(grace_s(spec)),
        "HostConfig": host,
    }
    if bindings:
        config["ExposedPorts"] = {key: {} for key in bindings}
    # A command replaces the image's entry point, and with it the image's own arguments.
    if spec.command:
        config["Entrypoint"] = list(spec.command)
        config["Cmd"] = list(spec.args)
    elif spec.args:
        config["Cmd"] = list(spec.args)
    for key, value in (
        ("Hostname", spec.hostname),
        ("User", spec.user),
        ("WorkingDir", spec.dir),
        ("StopSignal", spec.stop_signal),
    ):
        if value:
            config[key] = value
    if attachments:
        first = attachments[0]
        host["NetworkMode"] = first.network.name
        # Behind the engine's own resolver, which knows the containers of this host only.
        host["Dns"] = [RESOLVER_ADDR]
        config["NetworkingConfig"] = {"EndpointsConfig": {first.network.name: endpoint(first, api)}}
    return config
