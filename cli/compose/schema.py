"""The keys of stack files of version 3.0 to 3.13, and what each of them means.

The order is that in which ``stack config`` prints them.
"""

from collections.abc import Callable
from typing import Any

from pyswarm.cli.compose import ports, volumes, words
from pyswarm.cli.compose.scalars import as_text
from pyswarm.cli.compose.shapes import (
    BOOLEAN,
    INTEGER,
    NUMBER,
    STRING,
    Either,
    Field,
    Fields,
    Items,
    Meaning,
    Scalar,
    Shape,
    Table,
    Version,
)
from pyswarm.cli.units import parse_cpus, parse_duration, parse_size

NEWEST = Version(3, 13)
#: The version from which on a file may have keys ``x-...``: at its top, and within objects.
_EXTRA_AT_TOP, _EXTRA_WITHIN = 4, 7

_NOTHING = Scalar("empty")
_STRINGS = Items(STRING, unique=True)


def _or_nothing(shape: Shape) -> Shape:
    """The shape, or nothing at all, which means an empty mapping."""
    return Either(shape, Meaning(_NOTHING, lambda _nothing: {}))


def _pairs(separator: str, without: str | None) -> Shape:
    """Names and values as a mapping or as a list of ``name=value``; ``without`` is the value of a name alone."""

    def from_mapping(given: dict[str, Any]) -> dict[str, str | None]:
        return {key: without if value is None else as_text(value) for key, value in sorted(given.items())}

    def from_list(given: list[str]) -> dict[str, str | None]:
        parts = [text.partition(separator) for text in given]
        return dict(sorted((key, value if found else without) for key, found, value in parts))

    return Either(Meaning(Table(Scalar("string", "number", "empty")), from_mapping), Meaning(_STRINGS, from_list))


def _hosts_from_mapping(given: dict[str, Any]) -> list[str]:
    return [_host(key, as_text(value)) for key, value in sorted(given.items()) if value is not None]


def _hosts_from_list(given: list[str]) -> list[str]:
    found = []
    for text in given:
        separator = "=" if "=" in text else ":"
        name, has_ip, ip = text.partition(separator)
        if not has_ip:
            raise ValueError(f"bad format for add-host: {text!r}: it must be HOST:IP")
        found.append(_host(name, ip))
    return found


def _host(name: str, ip: str) -> str:
    return f"{name}:{ip[1:-1] if ip.startswith('[') and ip.endswith(']') else ip}"


def _one_or_more(single: Callable[[str], Any]) -> Shape:
    return Either(Meaning(STRING, single), Items(STRING))


def _checked(check: Callable[[str], Any]) -> Callable[[str], str]:
    """Keep the text that ``check`` accepts."""

    def keep(text: str) -> str:
        check(text)
        return text

    return keep


_LABELS = _pairs("=", "")
_ENVIRONMENT = _pairs("=", None)
_HOSTS = Either(
    Meaning(Table(Scalar("string", "number", "empty")), _hosts_from_mapping), Meaning(_STRINGS, _hosts_from_list)
)
_OPTIONS = Meaning(
    Table(Scalar("string", "number")), lambda given: {key: as_text(given[key]) for key in sorted(given)}
)
_STRING_LIST = Either(Meaning(STRING, lambda text: [text]), _STRINGS)
_COMMAND = _one_or_more(words.split)
_DURATION = Scalar("string", convert=lambda text: _not_negative(parse_duration(text)))
_SIZE = Scalar("string", convert=parse_size)
_CPUS = Scalar("string", convert=_checked(parse_cpus))


