"""Specs as clients send them, read into the objects the cluster stores."""

from typing import Any

from msgspec.structs import replace

from pyswarm.common.errors import InvalidArgument
from pyswarm.common.types import (
    SECOND_NS,
    ClusterSpec,
    ConfigSpec,
    FileTarget,
    NetworkSpec,
    NodeSpec,
    ReplicatedMode,
    SecretSpec,
    ServiceMode,
    ServiceSpec,
)
from pyswarm.common.types.base import Object
from pyswarm.common.types.network import IPAMConfig
from pyswarm.gateway.fields import Harmless, convert, is_empty, not_supported

_DEFAULT_UPDATE = {
    "Parallelism": 1, "Delay": 0, "FailureAction": "pause", "Monitor": 5 * SECOND_NS,
    "MaxFailureRatio": 0, "Order": "stop-first",
}  # fmt: skip


def _default_rollback(value: Any) -> bool:
    return isinstance(value, dict) and all(
        _DEFAULT_UPDATE.get(k, "") == v or is_empty(v) for k, v in value.items()
    )


#: Fields beyond the stored ones whose common values change nothing:
_SERVICE_HARMLESS: Harmless = {
    # The stock CLI copies the platforms of an image it found in a registry.
    "TaskTemplate.Placement.Platforms": lambda _v: True,
    # Only Windows has another.
    "TaskTemplate.ContainerSpec.Isolation": lambda v: v == "default",
    # A roll-back by hand with Docker's defaults is what is done anyway.
    "RollbackConfig": _default_rollback,
}


def service_spec(raw: Any) -> ServiceSpec:
    """A service spec with Docker's meaning of absent fields; raises InvalidArgument for what is not supported."""
    if not isinstance(raw, dict):
        raise InvalidArgument("invalid service spec: it must be an object")
    raw = _networks_in_template(raw)
    mode = raw.get("Mode") or {}
    for kind in ("Global", "ReplicatedJob", "GlobalJob"):
        # An empty object still chooses the mode.
        if isinstance(mode, dict) and mode.get(kind) is not None:
            raise not_supported(f"Mode.{kind}")
    update = raw.get("UpdateConfig")
    if isinstance(update, dict):
        raw = {**raw, "UpdateConfig": _update_config(update)}
    template = raw.get("TaskTemplate")
    if isinstance(template, dict) and isinstance(template.get("RestartPolicy"), dict):
        policy = {k: v for k, v in template["RestartPolicy"].items() if not (k == "Condition" and v == "")}
        raw = {**raw, "TaskTemplate": {**template, "RestartPolicy": policy}}
    if isinstance(raw.get("EndpointSpec"), dict):
        raw = {**raw, "EndpointSpec": _ports_with_defaults(raw["EndpointSpec"])}
    spec = convert(raw, ServiceSpec, "service spec", _SERVICE_HARMLESS)
    if spec.task_template.runtime not in ("", "container"):
        raise not_supported(f"Runtime {spec.task_template.runtime}")
    if spec.replicas < 0:
        raise InvalidArgument("invalid service spec: replicas must not be negative")
    return with_owners(with_mode(spec))


def with_owners(spec: ServiceSpec) -> ServiceSpec:
    """An owner that is left empty is root."""
    container = spec.task_template.container_spec
    if not container.secrets and not container.configs:
        return spec
    container = replace(
        container,
        secrets=tuple(replace(ref, file=_owned(ref.file)) for ref in container.secrets),
        configs=tuple(replace(ref, file=_owned(ref.file)) for ref in container.configs),
    )
    return replace(spec, task_template=replace(spec.task_template, container_spec=container))


def _owned(file: FileTarget) -> FileTarget:
    return replace(file, uid=file.uid or "0", gid=file.gid or "0")


def secret_spec(raw: Any) -> SecretSpec:
    """The spec of a secret; its payload comes in base64."""
    return convert(raw, SecretSpec, "secret spec")


def config_spec(raw: Any) -> ConfigSpec:
    """The spec of a config."""
    return convert(raw, ConfigSpec, "config spec")


def _ports_with_defaults(endpoint: dict[str, Any]) -> dict[str, Any]:
    """An empty protocol or mode of a port means the usual one, as an absent one does."""
    ports = endpoint.get("Ports")
    if not isinstance(ports, list):
        return endpoint
    optional = ("Protocol", "PublishMode")
    return {
        **endpoint,
        "Ports": [
            {k: v for k, v in port.items() if not (k in optional and v == "")} if isinstance(port, dict) else port
            for port in ports
        ],
    }


def with_mode(spec: ServiceSpec) -> ServiceSpec:
    """A service without a mode is replicated; one without a number has one replica."""
    return replace(spec, mode=ServiceMode(replicated=ReplicatedMode(replicas=spec.replicas)))


def _networks_in_template(raw: dict[str, Any]) -> dict[str, Any]:
    """Old clients put the networks beside the template; they mean the same there."""
    networks = raw.get("Networks")
    template = raw.get("TaskTemplate") or {}
    if not networks or not isinstance(template, dict) or template.get("Networks"):
        return raw
    rest = {k: v for k, v in raw.items() if k != "Networks"}
    return {**rest, "TaskTemplate": {**template, "Networks": networks}}


