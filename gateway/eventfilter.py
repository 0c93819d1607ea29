"""Docker's filters of events, for those of the cluster; the engine knows them for its own. Pure."""

from collections.abc import Mapping, Sequence

from pyswarm.common.types import ClusterEvent

#: Of which kinds of objects the cluster has events. Networks are also the engine's.
_CLUSTER_KINDS = ("config", "network", "node", "secret", "service")
_ENGINE_KINDS = ("container", "daemon", "image", "plugin", "volume")
KNOWN = frozenset({*_CLUSTER_KINDS, *_ENGINE_KINDS, "event", "label", "name", "scope", "type"})


class EventFilter:
    """``filters`` as parsed: values of one filter are alternatives, different filters must all match."""

    def __init__(self, filters: Mapping[str, Sequence[str]]) -> None:
        self._filters = filters
        types, scopes = filters.get("type", ()), filters.get("scope", ())
        #: Whether any event of the cluster, or of the engine, can pass.
        self.wants_cluster = (
            not any(kind in filters for kind in _ENGINE_KINDS)
            and (not types or any(kind in types for kind in _CLUSTER_KINDS))
            and (not scopes or "swarm" in scopes)
        )
        self.wants_engine = (not scopes or "local" in scopes) and (
            not types or any(kind in types for kind in (*_ENGINE_KINDS, "network", "builder"))
        )
        #: What the engine is asked with: it knows no names by themselves.
        self.for_engine = {name: list(values) for name, values in filters.items() if name != "name"}

    def passes(self, event: ClusterEvent) -> bool:
        """Whether an event of the cluster is wanted."""
        if not self.wants_cluster:
            return False
        for name, values in self._filters.items():
            if name == "type":
                passes = event.type in values
            elif name == "event":
                passes = event.action in values
            elif name == "scope":
                passes = "swarm" in values
            elif name == "label":
                labels = {**event.labels, **event.attributes}
                passes = all(_has_label(labels, value) for value in values)
            elif name == "name":
                passes = self.passes_name(event.attributes.get("name", ""))
            else:
                begins = tuple(values)
                passes = event.type == name and (
                    event.id.startswith(begins) or event.attributes.get("name", "").startswith(begins)
                )
            if not passes:
                return False
        return True

    def passes_name(self, name: str) -> bool:
        """Whether what is called so is wanted."""
        return "name" not in self._filters or name.startswith(tuple(self._filters["name"]))


def _has_label(labels: Mapping[str, str], wanted: str) -> bool:
    key, separator, value = wanted.partition("=")
    return key in labels and (not separator or labels[key] == value)
