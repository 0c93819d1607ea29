"""The options that ``service create`` and ``service update`` share, and how they change a spec."""

import os
import shlex
from collections.abc import Callable, Mapping
from typing import Any

import click

from pyswarm.cli.base import Parsed
from pyswarm.cli.client import Client
from pyswarm.cli.errors import CliError, UsageError, not_supported
from pyswarm.cli.units import parse_cpus, parse_duration, parse_ratio, parse_size, parse_uint

Spec = dict[str, Any]

_SIZE = Parsed("bytes", parse_size)
_CPUS = Parsed("decimal", parse_cpus)
_DURATION = Parsed("duration", parse_duration)
_UINT = Parsed("uint", parse_uint)
_RATIO = Parsed("float", parse_ratio)
SHELL_WORDS = Parsed("command", shlex.split)

_SECOND_NS = 10**9
_DEFAULT_UPDATE = {
    "Parallelism": 1, "Delay": 0, "FailureAction": "pause", "Monitor": 5 * _SECOND_NS, "MaxFailureRatio": 0,
    "Order": "stop-first",
}  # fmt: skip

#: Docker's options that create and update share and that are refused by name so far.
REFUSED = (
    "cap-add", "cap-drop", "credential-spec", "health-cmd", "health-interval", "health-retries",
    "health-start-interval", "health-start-period", "health-timeout", "isolation", "log-driver", "log-opt",
    "max-concurrent", "no-healthcheck!", "oom-score-adj", "replicas-max-per-node", "rollback-delay",
    "rollback-failure-action", "rollback-max-failure-ratio", "rollback-monitor", "rollback-order",
    "rollback-parallelism", "with-registry-auth!", "memory-swap", "memory-swappiness",
)  # fmt: skip


