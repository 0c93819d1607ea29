"""From a change of the store to what clients are told, in Docker's words. Pure.

Most changes are none for clients: a service is updated when its spec or the state of its update changes, however
many tasks that takes; a node when its spec, its state or its part among the managers does.
"""

from datetime import datetime
from typing import Literal

from pyswarm.common.types import ClusterEvent, Config, Network, Node, NodeState, Secret, Service
from pyswarm.manager.state.entry import Stored, kind_of

#: Of whose objects there are events.
Told = Service | Node | Network | Secret | Config
Action = Literal["create", "update", "remove"]


def described(old: Stored | None, new: Stored | None, now_ns: int) -> ClusterEvent | None:
    """What is told of a change, if anything. ``now_ns`` is when it came, which only a removal needs."""
    obj = new if new is not None else old
    if not isinstance(obj, Told):
        return None
    attributes = {"name": _name(obj)}
    action: Action = "update"
    if old is None:
        action, time_ns = "create", _ns(obj.created_at)
    elif new is None:
        action, time_ns = "remove", now_ns
    else:
        changes = _changes(old, obj)
        if changes is None:
            return None
        attributes |= changes
        time_ns = _ns(obj.updated_at)
    return _event(obj, action, attributes, time_ns)


def leader_changed(node: Node, *, leads: bool, now_ns: int) -> ClusterEvent:
    """A manager leads from now on, or no longer. Who leads is not stored."""
    words = {True: "true", False: "false"}
    attributes = {"name": _name(node), "leader.old": words[not leads], "leader.new": words[leads]}
    return _event(node, "update", attributes, now_ns)


def _event(obj: Told, action: Action, attributes: dict[str, str], time_ns: int) -> ClusterEvent:
    return ClusterEvent(
        type=kind_of(obj),
        action=action,
        id=obj.id,
        time_ns=time_ns,
        attributes=attributes,
        labels=obj.spec.labels,
    )


def _name(obj: Told) -> str:
    if isinstance(obj, Node):
        return obj.spec.name or obj.description.hostname
    return obj.spec.name


def _ns(moment: datetime) -> int:
    return round(moment.timestamp() * 1_000_000) * 1000


def _changes(old: Stored, new: Told) -> dict[str, str] | None:
    """The attributes of an update; None for one that clients need not hear of."""
    changes: dict[str, str] = {}
    if isinstance(new, Service) and isinstance(old, Service):
        changes = _service_changes(old, new)
    elif isinstance(new, Node) and isinstance(old, Node):
        changes = _node_changes(old, new)
    same_spec = isinstance(old, type(new)) and old.spec == new.spec
    return None if same_spec and not changes else changes


def _pair(changes: dict[str, str], name: str, old: object, new: object) -> None:
    if old != new:
        changes[f"{name}.old"], changes[f"{name}.new"] = str(old), str(new)


def _service_changes(old: Service, new: Service) -> dict[str, str]:
    changes: dict[str, str] = {}
    _pair(
        changes,
        "image",
        old.spec.task_template.container_spec.image,
        new.spec.task_template.container_spec.image,
    )
    if old.spec.mode.replicated is not None and new.spec.mode.replicated is not None:
        _pair(changes, "replicas", old.spec.replicas, new.spec.replicas)
    if new.update_status is not None:
        if old.update_status is None:
            changes["updatestate.new"] = new.update_status.state
        else:
            _pair(changes, "updatestate", old.update_status.state, new.update_status.state)
    return changes


def _node_changes(old: Node, new: Node) -> dict[str, str]:
    changes: dict[str, str] = {}
    _pair(changes, "availability", old.spec.availability.value, new.spec.availability.value)
    _pair(changes, "role", old.spec.role.value, new.spec.role.value)
    _pair(changes, "state", old.status.state.value, new.status.state.value)
    if old.manager_status is not None and new.manager_status is not None:
        _pair(changes, "reachability", _reachability(old), _reachability(new))
    return changes


def _reachability(node: Node) -> str:
    """As nodes are shown: a manager that is down cannot be reached."""
    return "unreachable" if node.status.state is NodeState.DOWN else "reachable"
