"""A configuration as what Docker's API is told: networks, secrets, configs and services of one stack. Pure.

What comes out is the same for the same files, item for item, so that deploying them again changes nothing.
"""

import re
from typing import Any, NamedTuple

from pyswarm.cli.compose.merge import Config
from pyswarm.cli.compose.references import DEFAULT_NETWORK
from pyswarm.cli.compose.value import ComposeError, Value, place
from pyswarm.cli.errors import CliError
from pyswarm.cli.stacks import NAMESPACE_LABEL, check_filled
from pyswarm.cli.units import parse_cpus
from pyswarm.common.image import is_image_reference

IMAGE_LABEL = "com.docker.stack.image"
MAX_SERVICE_NAME_CHARS = 63
#: The networks that every engine has: nobody has another name on them.
_PREDEFINED_NETWORKS = ("bridge", "host", "none", "default")
_RESTART = re.compile(r"(no|always|unless-stopped|on-failure)(?::(\d+))?")
_SERVICE_NAME = re.compile(r"[a-zA-Z0-9](?:[-_a-zA-Z0-9]*[a-zA-Z0-9])?")

Spec = dict[str, Any]


class FileObject(NamedTuple):
    """A secret or config, called ``key`` in the stack's files: its spec without the data, which is at ``path``."""

    key: str
    spec: Spec
    path: str


class Stack(NamedTuple):
    """All that a stack consists of. Services refer to networks, secrets and configs by name.

    ``external_*`` must be there already: names of networks, kinds (``secret``, ``config``) and names of files.
    """

    name: str
    networks: list[Spec]
    external_networks: list[str]
    external_files: list[tuple[str, str]]
    secrets: list[FileObject]
    configs: list[FileObject]
    services: list[Spec]


class _Misfit(Exception):
    """What the configuration says under ``keys`` cannot be."""

    def __init__(self, message: str, *keys: str) -> None:
        super().__init__(message)
        self.keys = keys


def convert(name: str, config: Config, files: list[Value]) -> Stack:
    """The stack called ``name``; ``files`` are those that ``config`` was read from. Raises CliError."""
    check_name(name)
    networks = config.get("networks", {})
    used = sorted({network for service in config["services"].values() for network in _networks_of(service)})
    try:
        services = [_service(name, key, service, config) for key, service in config["services"].items()]
    except _Misfit as exc:
        raise ComposeError(place(files, *exc.keys), ".".join(exc.keys), str(exc)) from exc
    return Stack(
        name=name,
        networks=[_network(name, key, networks.get(key, {})) for key in used if not _external(networks.get(key))],
        external_networks=[networks[key]["name"] for key in used if _external(networks.get(key))],
        external_files=_external_files(config),
        secrets=_file_objects(name, config.get("secrets", {})),
        configs=_file_objects(name, config.get("configs", {})),
        services=services,
    )


def check_name(name: str) -> None:
    """Raise CliError for a name that would not do as part of service names."""
    check_filled(name)
    if not _SERVICE_NAME.fullmatch(name) or len(name) >= MAX_SERVICE_NAME_CHARS:
        raise CliError(
            f'invalid stack name: "{name}": letters, digits, - and _ are allowed, but not at either end, '
            f"and fewer than {MAX_SERVICE_NAME_CHARS} characters"
        )


def _scoped(stack: str, name: str, obj: Config | None = None) -> str:
    """An object's name in the cluster: its own if the file gives it one."""
    return str((obj or {}).get("name") or f"{stack}_{name}")


def _labelled(stack: str, labels: dict[str, str] | None) -> dict[str, str]:
    return {**(labels or {}), NAMESPACE_LABEL: stack}


def _external(network: Config | None) -> bool:
    return network is not None and "external" in network


def _networks_of(service: Config) -> dict[str, Config | None]:
    return service.get("networks") or {DEFAULT_NETWORK: None}


def _network(stack: str, key: str, network: Config) -> Spec:
    ipam = network.get("ipam", {})
    return {
        "Name": _scoped(stack, key, network),
        "CheckDuplicate": True,
        "Driver": network.get("driver", "overlay"),
        "Internal": network.get("internal", False),
        "Attachable": network.get("attachable", False),
        "IPAM": {
            "Driver": ipam.get("driver", "default"),
            "Config": [{"Subnet": pool["subnet"]} for pool in ipam.get("config", []) if "subnet" in pool],
        },
        "Options": network.get("driver_opts", {}),
        "Labels": _labelled(stack, network.get("labels")),
    }


def _external_files(config: Config) -> list[tuple[str, str]]:
    """Those that services use."""
    return sorted(
        {
            (kind.removesuffix("s"), config[kind][reference["source"]]["name"])
            for kind in ("secrets", "configs")
            for service in config["services"].values()
            for reference in service.get(kind, [])
            if "external" in config[kind][reference["source"]]
        }
    )


def _file_objects(stack: str, objects: dict[str, Config]) -> list[FileObject]:
    return [
        FileObject(
            key, {"Name": _scoped(stack, key, obj), "Labels": _labelled(stack, obj.get("labels"))}, obj["file"]
        )
        for key, obj in sorted(objects.items())
        if "external" not in obj
    ]