def _option(*names: str, **kwargs: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return click.option(*names, **kwargs)


_SHARED = (
    _option("-d", "--detach", is_flag=True, help="Exit immediately instead of waiting for convergence"),
    _option("--endpoint-mode", type=click.Choice(["vip", "dnsrr"]), help="Endpoint mode [vip]"),
    _option("--entrypoint", type=SHELL_WORDS, help="Overwrite the default ENTRYPOINT of the image"),
    _option("--hostname", help="Container hostname"),
    _option("--init", is_flag=True, default=None, help="Use an init inside each service container"),
    _option("--limit-cpu", type=_CPUS, help="Limit CPUs"),
    _option("--limit-memory", type=_SIZE, help="Limit Memory"),
    _option("--limit-pids", type=_UINT, help="Limit maximum number of processes [0: unlimited]"),
    _option("--no-resolve-image", is_flag=True, help="Accepted: images are never looked up in a registry"),
    _option("-q", "--quiet", is_flag=True, help="Suppress progress output"),
    _option("--read-only", is_flag=True, default=None, help="Mount the container's root filesystem as read only"),
    _option("--replicas", type=_UINT, help="Number of tasks"),
    _option("--reserve-cpu", type=_CPUS, help="Reserve CPUs"),
    _option("--reserve-memory", type=_SIZE, help="Reserve Memory"),
    _option(
        "--restart-condition",
        type=click.Choice(["none", "on-failure", "any"]),
        help="When to restart [any]",
    ),
    _option("--restart-delay", type=_DURATION, help="Delay between restart attempts [5s]"),
    _option("--restart-max-attempts", type=_UINT, help="Maximum number of restarts before giving up"),
    _option("--restart-window", type=_DURATION, help="Window used to evaluate the restart policy"),
    _option("--stop-grace-period", type=_DURATION, help="Time to wait before force killing a container [10s]"),
    _option("--stop-signal", help="Signal to stop the container"),
    _option("-t", "--tty", is_flag=True, default=None, help="Allocate a pseudo-TTY"),
    _option("--update-delay", type=_DURATION, help="Delay between updates [0s]"),
    _option(
        "--update-failure-action",
        type=click.Choice(["pause", "continue", "rollback"]),
        help="Action on update failure [pause]",
    ),
    _option("--update-max-failure-ratio", type=_RATIO, help="Failure rate to tolerate during an update [0]"),
    _option("--update-monitor", type=_DURATION, help="How long each new task is watched for failure [5s]"),
    _option("--update-order", type=click.Choice(["start-first", "stop-first"]), help="Update order [stop-first]"),
    _option("--update-parallelism", type=_UINT, help="Tasks updated at once, 0 for all [1]"),
    _option("-u", "--user", help="Username or UID (format: <name|uid>[:<group|gid>])"),
    _option("-w", "--workdir", help="Working directory inside the container"),
)


def shared_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Declare all of them."""
    for option in reversed(_SHARED):
        function = option(function)
    return function


def apply_shared(spec: Spec, given: dict[str, Any]) -> None:
    """Put the shared options that were given into ``spec``, in place."""
    template = spec.setdefault("TaskTemplate", {})
    container = template.setdefault("ContainerSpec", {})
    for option, name in (
        ("entrypoint", "Command"), ("hostname", "Hostname"), ("init", "Init"), ("read_only", "ReadOnly"),
        ("stop_grace_period", "StopGracePeriod"), ("stop_signal", "StopSignal"), ("tty", "TTY"),
        ("user", "User"), ("workdir", "Dir"),
    ):  # fmt: skip
        _put(container, name, given[option])
    resources = template.setdefault("Resources", {})
    for part, option, name in (
        ("Limits", "limit_cpu", "NanoCPUs"), ("Limits", "limit_memory", "MemoryBytes"),
        ("Limits", "limit_pids", "Pids"), ("Reservations", "reserve_cpu", "NanoCPUs"),
        ("Reservations", "reserve_memory", "MemoryBytes"),
    ):  # fmt: skip
        if given[option] is not None:
            resources[part] = {**(resources.get(part) or {}), name: given[option]}
    policy = dict(template.get("RestartPolicy") or {})
    for option, name in (
        ("restart_condition", "Condition"), ("restart_delay", "Delay"), ("restart_max_attempts", "MaxAttempts"),
        ("restart_window", "Window"),
    ):  # fmt: skip
        _put(policy, name, given[option])
    if policy:
        template["RestartPolicy"] = policy
    update: Spec = {}
    for option, name in (
        ("update_parallelism", "Parallelism"), ("update_delay", "Delay"), ("update_monitor", "Monitor"),
        ("update_failure_action", "FailureAction"), ("update_max_failure_ratio", "MaxFailureRatio"),
        ("update_order", "Order"),
    ):  # fmt: skip
        _put(update, name, given[option])
    if update:
        spec["UpdateConfig"] = {**_DEFAULT_UPDATE, **(spec.get("UpdateConfig") or {}), **update}
    if given["endpoint_mode"] is not None:
        spec["EndpointSpec"] = {**(spec.get("EndpointSpec") or {}), "Mode": given["endpoint_mode"]}
    if given["replicas"] is not None:
        spec["Mode"] = {"Replicated": {"Replicas": given["replicas"]}}


def _put(target: Spec, name: str, value: Any) -> None:
    if value is not None:
        target[name] = value


def labels(given: tuple[str, ...]) -> dict[str, str]:
    """``key=value`` options; a key alone has an empty value."""
    return {key: value for key, _, value in (text.partition("=") for text in given)}


def environment(given: tuple[str, ...], present: Mapping[str, str] = os.environ) -> list[str]:
    """``-e`` options; a name alone takes its value of ``present``, or is left out when there is none."""
    variables = []
    for text in given:
        name, separator, _ = text.partition("=")
        if not name:
            raise UsageError(f'invalid argument "{text}" for "-e, --env" flag: invalid environment variable')
        if separator:
            variables.append(text)
        elif name in present:
            variables.append(f"{name}={present[name]}")
    return variables


def environment_files(paths: tuple[str, ...], present: Mapping[str, str] = os.environ) -> list[str]:
    """The variables of ``--env-file`` files: one per line, ``#`` starts a comment line."""
    variables: list[str] = []
    for path in paths:
        try:
            with open(path, encoding="utf-8-sig") as file:
                lines = file.read().splitlines()
        except (OSError, UnicodeDecodeError) as exc:
            raise CliError(f"cannot read the environment file {path}: {getattr(exc, 'strerror', exc)}") from exc
        for line in lines:
            text = line.lstrip()
            if not text or text.startswith("#"):
                continue
            name = text.partition("=")[0]
            if not name or any(c.isspace() for c in name):
                raise CliError(f"poorly formatted environment: variable '{name}' contains whitespaces ({path})")
            variables += environment((text,), present)
    return variables


def network_option(text: str) -> tuple[str, list[str]]:
    """The network an option means, in its short or long form, and the aliases on it."""
    if "=" not in text:
        return text, []
    name, aliases = "", []
    for part in text.split(","):
        key, _, value = part.partition("=")
        if key == "name":
            name = value
        elif key == "alias":
            aliases.append(value)
        elif key == "driver-opt":
            raise not_supported(f"--network {key}")
        else:
            raise UsageError(f'invalid argument "{text}" for "--network" flag: invalid field key {key}')
    if not name or not all(aliases):
        raise UsageError(
            f'invalid argument "{text}" for "--network" flag: write NAME or name=NAME[,alias=ALIAS...]'
        )
    return name, aliases


def network_attachment(client: Client, text: str) -> Spec:
    """The attachment an option means, with the network's id."""
    name, aliases = network_option(text)
    target = str(client.one("networks", name, scope="swarm")["Id"])
    return {"Target": target, "Aliases": aliases} if aliases else {"Target": target}
