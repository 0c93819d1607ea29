"""The ``filters`` query parameter, in both forms: ``{"name": ["x"]}`` and ``{"name": {"x": true}}``."""

from collections.abc import Collection
from typing import Any

import msgspec

from pyswarm.common.errors import InvalidArgument

SERVICES = frozenset({"id", "label", "mode", "name"})
TASKS = frozenset({"_up-to-date", "desired-state", "id", "label", "name", "node", "service"})
NODES = frozenset({"id", "label", "membership", "name", "node.label", "role"})
FILES = frozenset({"id", "label", "name", "names"})
NETWORKS = frozenset({"dangling", "driver", "id", "label", "name", "scope", "type"})
NETWORKS_PRUNE = frozenset({"label", "label!", "until"})


def parse(text: str | None, allowed: Collection[str]) -> dict[str, list[str]]:
    """Filter name -> values; raises InvalidArgument for anything else than a known filter."""
    if not text:
        return {}
    try:
        raw: Any = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as exc:
        raise InvalidArgument("invalid filter") from exc
    if not isinstance(raw, dict):
        raise InvalidArgument("invalid filter")
    filters: dict[str, list[str]] = {}
    for name, values in raw.items():
        if name not in allowed:
            raise InvalidArgument(f"invalid filter '{name}'")
        if isinstance(values, dict):
            chosen = [value for value, wanted in values.items() if wanted]
        elif isinstance(values, list):
            if not all(isinstance(value, str | int) for value in values):
                raise InvalidArgument(f"invalid filter '{name}'")
            chosen = [str(value) for value in values]
        else:
            raise InvalidArgument(f"invalid filter '{name}'")
        if chosen:
            filters[name] = chosen
    return filters