def _service(stack: str, key: str, service: Config, config: Config) -> Spec:
    name = f"{stack}_{key}"
    if len(name) > MAX_SERVICE_NAME_CHARS or not _SERVICE_NAME.fullmatch(name):
        raise _Misfit(
            f'the service cannot be called "{name}": letters, digits, - and _ are allowed, and at most '
            f"{MAX_SERVICE_NAME_CHARS} characters",
            "services",
            key,
        )
    image = service.get("image", "")
    if not image:
        raise _Misfit(f"invalid image reference for service {key}: no image specified", "services", key)
    if not is_image_reference(image):
        raise _Misfit(f'invalid image reference: "{image[:200]}"', "services", key, "image")
    deploy = service.get("deploy", {})
    spec: Spec = {
        "Name": name,
        "Labels": {**_labelled(stack, deploy.get("labels")), IMAGE_LABEL: image},
        "TaskTemplate": {
            "ContainerSpec": _container(stack, key, service, config),
            "Resources": _resources(deploy.get("resources", {})),
            "Networks": _attachments(stack, key, service, config.get("networks", {})),
        },
        "Mode": {"Replicated": {"Replicas": deploy.get("replicas", 1)}},
        "EndpointSpec": {
            "Mode": deploy.get("endpoint_mode", "").lower(),
            "Ports": _ports(service.get("ports", [])),
        },
    }
    policy = _restart_policy(key, service)
    if policy is not None:
        spec["TaskTemplate"]["RestartPolicy"] = policy
    if "update_config" in deploy:
        spec["UpdateConfig"] = _update_config(deploy["update_config"])
    return spec


#: Key of a stack file -> field of a container's spec, where the value is the same.
_SAME = {
    "entrypoint": "Command", "command": "Args", "hostname": "Hostname", "working_dir": "Dir", "user": "User",
    "stop_grace_period": "StopGracePeriod", "stop_signal": "StopSignal", "tty": "TTY", "stdin_open": "OpenStdin",
    "read_only": "ReadOnly", "init": "Init",
}  # fmt: skip


def _container(stack: str, key: str, service: Config, config: Config) -> Spec:
    container: Spec = {"Image": service["image"], "Labels": _labelled(stack, service.get("labels"))}
    container.update({field: service[given] for given, field in _SAME.items() if given in service})
    environment = service.get("environment", {})
    if environment:
        container["Env"] = [
            name if value is None else f"{name}={value}" for name, value in sorted(environment.items())
        ]
    for name, value in environment.items():
        # From a file of variables; where the stack file itself says so, its line was told before.
        if "{{" in (value or ""):
            text = f"the template in {name} is not supported by this version of pyswarm"
            raise _Misfit(text, "services", key, "env_file")
    for kind, field in (("secrets", "Secrets"), ("configs", "Configs")):
        references = [_reference(stack, kind, one, config.get(kind, {})) for one in service.get(kind, [])]
        if references:
            container[field] = sorted(references, key=lambda reference: reference[f"{field[:-1]}Name"])
    return container


def _reference(stack: str, kind: str, reference: Config, objects: dict[str, Config]) -> Spec:
    source = reference["source"]
    file = {
        "Name": reference.get("target", source),
        "UID": reference.get("uid", "0"),
        "GID": reference.get("gid", "0"),
        "Mode": reference.get("mode", 0o444),
    }
    name_field = "SecretName" if kind == "secrets" else "ConfigName"
    return {"File": file, name_field: _scoped(stack, source, objects[source])}


def _attachments(stack: str, key: str, service: Config, networks: dict[str, Config]) -> list[Spec]:
    attachments = []
    for network, settings in _networks_of(service).items():
        target = _scoped(stack, network, networks.get(network))
        aliases = list((settings or {}).get("aliases", []))
        if target not in _PREDEFINED_NETWORKS:
            # Within a stack, services know one another by their short names.
            aliases.append(key)
        attachments.append({"Target": target, "Aliases": aliases})
    return sorted(attachments, key=lambda attachment: attachment["Target"])


def _ports(ports: list[Config]) -> list[Spec]:
    found = [
        {
            "Protocol": port.get("protocol", "tcp"),
            "TargetPort": port["target"],
            "PublishedPort": port.get("published", 0),
            "PublishMode": port.get("mode", "ingress"),
        }
        for port in ports
    ]
    return sorted(found, key=lambda p: (p["PublishedPort"], p["TargetPort"], p["Protocol"], p["PublishMode"]))


def _resources(resources: Config) -> Spec:
    found: Spec = {}
    for part, field in (("limits", "Limits"), ("reservations", "Reservations")):
        given = resources.get(part, {})
        amounts = {
            "NanoCPUs": parse_cpus(given["cpus"]) if "cpus" in given else 0,
            "MemoryBytes": given.get("memory", 0),
            "Pids": given.get("pids", 0),
        }
        if any(amounts.values()):
            found[field] = {name: amount for name, amount in amounts.items() if amount}
    return found


def _restart_policy(key: str, service: Config) -> Spec | None:
    policy = service.get("deploy", {}).get("restart_policy")
    if policy is not None:
        names = {"condition": "Condition", "delay": "Delay", "max_attempts": "MaxAttempts", "window": "Window"}
        return {field: policy[given] for given, field in names.items() if given in policy}
    restart = service.get("restart", "")
    if not restart:
        return None
    # What single engines are told; docker takes it where deploy says nothing.
    match = _RESTART.fullmatch(restart)
    if match is None or (match[2] and match[1] != "on-failure"):
        raise _Misfit(
            f'invalid restart policy "{restart}": it must be no, always, unless-stopped or on-failure[:TIMES]',
            "services",
            key,
            "restart",
        )
    if match[1] == "no":
        return None
    attempts = {"MaxAttempts": int(match[2])} if int(match[2] or 0) else {}
    return {"Condition": "on-failure" if match[1] == "on-failure" else "any", **attempts}


def _update_config(config: Config) -> Spec:
    return {
        "Parallelism": config.get("parallelism", 1),
        "Delay": config.get("delay", 0),
        "FailureAction": config.get("failure_action", "pause"),
        "Monitor": config.get("monitor", 0) or 5 * 10**9,
        "MaxFailureRatio": config.get("max_failure_ratio", 0),
        "Order": config.get("order", "stop-first"),
    }
