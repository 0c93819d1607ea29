"""Objects as Docker's JSON: every field that the stock clients read, also when its value is the default.

Specs are written so that a client that sends one back unchanged changes nothing (``specs`` reads them).
"""

import base64
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from pyswarm.common.types import (
    SECOND_NS,
    Cluster,
    ClusterSpec,
    Config,
    ContainerSpec,
    EndpointSpec,
    FileTarget,
    Network,
    NetworkSpec,
    Node,
    NodeState,
    Object,
    PortConfig,
    Secret,
    Service,
    ServiceSpec,
    Task,
    TaskState,
    UpdateConfig,
)
from pyswarm.gateway.specs import RAFT_SETTINGS

Json = dict[str, Any]
VXLAN_OPTION = "com.docker.network.driver.overlay.vxlanid_list"


def _plain(obj: Object) -> Json:
    """The fields of ``obj`` that are not defaults, under Docker's names."""
    return msgspec.to_builtins(obj)  # type: ignore[no-any-return]


def _head(obj: Service | Network | Node | Task | Cluster | Secret | Config) -> Json:
    return {
        "ID": obj.id,
        "Version": {"Index": obj.version.index},
        "CreatedAt": msgspec.to_builtins(obj.created_at),
        "UpdatedAt": msgspec.to_builtins(obj.updated_at),
    }


# --- services


def _task_template(spec: ServiceSpec) -> Json:
    template = spec.task_template
    view = _plain(template)
    view["ContainerSpec"] = {"Image": "", **view.get("ContainerSpec", {}), **_references(template.container_spec)}
    view["Resources"] = {"Limits": {}, "Reservations": {}, **view.get("Resources", {})}
    view["RestartPolicy"] = {"Condition": template.restart_policy.condition, **view.get("RestartPolicy", {})}
    view["ForceUpdate"] = template.force_update
    # Clients walk through it without asking whether it is there.
    view["Placement"] = {}
    return view


def _references(spec: ContainerSpec) -> Json:
    """Secrets and configs of a container, if there are any, by id and name."""
    secrets = [
        {"File": _file_target(ref.file), "SecretID": ref.secret_id, "SecretName": ref.secret_name}
        for ref in spec.secrets
    ]
    configs = [
        {"File": _file_target(ref.file), "ConfigID": ref.config_id, "ConfigName": ref.config_name}
        for ref in spec.configs
    ]
    return {name: refs for name, refs in (("Secrets", secrets), ("Configs", configs)) if refs}


def _file_target(file: FileTarget) -> Json:
    return {"Name": file.name, "UID": file.uid, "GID": file.gid, "Mode": file.mode}


def _update_config(config: UpdateConfig) -> Json:
    return {
        "Parallelism": config.parallelism,
        "Delay": config.delay_ns,
        "FailureAction": config.failure_action,
        "Monitor": config.monitor_ns,
        "MaxFailureRatio": config.max_failure_ratio,
        "Order": config.order,
    }


def _ports(ports: Iterable[PortConfig]) -> Json:
    """Nothing without ports, as in Docker."""
    shown = [_port(port) for port in ports]
    return {"Ports": shown} if shown else {}


def _port(port: PortConfig) -> Json:
    view: Json = {"Name": port.name} if port.name else {}
    view |= {"Protocol": port.protocol, "TargetPort": port.target_port}
    if port.published_port:
        view["PublishedPort"] = port.published_port
    return {**view, "PublishMode": port.publish_mode}


def service_spec(spec: ServiceSpec, defaults: bool = False) -> Json:
    """The spec; with ``defaults`` what was left out appears with the value that applies."""
    view: Json = {
        "Name": spec.name,
        "Labels": spec.labels,
        "TaskTemplate": _task_template(spec),
        "Mode": {"Replicated": {"Replicas": spec.replicas}},
    }
    if spec.update_config is not None or defaults:
        view["UpdateConfig"] = _update_config(spec.update_config or UpdateConfig())
    if spec.endpoint_spec is not None or defaults:
        endpoint = spec.endpoint_spec or EndpointSpec()
        view["EndpointSpec"] = {"Mode": endpoint.mode or "vip", **_ports(endpoint.ports)}
    if defaults:
        view["RollbackConfig"] = _update_config(UpdateConfig())
        template = view["TaskTemplate"]
        template["ContainerSpec"].setdefault("StopGracePeriod", 10 * SECOND_NS)
        template["RestartPolicy"].setdefault("Delay", 5 * SECOND_NS)
        template["RestartPolicy"].setdefault("MaxAttempts", 0)
    return view


