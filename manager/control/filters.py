"""Docker's list filters. Values of one filter are alternatives, different filters must all match; labels are the
exception: all of them must match. A filter nobody knows is refused, or a typing error would list everything."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from pyswarm.common.errors import InvalidArgument
from pyswarm.common.ids import ID_LENGTH
from pyswarm.common.types import Config, Network, Node, Secret, Service, Task, TaskState
from pyswarm.manager.state import Stored, View

T = TypeVar("T", Config, Network, Node, Secret, Service, Task)
Filters = Mapping[str, Sequence[str]]
_Predicate = Callable[[T], bool]
_Build = Callable[[View, Sequence[str]], _Predicate[T]]


def select(view: View, kind: str, filters: Filters) -> list[Stored]:
    """The objects of ``kind`` that pass all filters, oldest first. Raises InvalidArgument, or NotFound for the
    name of a service or node that is not there."""
    if kind == "service":
        return [*_passing(view, view.services.values(), _SERVICE, filters)]
    if kind == "task":
        return [*_passing(view, _candidates(view, filters), _TASK, filters)]
    if kind == "node":
        return [*_passing(view, view.nodes.values(), _NODE, filters)]
    if kind == "network":
        return [*_passing(view, view.networks.values(), _NETWORK, filters)]
    if kind == "secret":
        return [*_passing(view, view.secrets.values(), _SECRET, filters)]
    if kind == "config":
        return [*_passing(view, view.configs.values(), _CONFIG, filters)]
    raise InvalidArgument(f'objects of kind "{kind}" cannot be listed')


def _candidates(view: View, filters: Filters) -> Iterator[Task]:
    """All that can pass the filters, and as few others as the indexes allow: clients ask for the tasks of one
    service again and again while they wait for it."""
    ids = dict.fromkeys(filters.get("id", ()))
    if ids and all(len(value) == ID_LENGTH for value in ids):
        yield from (task for task in map(view.tasks.get, ids) if task is not None)
    elif services := filters.get("service"):
        for service_id in {view.services.find(value).id for value in services}:
            yield from view.tasks.by_service(service_id)
    elif nodes := filters.get("node"):
        for node_id in {node.id for value in nodes for node in _nodes_named(view, value)}:
            yield from view.tasks.by_node(node_id)
    else:
        yield from view.tasks.values()


def _passing(view: View, objects: Iterable[T], known: Mapping[str, _Build[T]], filters: Filters) -> list[T]:
    predicates: list[_Predicate[T]] = []
    for name, values in filters.items():
        if name not in known:
            raise InvalidArgument(f"invalid filter '{name}'")
        if values:
            predicates.append(known[name](view, values))
    return sorted((o for o in objects if all(p(o) for p in predicates)), key=lambda o: (o.created_at, o.id))


def _prefix(read: Callable[[T], str]) -> _Build[T]:
    def build(_view: View, values: Sequence[str]) -> _Predicate[T]:
        prefixes = tuple(values)
        return lambda obj: read(obj).startswith(prefixes)

    return build


def _equal(read: Callable[[T], str]) -> _Build[T]:
    def build(_view: View, values: Sequence[str]) -> _Predicate[T]:
        return lambda obj: read(obj) in values

    return build


def _part(read: Callable[[T], str]) -> _Build[T]:
    """Docker matches names of networks anywhere; ``^`` and ``$`` pin an end, as in its regular expressions."""

    def matches(text: str, value: str) -> bool:
        wanted = value.removeprefix("^").removesuffix("$")
        if value.startswith("^") and value.endswith("$"):
            return text == wanted
        if value.startswith("^"):
            return text.startswith(wanted)
        return text.endswith(wanted) if value.endswith("$") else wanted in text

    def build(_view: View, values: Sequence[str]) -> _Predicate[T]:
        return lambda obj: any(matches(read(obj), value) for value in values)

    return build


def _labels(read: Callable[[T], Mapping[str, str]]) -> _Build[T]:
    def build(_view: View, values: Sequence[str]) -> _Predicate[T]:
        wanted = [value.partition("=") for value in values]

        def passes(obj: T) -> bool:
            labels = read(obj)
            return all(key in labels and (not text or labels[key] == text) for key, _, text in wanted)

        return passes

    return build


def _choice(name: str, allowed: Iterable[str], read: Callable[[T], str]) -> _Build[T]:
    known = frozenset(allowed)

    def build(_view: View, values: Sequence[str]) -> _Predicate[T]:
        for value in values:
            if value not in known:
                raise InvalidArgument(f"invalid {name} filter: '{value}'")
        return lambda obj: read(obj) in values

    return build


def _service_of_task(view: View, values: Sequence[str]) -> _Predicate[Task]:
    ids = {view.services.find(value).id for value in values}
    return lambda task: task.service_id in ids


def _node_of_task(view: View, values: Sequence[str]) -> _Predicate[Task]:
    ids = {node.id for value in values for node in _nodes_named(view, value)}
    return lambda task: task.node_id in ids


def _nodes_named(view: View, value: str) -> list[Node]:
    """Several hosts may have one name; a filter then means all of them."""
    if view.nodes.get(value) is None:
        named = [node for node in view.nodes.named(value) if node.description.hostname == value]
        if named:
            return named
    return [view.nodes.find(value)]


def _up_to_date(view: View, values: Sequence[str]) -> _Predicate[Task]:
    """Tasks that were made from their service's present spec; clients watch an update's progress by it."""
    if not any(value.lower() in ("1", "true") for value in values):
        return lambda _task: True

    def passes(task: Task) -> bool:
        service = view.services.get(task.service_id)
        return (
            service is not None
            and task.published == service.endpoint.published
            and (task.spec == service.spec.task_template)
        )

    return passes


def _network_type(_view: View, values: Sequence[str]) -> _Predicate[Network]:
    for value in values:
        if value not in ("custom", "builtin"):
            raise InvalidArgument(f"invalid filter: 'type'='{value}'")
    return lambda _network: "custom" in values


_MODES = ("replicated", "global", "replicated-job", "global-job")

_SERVICE: dict[str, _Build[Service]] = {
    "id": _prefix(lambda s: s.id),
    "name": _prefix(lambda s: s.spec.name),
    "label": _labels(lambda s: s.spec.labels),
    "mode": _choice("mode", _MODES, lambda _s: "replicated"),
}
_TASK: dict[str, _Build[Task]] = {
    "id": _prefix(lambda t: t.id),
    "name": _prefix(lambda t: t.container_name),
    # The labels of the service: tools that deploy stacks rely on it.
    "label": _labels(lambda t: t.service_labels),
    "service": _service_of_task,
    "node": _node_of_task,
    "desired-state": _choice("desired-state", [s.value for s in TaskState], lambda t: t.desired_state.value),
    "_up-to-date": _up_to_date,
}
_NODE: dict[str, _Build[Node]] = {
    "id": _prefix(lambda n: n.id),
    "name": _prefix(lambda n: n.spec.name or n.description.hostname),
    "label": _labels(lambda n: n.description.engine.labels),
    "node.label": _labels(lambda n: n.spec.labels),
    "membership": _choice("membership", ("accepted", "pending"), lambda _n: "accepted"),
    "role": _choice("role", ("manager", "worker"), lambda n: n.spec.role.value),
}
_NETWORK: dict[str, _Build[Network]] = {
    "id": _part(lambda n: n.id),
    "name": _part(lambda n: n.spec.name),
    "label": _labels(lambda n: n.spec.labels),
    "driver": _equal(lambda n: n.spec.driver),
    "scope": _equal(lambda _n: "swarm"),
    "type": _network_type,
}
_SECRET: dict[str, _Build[Secret]] = {
    "id": _prefix(lambda s: s.id),
    "name": _prefix(lambda s: s.spec.name),
    "names": _equal(lambda s: s.spec.name),
    "label": _labels(lambda s: s.spec.labels),
}
_CONFIG: dict[str, _Build[Config]] = {
    "id": _prefix(lambda c: c.id),
    "name": _prefix(lambda c: c.spec.name),
    "names": _equal(lambda c: c.spec.name),
    "label": _labels(lambda c: c.spec.labels),
}


def decode_filters(message: Any) -> dict[str, list[str]]:
    """The filters of a ListRequest."""
    return {name: list(values.values) for name, values in message.items()}
