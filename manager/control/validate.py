"""What a spec may say. Pure: raises InvalidArgument with one line for the user, or returns.

Texts are Docker's where Docker has one. What this version does not do yet is refused by name.
"""

import re

from pyswarm.common.errors import InvalidArgument, PermissionDenied
from pyswarm.common.image import is_image_reference
from pyswarm.common.types import (
    SECOND_NS,
    ClusterSpec,
    ContainerSpec,
    EndpointSpec,
    NetworkSpec,
    NodeSpec,
    ResourceRequirements,
    RestartPolicy,
    ServiceSpec,
    TaskSpec,
    UpdateConfig,
)
from pyswarm.manager.control.file_checks import check_references
from pyswarm.manager.control.port_checks import check_ports

# Docker's ^[a-zA-Z0-9](?:[-_]*[A-Za-z0-9]+)*$, written so that a long wrong name takes no exponential time.
_SERVICE_NAME = re.compile(r"[a-zA-Z0-9](?:[-_a-zA-Z0-9]*[a-zA-Z0-9])?")
_ALIAS = re.compile(r"[a-zA-Z0-9_-]{1,63}(?:\.[a-zA-Z0-9_-]{1,63})*")
_NETWORK_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")
MAX_NAME_CHARS = 63
#: What a name in the DNS may have.
MAX_ALIAS_CHARS = 253
MIN_MEMORY_BYTES = 4 * 1024 * 1024
MIN_NANO_CPUS = 1_000_000
#: Far above what the engines of one cluster run; a slip of the keyboard is not made into a million tasks.
MAX_REPLICAS = 100_000
# The last is the engines' own bridge for the way out of every task's container.
_PREDEFINED_NETWORKS = ("bridge", "host", "none", "default", "ingress", "docker_gwbridge")
_MTU_OPTION = "com.docker.network.driver.mtu"


def unsupported(what: str, where: str = "") -> InvalidArgument:
    """The refusal of something Docker has and this version has not."""
    return InvalidArgument(f"{what} not supported by this version of pyswarm{where}")


def check_service(spec: ServiceSpec) -> None:
    """Everything about a service's spec that needs no look at the cluster."""
    check_service_name(spec.name)
    _check_labels(spec.labels)
    _check_task(spec.task_template)
    _check_replicas(spec.replicas)
    if spec.update_config is not None:
        _check_update_config(spec.update_config)
    if spec.endpoint_spec is not None:
        _check_endpoint(spec.endpoint_spec)


def check_service_name(name: str) -> None:
    """Names become parts of host names."""
    if not name:
        raise InvalidArgument("meta: name must be provided")
    if len(name) > MAX_NAME_CHARS:
        raise InvalidArgument(f"name must be {MAX_NAME_CHARS} characters or fewer")
    if not _SERVICE_NAME.fullmatch(name):
        raise InvalidArgument("name must be valid as a DNS name component")


def _check_labels(labels: dict[str, str]) -> None:
    if any(not key for key in labels):
        raise InvalidArgument("meta: a label must have a name")


def _check_task(spec: TaskSpec) -> None:
    if spec.runtime not in ("", "container"):
        raise unsupported(f"the runtime {spec.runtime} is")
    _check_container(spec.container_spec)
    _check_resources(spec.resources)
    for attachment in spec.networks:
        _check_aliases(attachment.aliases)
    _check_restart_policy(spec.restart_policy)


def _check_aliases(aliases: tuple[str, ...]) -> None:
    for alias in aliases:
        if len(alias) > MAX_ALIAS_CHARS or not _ALIAS.fullmatch(alias):
            raise InvalidArgument(
                f'invalid network alias "{alias[:200]}": only [a-zA-Z0-9_.-] are allowed, '
                f"{MAX_ALIAS_CHARS} characters at most, and no dot at either end"
            )


def _check_container(spec: ContainerSpec) -> None:
    if not spec.image:
        raise InvalidArgument("ContainerSpec: image reference must be provided")
    if not is_image_reference(spec.image):
        raise InvalidArgument(f'ContainerSpec: "{spec.image[:200]}" is not a valid repository/tag')
    check_references(spec)
    for variable in spec.env:
        if not variable or variable.startswith("="):
            raise InvalidArgument(f"invalid environment variable: {variable}")
        name, _, value = variable.partition("=")
        _check_no_template(value, f"env {name}")
    _check_no_template(spec.hostname, "hostname")
    if spec.stop_grace_period_ns is not None and spec.stop_grace_period_ns < 0:
        raise InvalidArgument("ContainerSpec: stop-grace-period cannot be negative")


def _check_no_template(value: str, where: str) -> None:
    """Docker fills in ``{{.Task.Slot}}`` and the like; a container must not get the braces instead."""
    if "{{" in value:
        raise unsupported("templates such as {{.Node.Hostname}} are", f": {where}")


