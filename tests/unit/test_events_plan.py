"""What of the store's changes clients are told, and how they choose among it."""

from typing import Any

import pytest
from msgspec.structs import replace

from pyswarm.common.types import (
    ClusterEvent,
    Config,
    ConfigSpec,
    ContainerSpec,
    ManagerStatus,
    Network,
    NetworkSpec,
    Node,
    NodeAvailability,
    NodeDescription,
    NodeRole,
    NodeSpec,
    NodeState,
    NodeStatus,
    ReplicatedMode,
    Secret,
    SecretSpec,
    Service,
    ServiceMode,
    ServiceSpec,
    Task,
    TaskSpec,
    UpdateStatus,
    Version,
    timestamp,
)
from pyswarm.gateway.eventfilter import EventFilter
from pyswarm.manager.events.plan import described, leader_changed

NOW_NS = 1_700_000_100_000_000_000
CREATED, UPDATED = timestamp(1_700_000_000.5), timestamp(1_700_000_001.25)


def a_service(replicas: int = 1, image: str = "web:1", update: str = "", **fields: Any) -> Service:
    return Service(
        id="s1",
        created_at=CREATED,
        updated_at=UPDATED,
        spec=ServiceSpec(
            name="web",
            labels={"tier": "front"},
            task_template=TaskSpec(container_spec=ContainerSpec(image=image)),
            mode=ServiceMode(replicated=ReplicatedMode(replicas=replicas)),
        ),
        update_status=UpdateStatus(state=update) if update else None,
        **fields,
    )


def a_node(state: NodeState = NodeState.READY, manager: bool = False, **spec: Any) -> Node:
    return Node(
        id="n1",
        created_at=CREATED,
        updated_at=UPDATED,
        spec=NodeSpec(**spec),
        description=NodeDescription(hostname="h1"),
        status=NodeStatus(state=state),
        manager_status=ManagerStatus(addr="10.0.0.1:2377") if manager else None,
    )


def changes(old: Any, new: Any) -> dict[str, str] | None:
    event = described(old, new, NOW_NS)
    return None if event is None else event.attributes


def test_creation_and_removal() -> None:
    service = a_service()
    created = described(None, service, NOW_NS)
    assert created == ClusterEvent(
        type="service",
        action="create",
        id="s1",
        time_ns=1_700_000_000_500_000_000,
        attributes={"name": "web"},
        labels={"tier": "front"},
    )
    removed = described(service, None, NOW_NS)
    assert removed is not None
    assert (removed.action, removed.time_ns) == ("remove", NOW_NS)
    for obj, kind in (
        (a_node(), "node"),
        (Network(id="x", spec=NetworkSpec(name="web")), "network"),
        (Config(id="x", spec=ConfigSpec(name="web", data=b"text")), "config"),
    ):
        event = described(None, obj, NOW_NS)
        assert event is not None
        assert (event.type, event.attributes["name"]) == (kind, "h1" if kind == "node" else "web")


def test_a_secret_stays_one() -> None:
    secret = Secret(id="x", spec=SecretSpec(name="key", data=b"hush", labels={"a": "b"}))
    event = described(None, secret, NOW_NS)
    assert event is not None
    assert event.attributes == {"name": "key"}
    assert "hush" not in repr(event)
    changed = replace(secret, spec=replace(secret.spec, labels={"a": "c"}))
    assert changes(secret, changed) == {"name": "key"}