def _endpoint(obj: Service, spec: Json) -> Json:
    """Prometheus' discovery takes no virtual IP without an address."""
    view: Json = {"Spec": spec.get("EndpointSpec", {}), **_ports(obj.endpoint.ports)}
    vips = [{"NetworkID": vip.network_id, "Addr": vip.addr} for vip in obj.endpoint.virtual_ips if vip.addr]
    if vips:
        view["VirtualIPs"] = vips
    return view


def service(obj: Service, status: Json | None = None, defaults: bool = False) -> Json:
    """A service; ``status`` is its ``ServiceStatus`` when the client asked for it."""
    spec = service_spec(obj.spec, defaults)
    view = {**_head(obj), "Spec": spec, "Endpoint": _endpoint(obj, spec)}
    if obj.previous_spec is not None:
        view["PreviousSpec"] = service_spec(obj.previous_spec, defaults)
    if obj.update_status is not None:
        view["UpdateStatus"] = _plain(obj.update_status)
    if status is not None:
        view["ServiceStatus"] = status
    return view


def service_status(obj: Service, tasks: Iterable[Task]) -> Json:
    """How many tasks are wanted and how many run, of this service's ``tasks``."""
    running = sum(1 for t in tasks if t.desired_state is TaskState.RUNNING and t.status.state is TaskState.RUNNING)
    return {"RunningTasks": running, "DesiredTasks": obj.spec.replicas, "CompletedTasks": 0}


# --- tasks


def task(obj: Task, networks: Mapping[str, Network]) -> Json:
    """A task; ``networks`` by id, for its attachments."""
    spec = ServiceSpec(task_template=obj.spec)
    status: Json = {
        "Timestamp": msgspec.to_builtins(obj.status.timestamp),
        "State": obj.status.state.value,
        "Message": obj.status.message,
        "PortStatus": _ports(obj.status.port_status),
    }
    if obj.status.err:
        status["Err"] = obj.status.err
    if obj.status.container_status is not None:
        container = obj.status.container_status
        status["ContainerStatus"] = {
            "ContainerID": container.container_id,
            "PID": container.pid,
            "ExitCode": container.exit_code,
        }
    view: Json = {
        **_head(obj),
        "Labels": {},
        "Spec": _task_template(spec),
        "ServiceID": obj.service_id,
        "Slot": obj.slot,
        "Status": status,
        "DesiredState": obj.desired_state.value,
    }
    if obj.node_id:
        view["NodeID"] = obj.node_id
    attachments = [
        {"Network": attached_network(networks[n.network_id]), "Addresses": [n.addr] if n.addr else []}
        for n in obj.networks
        if n.network_id in networks
    ]
    if attachments:
        view["NetworksAttachments"] = attachments
    return view


# --- networks


def _ipam(obj: Network) -> list[Json]:
    if not obj.subnet:
        return [_ipam_config(c.subnet, c.gateway, c.ip_range) for c in obj.spec.ipam]
    ip_range = obj.spec.ipam[0].ip_range if obj.spec.ipam else ""
    return [_ipam_config(obj.subnet, obj.gateway, ip_range)]


def _ipam_config(subnet: str, gateway: str, ip_range: str) -> Json:
    fields = {"Subnet": subnet, "IPRange": ip_range, "Gateway": gateway}
    return {name: value for name, value in fields.items() if value}


def _network_options(obj: Network) -> dict[str, str]:
    return {**({VXLAN_OPTION: str(obj.vni)} if obj.vni else {}), **obj.spec.options}


def _swarm_network_spec(spec: NetworkSpec) -> Json:
    view: Json = {"Name": spec.name, "Labels": spec.labels, "DriverConfiguration": {"Name": spec.driver}}
    for name, value in (
        ("Internal", spec.internal),
        ("Attachable", spec.attachable),
        ("Ingress", spec.ingress),
    ):
        if value:
            view[name] = value
    view["IPAMOptions"] = {"Driver": {"Name": "default"}}
    view["Scope"] = "swarm"
    return view


