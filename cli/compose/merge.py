"""Several stack files as one: a later file adds to an earlier one and overrides it. Pure."""

from collections.abc import Callable
from typing import Any

Config = dict[str, Any]

#: Mappings of names to objects; a later file's object takes the place of an earlier one's.
_OBJECTS = ("networks", "volumes", "secrets", "configs")
#: Lists that one file must give whole.
_WHOLE = ("command", "entrypoint", "test", "aliases")


def _port_key(port: Config) -> tuple[int, int, str]:
    protocol = port.get("protocol", "tcp")
    # Two ports that are published anywhere do not stand in each other's way.
    return port.get("published", 0), 0 if "published" in port else port.get("target", 0), protocol


#: Lists whose items stand for something; a later file's item for the same thing takes the earlier one's place.
_KEYED: dict[str, Callable[[Config], Any]] = {
    "ports": _port_key,
    "secrets": lambda reference: reference.get("source", ""),
    "configs": lambda reference: reference.get("source", ""),
    "volumes": lambda volume: volume.get("target", ""),
}


def merged(configs: list[Config]) -> Config:
    """The configurations as one; the first is the base."""
    base, *others = configs
    for other in others:
        base = _merge_two(base, other)
    return base


def _merge_two(base: Config, over: Config) -> Config:
    services = dict(base["services"])
    for name, service in over["services"].items():
        services[name] = _fields(services[name], service) if name in services else service
    objects = {kind: {**base.get(kind, {}), **over.get(kind, {})} for kind in _OBJECTS}
    return {**base, "services": services, **{kind: found for kind, found in objects.items() if found}}


def _fields(base: Config, over: Config) -> Config:
    result = dict(base)
    for key, value in over.items():
        result[key] = _member(key, base[key], value) if key in base else value
    return result


def _member(key: str, base: Any, over: Any) -> Any:
    if key == "logging" and base.get("driver", "") != over.get("driver", base.get("driver", "")):
        return over
    if key == "ulimits":
        return {**base, **over}
    if isinstance(base, dict) and isinstance(over, dict):
        return dict(_fields(base, over))
    if isinstance(base, list) and isinstance(over, list) and key not in _WHOLE:
        return _lists(key, base, over)
    # A network that is only named again keeps what was said of it.
    return base if over is None and isinstance(base, dict) else over


def _lists(key: str, base: list[Any], over: list[Any]) -> list[Any]:
    key_of = _KEYED.get(key)
    if key_of is None:
        return [*base, *over]
    found = {key_of(item): item for item in [*base, *over]}
    return [found[one] for one in sorted(found)]
