"""A configuration as YAML, as ``stack config`` prints it. The only user of PyYAML's writing half."""

from typing import Any

import yaml

from pyswarm.cli.compose import schema
from pyswarm.cli.compose.merge import Config
from pyswarm.cli.compose.scalars import resolve
from pyswarm.cli.units import go_duration

#: Keys whose numbers are nanoseconds or bytes, which are printed as text.
_DURATIONS = frozenset(
    {"delay", "monitor", "window", "timeout", "interval", "start_period", "start_interval", "stop_grace_period"}
)
_SIZES = frozenset({"memory"})
_TEXT = "tag:yaml.org,2002:str"


class _Writer(yaml.SafeDumper):
    """Lists are indented below their key; text that would be read as something else is in quotes."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> Any:
        return super().increase_indent(flow, False)

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(writer: _Writer, text: str) -> yaml.Node:
    # As numbers or booleans would be read by rules of either version of YAML.
    plain = isinstance(resolve(text), str) and _by_1_1(writer, text) == _TEXT
    return writer.represent_scalar(_TEXT, text, None if plain else '"')


def _by_1_1(writer: _Writer, text: str) -> Any:
    return writer.resolve(yaml.ScalarNode, text, (True, False))  # type: ignore[no-untyped-call]


_Writer.add_representer(str, _text)


def dump(config: Config) -> str:
    """The text, which ends in a newline."""
    ordered = {key: config[key] for key in schema.FILE.keys if key in config}
    ordered["services"] = {name: _service(config["services"][name]) for name in sorted(config["services"])}
    for kind in ("networks", "volumes", "secrets", "configs"):
        if kind in ordered:
            ordered[kind] = {name: ordered[kind][name] for name in sorted(ordered[kind])}
    extra = {key: value for key, value in config.items() if key not in ordered}
    return yaml.dump({**ordered, **extra}, Dumper=_Writer, sort_keys=False, allow_unicode=True, width=10**6)


def _service(service: Config) -> Config:
    ordered = {key: service[key] for key in schema.SERVICE.keys if key in service}
    return {key: _printed(key, value) for key, value in {**ordered, **service}.items()}


def _printed(key: str, value: Any) -> Any:
    if isinstance(value, dict):
        if set(value) == {"single"}:
            return value["single"]
        if key in ("environment", "labels", "sysctls", "options", "driver_opts") or key.startswith("x-"):
            return value
        return {name: _printed(name, item) for name, item in value.items()}
    if isinstance(value, list):
        return [_printed("", item) for item in value]
    if key in _DURATIONS and isinstance(value, int):
        return go_duration(value)
    return str(value) if key in _SIZES else value