def attached_network(obj: Network) -> Json:
    """A network as it stands inside a task's attachment."""
    return {
        **_head(obj),
        "Spec": _swarm_network_spec(obj.spec),
        "DriverState": {"Name": obj.spec.driver, "Options": _network_options(obj)},
        "IPAMOptions": {"Driver": {"Name": "default"}, "Configs": _ipam(obj)},
    }


def network(obj: Network, containers: Json | None = None, peers: list[Json] | None = None) -> Json:
    """A network as ``/networks`` shows it, beside the engine's own."""
    view: Json = {
        "Name": obj.spec.name,
        "Id": obj.id,
        "Created": msgspec.to_builtins(obj.created_at),
        "Scope": "swarm",
        "Driver": obj.spec.driver,
        "EnableIPv6": False,
        "IPAM": {"Driver": "default", "Options": None, "Config": _ipam(obj)},
        "Internal": obj.spec.internal,
        "Attachable": obj.spec.attachable,
        "Ingress": obj.spec.ingress,
        "ConfigFrom": {"Network": ""},
        "ConfigOnly": False,
        "Containers": containers,
        "Options": _network_options(obj),
        "Labels": obj.spec.labels,
    }
    if peers is not None:
        view["Peers"] = peers
    return view


# --- secrets and configs


def secret(obj: Secret) -> Json:
    """A secret; there is no field for its payload."""
    return {**_head(obj), "Spec": {"Name": obj.spec.name, "Labels": obj.spec.labels}}


def config(obj: Config) -> Json:
    """A config, its payload in base64."""
    data = base64.b64encode(obj.spec.data).decode()
    return {**_head(obj), "Spec": {"Name": obj.spec.name, "Labels": obj.spec.labels, "Data": data}}


# --- nodes and the cluster


def node(obj: Node, tls_info: Json) -> Json:
    """A node. All nodes hold certificates of the one root, so they share ``tls_info``."""
    description = obj.description
    view: Json = {
        **_head(obj),
        "Spec": {
            "Labels": obj.spec.labels,
            "Role": obj.spec.role.value,
            "Availability": obj.spec.availability.value,
        },
        "Description": {
            "Hostname": description.hostname,
            "Platform": {"Architecture": description.platform.architecture, "OS": description.platform.os},
            "Resources": {
                "NanoCPUs": description.resources.nano_cpus,
                "MemoryBytes": description.resources.memory_bytes,
            },
            "Engine": {"EngineVersion": description.engine.engine_version, "Labels": description.engine.labels},
            "TLSInfo": tls_info,
        },
        "Status": {"State": obj.status.state.value, "Addr": obj.status.addr},
    }
    if obj.spec.name:
        view["Spec"]["Name"] = obj.spec.name
    message = obj.status.message or description.engine_error
    if message:
        view["Status"]["Message"] = message
    if obj.manager_status is not None:
        down = obj.status.state is NodeState.DOWN
        view["ManagerStatus"] = {
            "Reachability": "unreachable" if down else obj.manager_status.reachability,
            "Addr": obj.manager_status.addr,
        }
        if obj.manager_status.leader:
            view["ManagerStatus"]["Leader"] = True
    return view


def swarm_spec(spec: ClusterSpec) -> Json:
    """A cluster's settings in Docker's shape."""
    return {
        "Name": spec.name,
        "Labels": spec.labels,
        "Orchestration": {"TaskHistoryRetentionLimit": spec.task_history_limit},
        "Raft": dict(RAFT_SETTINGS),
        "Dispatcher": {"HeartbeatPeriod": spec.heartbeat_period_ns},
        "CAConfig": {"NodeCertExpiry": spec.node_cert_expiry_ns},
        "TaskDefaults": {},
        "EncryptionConfig": {"AutoLockManagers": False},
    }


def cluster_info(obj: Cluster, tls_info: Json) -> Json:
    """The cluster as part of ``/info``: no join tokens."""
    return {
        **_head(obj),
        "Spec": swarm_spec(obj.spec),
        "TLSInfo": tls_info,
        "RootRotationInProgress": False,
        "DefaultAddrPool": list(obj.default_addr_pool),
        "SubnetSize": obj.subnet_size,
        "DataPathPort": obj.data_path_port,
    }


def swarm(obj: Cluster, tls_info: Json) -> Json:
    """The cluster as ``GET /swarm`` shows it."""
    tokens = {"Worker": obj.join_tokens.worker, "Manager": obj.join_tokens.manager}
    return {**cluster_info(obj, tls_info), "JoinTokens": tokens}
