"""Services: the spec a user writes, in the words of Docker's API, and what the cluster makes of it."""

from datetime import datetime

from pyswarm.common.types.base import EPOCH, Object, Version
from pyswarm.common.types.node import Resources

SECOND_NS = 1_000_000_000


class FileTarget(Object, frozen=True):
    """Where a secret or config appears in the container, whose it is, and its permissions.

    ``name`` is a path: one that is not absolute lies below /run/secrets for a secret, below / for a config.
    """

    name: str = ""
    uid: str = "0"
    gid: str = "0"
    mode: int = 0o444


class SecretReference(Object, frozen=True):
    """A secret that tasks are given as a file."""

    file: FileTarget = FileTarget()
    secret_id: str = ""
    secret_name: str = ""


class ConfigReference(Object, frozen=True):
    """A config that tasks are given as a file."""

    file: FileTarget = FileTarget()
    config_id: str = ""
    config_name: str = ""


class ContainerSpec(Object, frozen=True):
    """What runs. ``command`` replaces the image's entry point, ``args`` its command."""

    image: str = ""
    labels: dict[str, str] = {}
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    hostname: str = ""
    env: tuple[str, ...] = ()
    dir: str = ""
    user: str = ""
    groups: tuple[str, ...] = ()
    tty: bool = False
    open_stdin: bool = False
    read_only: bool = False
    init: bool | None = None
    stop_signal: str = ""
    stop_grace_period_ns: int | None = None
    secrets: tuple[SecretReference, ...] = ()
    configs: tuple[ConfigReference, ...] = ()


class Limit(Object, frozen=True):
    """Upper bounds the engine enforces; 0 is none."""

    nano_cpus: int = 0
    memory_bytes: int = 0
    pids: int = 0


class ResourceRequirements(Object, frozen=True):
    """``reservations`` decide where a task fits, ``limits`` what it may use."""

    limits: Limit = Limit()
    reservations: Resources = Resources()


class RestartPolicy(Object, frozen=True):
    """When an ended task is replaced: ``none``, ``on-failure`` or ``any``; None means the default."""

    condition: str = "any"
    delay_ns: int | None = None
    max_attempts: int | None = None
    window_ns: int | None = None

    @property
    def effective_delay_s(self) -> float:
        """Seconds between a task's end and its replacement's start: 5 unless set."""
        return (5 * SECOND_NS if self.delay_ns is None else self.delay_ns) / SECOND_NS


class NetworkAttachmentConfig(Object, frozen=True):
    """A network the tasks join; ``target`` is the network's id once stored."""

    target: str = ""
    aliases: tuple[str, ...] = ()


class TaskSpec(Object, frozen=True):
    """What each task of a service is. Equal specs need no new tasks."""

    container_spec: ContainerSpec = ContainerSpec()
    resources: ResourceRequirements = ResourceRequirements()
    restart_policy: RestartPolicy = RestartPolicy()
    networks: tuple[NetworkAttachmentConfig, ...] = ()
    force_update: int = 0
    runtime: str = ""


class ReplicatedMode(Object, frozen=True):
    """A number of tasks, spread over the nodes. None is 1."""

    replicas: int | None = None


class ServiceMode(Object, frozen=True):
    """Exactly one of its fields is set; only ``replicated`` exists so far."""

    replicated: ReplicatedMode | None = None


class UpdateConfig(Object, frozen=True):
    """How tasks are replaced: ``parallelism`` at once (0 = all), ``delay`` between, ``order`` within a slot."""

    parallelism: int = 1
    delay_ns: int = 0
    failure_action: str = "pause"
    monitor_ns: int = 5 * SECOND_NS
    max_failure_ratio: float = 0.0
    order: str = "stop-first"


class PortConfig(Object, frozen=True):
    """A published port. ``publish_mode``: ``ingress`` on every node, ``host`` where a task runs.

    ``published_port`` 0 in a spec means any; in ``Endpoint.ports`` it is the one chosen.
    """

    name: str = ""
    protocol: str = "tcp"
    target_port: int = 0
    published_port: int = 0
    publish_mode: str = "ingress"


class EndpointSpec(Object, frozen=True):
    """How the service is reached. ``mode``: ``vip`` (also when empty) or ``dnsrr``."""

    mode: str = ""
    ports: tuple[PortConfig, ...] = ()


class VirtualIP(Object, frozen=True):
    """A service's own address on one of its networks; ``addr`` carries its mask."""

    network_id: str = ""
    addr: str = ""


class Endpoint(Object, frozen=True):
    """What the cluster gave a service to be reached by."""

    ports: tuple[PortConfig, ...] = ()
    virtual_ips: tuple[VirtualIP, ...] = ()
    #: The network on which its ingress ports reach the tasks; empty without such ports.
    mesh_network_id: str = ""

    @property
    def published(self) -> tuple[tuple[PortConfig, ...], str]:
        """How tasks made now are published: their ports, and the network for those of mode ``ingress``."""
        return self.ports, self.mesh_network_id


class ServiceSpec(Object, frozen=True):
    """What the user asked for."""

    name: str = ""
    labels: dict[str, str] = {}
    task_template: TaskSpec = TaskSpec()
    mode: ServiceMode = ServiceMode()
    update_config: UpdateConfig | None = None
    endpoint_spec: EndpointSpec | None = None

    @property
    def replicas(self) -> int:
        """How many tasks the user wants."""
        if self.mode.replicated is None or self.mode.replicated.replicas is None:
            return 1
        return self.mode.replicated.replicas


class UpdateStatus(Object, frozen=True):
    """How a rolling update is doing: ``updating``, ``paused`` or ``completed``."""

    state: str = ""
    started_at: datetime | None = None
    completed_at: datetime | None = None
    message: str = ""


class Service(Object, frozen=True):
    """A service as stored. ``spec_version`` is the object version at which the spec last changed."""

    id: str
    version: Version = Version()
    created_at: datetime = EPOCH
    updated_at: datetime = EPOCH
    spec: ServiceSpec = ServiceSpec()
    previous_spec: ServiceSpec | None = None
    update_status: UpdateStatus | None = None
    endpoint: Endpoint = Endpoint()

    @property
    def has_vips(self) -> bool:
        """Whether its name means a virtual IP rather than its tasks' addresses."""
        return self.spec.endpoint_spec is None or self.spec.endpoint_spec.mode != "dnsrr"