def _update_config(raw: dict[str, Any]) -> dict[str, Any]:
    """Absent is zero in Docker's JSON, and zero is the default but for the parallelism, where it means all."""
    filled = {"Parallelism": 0, **raw}
    return {k: v for k, v in filled.items() if k == "Parallelism" or not is_empty(v)}


class _IPAM(Object, frozen=True):
    driver: str = ""
    config: tuple[IPAMConfig, ...] = ()


class NetworkRequest(Object, frozen=True):
    """The body of ``POST /networks/create`` as far as the cluster's networks have it."""

    name: str = ""
    driver: str = ""
    scope: str = ""
    internal: bool = False
    attachable: bool = False
    ingress: bool = False
    ipam: _IPAM = _IPAM()
    options: dict[str, str] = {}
    labels: dict[str, str] = {}


_NETWORK_HARMLESS: Harmless = {
    "CheckDuplicate": lambda _v: True,  # names are unique in a cluster anyway
    "EnableIPv4": lambda v: v is True,
}


def network_spec(raw: Any) -> NetworkSpec:
    """The spec of a cluster network."""
    request = convert(raw, NetworkRequest, "network", _NETWORK_HARMLESS)
    if request.ipam.driver not in ("", "default"):
        raise not_supported(f"IPAM driver {request.ipam.driver}")
    return NetworkSpec(
        name=request.name,
        labels=request.labels,
        driver=request.driver,
        internal=request.internal,
        attachable=request.attachable,
        ingress=request.ingress,
        options=request.options,
        ipam=tuple(config for config in request.ipam.config if config != IPAMConfig()),
    )


def node_spec(raw: Any) -> NodeSpec:
    """The spec of a node; role and availability are always sent, and Docker refuses a spec without them."""
    spec = convert(raw, NodeSpec, "node spec")
    for name in ("Role", "Availability"):
        if not (isinstance(raw, dict) and raw.get(name)):
            raise InvalidArgument(f"invalid node spec: {name} is missing")
    return spec


class _Orchestration(Object, frozen=True):
    task_history_retention_limit: int | None = None


class _Dispatcher(Object, frozen=True):
    heartbeat_period_ns: int = 0


class _CAConfig(Object, frozen=True):
    node_cert_expiry_ns: int = 0


class SwarmSpec(Object, frozen=True):
    """A cluster's settings in Docker's shape."""

    name: str = ""
    labels: dict[str, str] = {}
    orchestration: _Orchestration = _Orchestration()
    dispatcher: _Dispatcher = _Dispatcher()
    ca_config: _CAConfig = _CAConfig()


#: The Raft settings shown in ``GET /swarm``; clients send them back whole.
RAFT_SETTINGS = {
    "SnapshotInterval": 10000, "KeepOldSnapshots": 0, "LogEntriesForSlowFollowers": 500,
    "ElectionTick": 10, "HeartbeatTick": 1,
}  # fmt: skip


def _known_raft(value: Any) -> bool:
    return isinstance(value, dict) and all(RAFT_SETTINGS.get(k) == v or is_empty(v) for k, v in value.items())


SWARM_HARMLESS: Harmless = {"Raft": _known_raft}


def cluster_spec(raw: Any, prefix: str = "") -> ClusterSpec:
    """A cluster's settings; zero or absent ones take the defaults."""
    harmless = {f"{prefix}{path}": accept for path, accept in SWARM_HARMLESS.items()}
    return to_cluster_spec(convert(raw, SwarmSpec, "swarm spec", harmless))


def to_cluster_spec(given: SwarmSpec) -> ClusterSpec:
    """From Docker's shape to the stored one."""
    default = ClusterSpec()
    limit = given.orchestration.task_history_retention_limit
    return ClusterSpec(
        name=given.name or default.name,
        labels=given.labels,
        task_history_limit=default.task_history_limit if limit is None else limit,
        heartbeat_period_ns=given.dispatcher.heartbeat_period_ns or default.heartbeat_period_ns,
        node_cert_expiry_ns=given.ca_config.node_cert_expiry_ns or default.node_cert_expiry_ns,
    )


class SwarmInitRequest(Object, frozen=True):
    """The body of ``POST /swarm/init``; ``etcd_endpoints`` is pyswarm's own."""

    listen_addr: str = ""
    advertise_addr: str = ""
    data_path_port: int = 0
    force_new_cluster: bool = False
    default_addr_pool: tuple[str, ...] = ()
    subnet_size: int = 0
    availability: str = ""
    spec: SwarmSpec = SwarmSpec()
    etcd_endpoints: tuple[str, ...] = ()


class SwarmJoinRequest(Object, frozen=True):
    """The body of ``POST /swarm/join``."""

    listen_addr: str = ""
    advertise_addr: str = ""
    remote_addrs: tuple[str, ...] = ()
    join_token: str = ""
    availability: str = ""
