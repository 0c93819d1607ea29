"""What stack files may say that swarm services do not do: refused, warned of, or not there yet. Pure."""

import re
from collections.abc import Callable, Iterator
from typing import Any

from pyswarm.cli.compose import ports
from pyswarm.cli.compose.shapes import plain
from pyswarm.cli.compose.value import ComposeError, Value, member
from pyswarm.cli.units import parse_duration

#: Keys of a service that mean nothing in a swarm. docker passes over depends_on without a word; here it is named.
_IGNORED = (
    "build", "cgroup_parent", "cgroupns_mode", "depends_on", "devices", "domainname", "external_links", "ipc",
    "links", "mac_address", "network_mode", "pid", "privileged", "restart", "security_opt", "shm_size",
    "userns_mode",
)  # fmt: skip
_DEPRECATED = {
    "container_name": "Setting the container name is not supported.",
    "expose": "Exposing ports is unnecessary - services on the same network can access each other's containers on "
    "any port.",
}
_LIMITS = "set resource limits using deploy.resources"
_FORBIDDEN = {
    "extends": "extends is not part of this format; use YAML anchors, or several files",
    "volume_driver": "name the driver of a volume at the top level, in volumes",
    "volumes_from": "define a volume at the top level and name it in each service that shares it",
    "cpu_quota": _LIMITS,
    "cpu_shares": _LIMITS,
    "cpuset": _LIMITS,
    "mem_limit": _LIMITS,
    "memswap_limit": _LIMITS,
}
#: Of the old formats' top level and of the newest one's, which this is not.
_OTHER_FORMAT = {
    "name": "the name of a stack is given to the command",
    "include": "give several files to the command",
}

Accepts = Callable[[Any], bool]


def _never(_value: Any) -> bool:
    return False


def _equal(*allowed: Any) -> Accepts:
    return lambda value: value in allowed


def _other_than(refused: Any) -> Accepts:
    return lambda value: value != refused


def _five_seconds(value: Any) -> bool:
    return isinstance(value, str) and parse_duration(value) in (0, 5 * 10**9)


def _no_template(value: Any) -> bool:
    return "{{" not in str(value)


def _only_mtu(value: Any) -> bool:
    return isinstance(value, dict) and set(value) <= {"com.docker.network.driver.mtu"}


def _no_address(value: Any) -> bool:
    return not isinstance(value, str) or not ports.taken_apart(value).ip


#: What this version's services cannot do. ``*`` stands for any name or list item. A value that says nothing, or
#: that the function accepts, asks for nothing special.
_NOT_YET: tuple[tuple[str, Accepts], ...] = (
    *((f"services.*.{key}", _never) for key in (
        "cap_add", "cap_drop", "credential_spec", "dns", "dns_search", "extra_hosts", "healthcheck", "logging",
        "oom_score_adj", "sysctls", "tmpfs", "ulimits", "volumes",
    )),
    ("services.*.isolation", _equal("default")),
    ("services.*.hostname", _no_template),
    ("services.*.environment.*", _no_template),
    ("services.*.ports.*", _no_address),
    ("services.*.networks.*.driver_opts", _never),
    ("services.*.networks.*.ipv4_address", _never),
    ("services.*.networks.*.ipv6_address", _never),
    ("services.*.deploy.mode", _equal("replicated")),
    ("services.*.deploy.placement.constraints", _never),
    ("services.*.deploy.placement.preferences", _never),
    ("services.*.deploy.placement.max_replicas_per_node", _never),
    ("services.*.deploy.resources.reservations.generic_resources", _never),
    ("services.*.deploy.update_config.failure_action", _other_than("rollback")),
    ("services.*.deploy.rollback_config.parallelism", _equal(1)),
    ("services.*.deploy.rollback_config.delay", lambda value: parse_duration(value) == 0),
    ("services.*.deploy.rollback_config.failure_action", _equal("pause")),
    ("services.*.deploy.rollback_config.monitor", _five_seconds),
    ("services.*.deploy.rollback_config.order", _equal("stop-first")),
    ("services.*.deploy.rollback_config.max_failure_ratio", _never),
    ("networks.*.driver", _equal("overlay")),
    ("networks.*.driver_opts", _only_mtu),
    ("networks.*.ipam.driver", _equal("default")),
    ("secrets.*.driver", _never),
    ("secrets.*.driver_opts", _never),
    ("secrets.*.template_driver", _never),
    ("configs.*.template_driver", _never),
)  # fmt: skip


def check_forbidden(file: Value) -> None:
    """Raise ComposeError for keys that belong to other formats, with what to do instead."""
    for key, item in file.items():
        if key in _OTHER_FORMAT:
            raise ComposeError(item, key, f"not supported in stack files: {_OTHER_FORMAT[key]}")
    for path, service in _matching(file, "services.*"):
        for key, item in service.items():
            if key in _FORBIDDEN:
                raise ComposeError(item, member(path, key), f"not supported in stack files: {_FORBIDDEN[key]}")


def check_supported(file: Value) -> None:
    """Raise ComposeError for the first thing this version cannot do."""
    for pattern, accepts in _NOT_YET:
        for path, value in _matching(file, pattern):
            given = plain(value)
            if given not in (None, False, 0, "", [], {}) and not accepts(given):
                raise ComposeError(value, path, _refusal(path, given))


def _refusal(path: str, given: Any) -> str:
    if re.fullmatch(r"services\.[^.]+\.ports\.\d+", path):
        return f"a host address ({given}) is not supported by this version of pyswarm: every node publishes a port"
    shown = f" {given}" if isinstance(given, str | int | float) else ""
    return f"{path.rpartition('.')[2]}{shown} is not supported by this version of pyswarm"


def _matching(value: Value, pattern: str, path: str = "") -> Iterator[tuple[str, Value]]:
    key, _, rest = pattern.partition(".")
    members: list[tuple[str | int, Value]] = [*value.items()]
    if isinstance(value.data, list):
        members = [*enumerate(value.data)]
    for name, item in members:
        if key in ("*", name):
            here = member(path, name)
            if rest:
                yield from _matching(item, rest, here)
            else:
                yield here, item


def warnings(files: list[Value]) -> list[str]:
    """What docker says of keys that it passes over."""
    used = {key for file in files for _, service in _matching(file, "services.*") for key, _ in service.items()}
    found = []
    if ignored := sorted(used.intersection(_IGNORED)):
        found.append(f"Ignoring unsupported options: {', '.join(ignored)}\n")
    if deprecated := sorted(used.intersection(_DEPRECATED)):
        described = "\n\n".join(f"{key}: {_DEPRECATED[key]}" for key in deprecated)
        found.append(f"Ignoring deprecated options:\n\n{described}\n")
    return found