def _check_resources(resources: ResourceRequirements) -> None:
    for nano_cpus in (resources.limits.nano_cpus, resources.reservations.nano_cpus):
        if nano_cpus != 0 and nano_cpus < MIN_NANO_CPUS:
            raise InvalidArgument(
                f"invalid cpu value {nano_cpus / 1e9:g}: Must be at least {MIN_NANO_CPUS / 1e9:g}"
            )
    for memory_bytes in (resources.limits.memory_bytes, resources.reservations.memory_bytes):
        if memory_bytes != 0 and memory_bytes < MIN_MEMORY_BYTES:
            raise InvalidArgument(f"invalid memory value {memory_bytes}: Must be at least 4MiB")
    if resources.limits.pids < 0:
        raise InvalidArgument(f"invalid pids value {resources.limits.pids}: Must be 0 (no limit) or more")


def _check_restart_policy(policy: RestartPolicy) -> None:
    if policy.condition not in ("none", "on-failure", "any"):
        raise InvalidArgument(f'invalid RestartCondition: "{policy.condition}"')
    if policy.delay_ns is not None and policy.delay_ns < 0:
        raise InvalidArgument("TaskSpec: restart-delay cannot be negative")
    if policy.window_ns is not None and policy.window_ns < 0:
        raise InvalidArgument("TaskSpec: restart-window cannot be negative")
    if policy.max_attempts is not None and policy.max_attempts < 0:
        raise InvalidArgument("TaskSpec: restart-max-attempts cannot be negative")


def _check_replicas(replicas: int) -> None:
    if replicas < 0:
        raise InvalidArgument(f"invalid number of replicas {replicas}: Number of replicas must be non-negative")
    if replicas > MAX_REPLICAS:
        raise InvalidArgument(f"invalid number of replicas {replicas}: at most {MAX_REPLICAS} are supported")


def _check_update_config(config: UpdateConfig) -> None:
    if config.parallelism < 0:
        raise InvalidArgument("TaskSpec: update-parallelism cannot be negative")
    if config.delay_ns < 0:
        raise InvalidArgument("TaskSpec: update-delay cannot be negative")
    if config.monitor_ns < 0:
        raise InvalidArgument("TaskSpec: update-monitor cannot be negative")
    if not 0 <= config.max_failure_ratio <= 1:
        raise InvalidArgument("TaskSpec: update-maxfailureratio cannot be less than 0 or bigger than 1")
    if config.failure_action == "rollback":
        raise unsupported("the update failure action rollback is")
    if config.failure_action not in ("pause", "continue"):
        raise InvalidArgument(f"unrecognized update failure action {config.failure_action}")
    if config.order not in ("stop-first", "start-first"):
        raise InvalidArgument(f"unrecognized update order {config.order}")


def _check_endpoint(spec: EndpointSpec) -> None:
    check_ports(spec.ports, spec.mode)
    if spec.mode not in ("", "vip", "dnsrr"):
        raise InvalidArgument(f"unrecognized endpoint mode {spec.mode}")


def check_network(spec: NetworkSpec) -> None:
    """A network's spec but for its subnet, which the allocator checks as it takes it."""
    if not spec.name:
        raise InvalidArgument("meta: name must be provided")
    if spec.name in _PREDEFINED_NETWORKS and not (spec.ingress and spec.name == "ingress"):
        raise PermissionDenied(f"operation is not permitted on predefined {spec.name} network")
    if len(spec.name) > MAX_NAME_CHARS or not _NETWORK_NAME.fullmatch(spec.name):
        raise InvalidArgument(
            f'invalid network name "{spec.name[:200]}": only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed, '
            f"{MAX_NAME_CHARS} characters at most"
        )
    if spec.ingress and (spec.attachable or spec.internal):
        raise InvalidArgument("the ingress network is neither attachable nor internal")
    _check_labels(spec.labels)
    if spec.driver != "overlay":
        raise unsupported(f'the network driver "{spec.driver}" is')
    for key, value in spec.options.items():
        if key != _MTU_OPTION:
            raise unsupported(f"the network option {key} is")
        if not value.isdecimal() or not 576 <= int(value) <= 65535:
            raise InvalidArgument(f"invalid {_MTU_OPTION} {value}: it must be a number from 576 to 65535")


def check_node(spec: NodeSpec) -> None:
    """A new spec for a node; whether its role may change is for the leader to see."""
    _check_labels(spec.labels)


def check_cluster(spec: ClusterSpec) -> None:
    """Limits are Docker's."""
    if spec.name not in ("", "default"):
        raise InvalidArgument('swarm spec must be named "default"')
    if not SECOND_NS // 10 <= spec.heartbeat_period_ns <= 3600 * SECOND_NS:
        raise InvalidArgument("invalid heartbeat period: it must be between 100ms and 1h")
    if spec.node_cert_expiry_ns < 3600 * SECOND_NS:
        raise InvalidArgument("invalid certificate expiry: minimum certificate expiry time is 1h0m0s")
    _check_labels(spec.labels)