@pytest.mark.parametrize(
    ("old", "new", "attributes"),
    [
        (a_service(), a_service(replicas=3), {"replicas.old": "1", "replicas.new": "3"}),
        (a_service(), a_service(image="web:2"), {"image.old": "web:1", "image.new": "web:2"}),
        (a_service(), a_service(update="updating"), {"updatestate.new": "updating"}),
        (
            a_service(update="updating"),
            a_service(update="completed"),
            {"updatestate.old": "updating", "updatestate.new": "completed"},
        ),
        (a_node(), a_node(NodeState.DOWN), {"state.old": "ready", "state.new": "down"}),
        (
            a_node(manager=True),
            a_node(NodeState.DOWN, manager=True),
            {
                "state.old": "ready",
                "state.new": "down",
                "reachability.old": "reachable",
                "reachability.new": "unreachable",
            },
        ),
        (
            a_node(),
            a_node(availability=NodeAvailability.DRAIN),
            {"availability.old": "active", "availability.new": "drain"},
        ),
        (a_node(), a_node(role=NodeRole.MANAGER), {"role.old": "worker", "role.new": "manager"}),
        (a_node(), a_node(labels={"a": "b"}), {}),
    ],
)
def test_updates_in_dockers_words(old: Any, new: Any, attributes: dict[str, str]) -> None:
    event = described(old, new, NOW_NS)
    assert event is not None
    assert (event.action, event.time_ns) == ("update", 1_700_000_001_250_000_000)
    assert event.attributes == {"name": "web" if event.type == "service" else "h1", **attributes}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (None, Task(id="t1", service_id="s1")),
        (Task(id="t1", service_id="s1"), None),
        (a_service(), a_service(version=Version(index=9))),
        (a_service(update="updating"), replace(a_service(update="updating"), previous_spec=ServiceSpec())),
        (a_node(), replace(a_node(), description=NodeDescription(hostname="h1", engine_error="away"))),
        (a_node(), replace(a_node(), mesh_index=4)),
    ],
)
def test_what_clients_need_not_hear_of(old: Any, new: Any) -> None:
    assert described(old, new, NOW_NS) is None


def test_who_leads() -> None:
    event = leader_changed(a_node(manager=True), leads=True, now_ns=NOW_NS)
    assert event.attributes == {"name": "h1", "leader.old": "false", "leader.new": "true"}
    assert leader_changed(a_node(), leads=False, now_ns=1).attributes["leader.new"] == "false"


# --- filters

EVENT = ClusterEvent(
    type="service",
    action="update",
    id="s1abc",
    time_ns=1,
    attributes={"name": "web", "replicas.new": "3"},
    labels={"tier": "front", "empty": ""},
)


@pytest.mark.parametrize(
    ("filters", "passes"),
    [
        ({}, True),
        ({"type": ["service", "node"]}, True),
        ({"type": ["node"]}, False),
        ({"event": ["update"]}, True),
        ({"event": ["create", "remove"]}, False),
        ({"scope": ["swarm"]}, True),
        ({"scope": ["local"]}, False),
        ({"service": ["web"]}, True),
        ({"service": ["we"]}, True),
        ({"service": ["s1a", "other"]}, True),
        ({"service": ["other"]}, False),
        ({"node": ["web"]}, False),
        ({"service": ["web"], "node": ["h1"]}, False),
        ({"label": ["tier"]}, True),
        ({"label": ["tier=front", "empty="]}, True),
        ({"label": ["tier=front", "tier=back"]}, False),
        ({"label": ["replicas.new=3"]}, True),
        ({"name": ["web"]}, True),
        ({"name": ["db"]}, False),
        ({"container": ["web"]}, False),
        ({"type": ["service"], "event": ["create"]}, False),
    ],
)
def test_filters_of_the_clusters_events(filters: dict[str, list[str]], passes: bool) -> None:
    assert EventFilter(filters).passes(EVENT) is passes


@pytest.mark.parametrize(
    ("filters", "cluster", "engine"),
    [
        ({}, True, True),
        ({"type": ["service"]}, True, False),
        ({"type": ["network"]}, True, True),
        ({"type": ["container"]}, False, True),
        ({"scope": ["swarm"]}, True, False),
        ({"scope": ["local"]}, False, True),
        ({"image": ["busybox"]}, False, True),
        ({"event": ["start"]}, True, True),
    ],
)
def test_who_has_to_be_asked(filters: dict[str, list[str]], cluster: bool, engine: bool) -> None:
    wanted = EventFilter(filters)
    assert (wanted.wants_cluster, wanted.wants_engine) == (cluster, engine)


def test_the_engine_is_asked_with_what_it_knows() -> None:
    assert EventFilter({"name": ["x"], "event": ["die"]}).for_engine == {"event": ["die"]}