def _having(key: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Refuse a mapping without ``key``."""

    def check(given: dict[str, Any]) -> dict[str, Any]:
        if key not in given:
            raise ValueError(f"must have a {key}")
        return given

    return check


_FILE_REFERENCE = Either(
    Meaning(STRING, lambda source: {"source": source}),
    Meaning(
        Fields(
            {"source": STRING, "target": STRING, "uid": STRING, "gid": STRING, "mode": Field(INTEGER, keep=True)}
        ),
        _having("source"),
    ),
)

_BUILD = Either(
    Meaning(STRING, lambda context: {"context": context}),
    Fields(
        {
            "context": STRING, "dockerfile": STRING, "args": _ENVIRONMENT, "labels": Field(_LABELS, since=3),
            "cache_from": Field(_STRING_LIST, since=2), "extra_hosts": Field(_HOSTS, since=9),
            "network": Field(STRING, since=4), "target": Field(STRING, since=4),
        },
        any_other=True,
    ),
)  # fmt: skip

_HEALTHCHECK = Fields(
    {
        "test": _one_or_more(lambda command: ["CMD-SHELL", command]),
        "timeout": Field(_DURATION, keep=True),
        "interval": Field(_DURATION, keep=True),
        "retries": Field(INTEGER, keep=True),
        "start_period": Field(_DURATION, since=4, keep=True),
        "start_interval": Field(_DURATION, since=12, keep=True),
        "disable": BOOLEAN,
    }
)


def _one_of(*allowed: str) -> Shape:
    def check(text: str) -> str:
        if text not in allowed:
            raise ValueError(f"{text!r} is none of {', '.join(allowed)}")
        return text

    return Scalar("string", convert=check)


def _not_negative(value: Any) -> Any:
    if value < 0:
        raise ValueError("must not be negative")
    return value


_COUNT = Scalar("integer", convert=_not_negative)


def _update_config(order_since: int, failure_actions: tuple[str, ...]) -> Shape:
    return Fields(
        {
            "parallelism": Field(_COUNT, keep=True),
            "delay": _DURATION,
            "failure_action": _one_of(*failure_actions),
            "monitor": _DURATION,
            "max_failure_ratio": Meaning(NUMBER, _ratio),
            "order": Field(_one_of("start-first", "stop-first"), since=order_since),
        }
    )


def _ratio(value: float) -> float:
    if not 0 <= value <= 1:
        raise ValueError("must be a number from 0 to 1")
    return value


_RESERVATIONS = Fields(
    {
        "cpus": _CPUS,
        "memory": _SIZE,
        "generic_resources": Field(
            Items(Fields({"discrete_resource_spec": Fields({"kind": STRING, "value": INTEGER})})), since=5
        ),
    }
)

_DEPLOY = Fields(
    {
        "mode": _one_of("replicated", "global", "replicated-job", "global-job"),
        "replicas": Field(_COUNT, keep=True),
        "labels": _LABELS,
        "update_config": Field(_update_config(4, ("pause", "continue", "rollback")), keep=True),
        "rollback_config": Field(_update_config(7, ("pause", "continue")), since=7, keep=True),
        "resources": Fields(
            {
                "limits": Field(
                    Fields({"cpus": _CPUS, "memory": _SIZE, "pids": Field(_COUNT, since=9)}), keep=True
                ),
                "reservations": Field(_RESERVATIONS, keep=True),
            }
        ),
        "restart_policy": Field(
            Fields(
                {
                    "condition": _one_of("none", "on-failure", "any"),
                    "delay": Field(_DURATION, keep=True),
                    "max_attempts": Field(_COUNT, keep=True),
                    "window": Field(_DURATION, keep=True),
                }
            ),
            keep=True,
        ),
        "placement": Fields(
            {
                "constraints": Items(STRING),
                "preferences": Field(Items(Fields({"spread": STRING})), since=3),
                "max_replicas_per_node": Field(_COUNT, since=8),
            }
        ),
        "endpoint_mode": Field(STRING, since=2),
    }
)


def _named_none(names: list[str]) -> dict[str, None]:
    return dict.fromkeys(sorted(names))


_NETWORKS_OF_SERVICE = Either(
    Meaning(_STRINGS, _named_none),
    Meaning(
        Table(
            Either(
                Fields(
                    {
                        "aliases": _STRINGS,
                        "driver_opts": Field(_OPTIONS, since=13),
                        "ipv4_address": STRING,
                        "ipv6_address": STRING,
                    }
                ),
                _NOTHING,
            ),
            named=True,
        ),
        lambda given: dict(sorted(given.items())),
    ),
)

_PORT = Either(
    Meaning(Scalar("number", "string"), ports.from_short),
    Meaning(
        Fields(
            {
                "mode": Field(_one_of("ingress", "host"), since=2),
                "target": Field(Scalar("integer", convert=ports.check_target), since=2),
                "published": Field(Scalar("integer", convert=ports.check_port), since=2),
                "protocol": Field(_one_of("tcp", "udp", "sctp"), since=2),
            }
        ),
        lambda port: [_having("target")(port)],
    ),
)

_ULIMIT = Either(
    Meaning(INTEGER, lambda both: {"single": both} if both else {}),
    Fields({"soft": INTEGER, "hard": INTEGER}),
)

_VOLUME_OF_SERVICE = Either(
    Meaning(STRING, volumes.from_short),
    Fields(
        {
            "type": Field(STRING, since=2),
            "source": Field(STRING, since=2),
            "target": Field(STRING, since=2),
            "read_only": Field(BOOLEAN, since=2),
            "consistency": Field(STRING, since=2),
            "bind": Field(Fields({"propagation": STRING}), since=2),
            "volume": Field(Fields({"nocopy": BOOLEAN}), since=2),
            "tmpfs": Field(Fields({"size": _COUNT}), since=6),
        }
    ),
)

SERVICE = Fields(
    {
        "build": _BUILD,
        "cap_add": _STRINGS,
        "cap_drop": _STRINGS,
        "cgroupns_mode": Field(STRING, since=9),
        "cgroup_parent": STRING,
        "command": _COMMAND,
        "configs": Field(Items(_FILE_REFERENCE), since=3),
        "container_name": STRING,
        "credential_spec": Field(
            Fields({"config": Field(STRING, since=8), "file": STRING, "registry": STRING}), since=3
        ),
        "depends_on": _STRINGS,
        "deploy": _or_nothing(_DEPLOY),
        "devices": _STRINGS,
        "dns": _STRING_LIST,
        "dns_search": _STRING_LIST,
        "domainname": STRING,
        "entrypoint": _COMMAND,
        "environment": _ENVIRONMENT,
        "env_file": _STRING_LIST,
        "expose": Items(Meaning(Scalar("string", "number"), as_text), unique=True),
        "external_links": _STRINGS,
        "extra_hosts": _HOSTS,
        "hostname": STRING,
        "healthcheck": Field(_HEALTHCHECK, keep=True),
        "image": STRING,
        "init": Field(BOOLEAN, since=7, keep=True),
        "ipc": STRING,
        "isolation": Field(STRING, since=5),
        "labels": _LABELS,
        "links": _STRINGS,
        "logging": Field(
            Fields(
                {
                    "driver": STRING,
                    "options": Meaning(
                        Table(Scalar("string", "number", "empty")),
                        lambda given: {k: "" if given[k] is None else as_text(given[k]) for k in sorted(given)},
                    ),
                }
            ),
            keep=True,
        ),
        "mac_address": STRING,
        "network_mode": STRING,
        "networks": _NETWORKS_OF_SERVICE,
        "oom_score_adj": Field(INTEGER, since=13),
        "pid": Scalar("string", "empty"),
        "ports": Items(_PORT, flat=True),
        "privileged": BOOLEAN,
        "read_only": BOOLEAN,
        "restart": STRING,
        "secrets": Field(Items(_FILE_REFERENCE), since=1),
        "security_opt": _STRINGS,
        "shm_size": Meaning(Scalar("number", "string"), as_text),
        "stdin_open": BOOLEAN,
        "stop_grace_period": Field(_DURATION, keep=True),
        "stop_signal": STRING,
        "sysctls": _LABELS,
        "tmpfs": _STRING_LIST,
        "tty": BOOLEAN,
        "ulimits": Meaning(Table(_ULIMIT), lambda given: dict(sorted(given.items()))),
        "user": STRING,
        "userns_mode": STRING,
        "volumes": Items(_VOLUME_OF_SERVICE),
        "working_dir": STRING,
    },
    extra=_EXTRA_WITHIN,
)

_EXTERNAL = Either(
    Meaning(BOOLEAN, lambda external: {"external": external}),
    Meaning(Fields({"name": STRING}), lambda named: {"external": True, **named}),
)

_NETWORK = Fields(
    {
        "name": Field(STRING, since=5),
        "driver": STRING,
        "driver_opts": _OPTIONS,
        "ipam": Fields({"driver": STRING, "config": Items(Fields({"subnet": STRING}))}),
        "external": _EXTERNAL,
        "internal": BOOLEAN,
        "attachable": Field(BOOLEAN, since=2),
        "labels": _LABELS,
    },
    extra=_EXTRA_WITHIN,
)

_VOLUME = Fields(
    {
        "name": Field(STRING, since=4),
        "driver": STRING,
        "driver_opts": _OPTIONS,
        "external": _EXTERNAL,
        "labels": _LABELS,
    },
    extra=_EXTRA_WITHIN,
)


def _file_object(of_secret: bool) -> Shape:
    fields: dict[str, Field | Shape] = {
        "name": Field(STRING, since=5),
        "file": STRING,
        "external": _EXTERNAL,
        "labels": _LABELS,
    }
    if of_secret:
        fields |= {"driver": Field(STRING, since=8), "driver_opts": Field(_OPTIONS, since=8)}
    return Fields({**fields, "template_driver": Field(STRING, since=8)}, extra=_EXTRA_WITHIN)


FILE = Fields(
    {
        "version": STRING,
        "services": Field(Table(SERVICE, named=True), keep=True),
        "networks": Table(_or_nothing(_NETWORK), named=True),
        "volumes": Table(_or_nothing(_VOLUME), named=True),
        "secrets": Field(Table(_file_object(of_secret=True), named=True), since=1),
        "configs": Field(Table(_file_object(of_secret=False), named=True), since=3),
    },
    extra=_EXTRA_AT_TOP,
)
