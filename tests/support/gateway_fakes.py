"""A cluster without hosts behind the real gateway: what the API and the CLI are tried against."""

import asyncio
import itertools
import json
import os
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

from aiohttp import web
from msgspec.structs import replace

from pyswarm.common.errors import (
    AlreadyExists,
    FailedPrecondition,
    InUse,
    InvalidArgument,
    NotFound,
    UpdateOutOfSequence,
)
from pyswarm.common.files import file_keys
from pyswarm.common.ids import new_id
from pyswarm.common.nodecontrol import InitOptions, JoinOptions, NodeInfo
from pyswarm.common.tasks import TaskGroupOwner
from pyswarm.common.types import (
    Cluster,
    ClusterEvent,
    Config,
    ContainerStatus,
    EngineDescription,
    JoinTokens,
    ManagerStatus,
    Network,
    Node,
    NodeAvailability,
    NodeDescription,
    NodeRole,
    NodeSpec,
    NodeState,
    NodeStatus,
    Platform,
    Resources,
    Secret,
    Service,
    Task,
    TaskNetwork,
    TaskState,
    TaskStatus,
    Version,
    timestamp,
)
from pyswarm.gateway.app import make_app, make_runner
from pyswarm.gateway.backend import API_VERSION, Backend
from pyswarm.gateway.cluster import ClusterAccess
from pyswarm.gateway.engine import Engine
from pyswarm.manager.control.file_checks import check_file_spec, check_file_update, check_references
from pyswarm.proto.v1 import logs_pb2 as pb

#: The programs of this very environment come first.
PATH = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
NOW = timestamp(1_700_000_000)
WORKER_TOKEN = "SWMTKN-1-" + "w" * 50 + "-" + "1" * 25
MANAGER_TOKEN = "SWMTKN-1-" + "w" * 50 + "-" + "2" * 25


class FakeControl:
    """A store of one manager, without Raft, whose tasks are where ``place`` says as soon as they are made."""

    def __init__(self, node_id: str) -> None:
        self._index = itertools.count(10)
        self.nodes: dict[str, Node] = {}
        self.services: dict[str, Service] = {}
        self.networks: dict[str, Network] = {}
        self.tasks: dict[str, Task] = {}
        self.secrets: dict[str, Secret] = {}
        self.configs: dict[str, Config] = {}
        self.log_script: list[list[pb.ReadLogsMessage | Exception | None]] = []
        self.log_requests: list[pb.ReadLogsRequest] = []
        self.stale_reads = 0
        self.events: list[ClusterEvent] = []
        self.event_watchers: list[asyncio.Queue[ClusterEvent]] = []
        self.events_error: Exception | None = None
        tokens = JoinTokens(worker=WORKER_TOKEN, manager=MANAGER_TOKEN)
        self.cluster = Cluster(id=new_id(), join_tokens=tokens, created_at=NOW, updated_at=NOW)
        self.place: Callable[[Task], Task] = self.run_everywhere
        self.add_node("h1", NodeRole.MANAGER, node_id)

    def add_node(self, hostname: str, role: NodeRole = NodeRole.WORKER, node_id: str = "") -> Node:
        number = len(self.nodes) + 1
        manager = role is NodeRole.MANAGER
        node = Node(
            id=node_id or new_id(),
            version=self._version(),
            created_at=NOW,
            updated_at=NOW,
            spec=NodeSpec(role=role, availability=NodeAvailability.ACTIVE),
            description=NodeDescription(
                hostname=hostname,
                platform=Platform(architecture="x86_64", os="linux"),
                resources=Resources(nano_cpus=2_000_000_000, memory_bytes=4 << 30),
                engine=EngineDescription(engine_version="20.10.24+dfsg1"),
            ),
            status=NodeStatus(state=NodeState.READY, addr=f"10.99.0.{number}"),
            manager_status=ManagerStatus(leader=number == 1, addr=f"10.99.0.{number}:2377") if manager else None,
            underlay_addr=f"10.99.0.{number}",
        )
        self.nodes[node.id] = node
        return node

    def _version(self) -> Version:
        return Version(index=next(self._index))

    def run_everywhere(self, task: Task) -> Task:
        """Every task runs at once, spread over the nodes."""
        nodes = list(self.nodes)
        container = ContainerStatus(container_id=new_id() * 2, pid=4711)
        status = TaskStatus(timestamp=NOW, state=TaskState.RUNNING, message="started", container_status=container)
        return replace(task, node_id=nodes[task.slot % len(nodes)], status=status)

    def keep_pending(self, reason: str) -> Callable[[Task], Task]:
        """No node suits."""

        def place(task: Task) -> Task:
            return replace(task, status=TaskStatus(timestamp=NOW, state=TaskState.PENDING, err=reason))

        return place

    @staticmethod
    def _find(table: dict[str, Any], ref: str, kind: str, name: Callable[[Any], str]) -> Any:
        if ref in table:
            return table[ref]
        named = [obj for obj in table.values() if name(obj) == ref]
        if len(named) == 1:
            return named[0]
        prefixed = [obj for obj in table.values() if obj.id.startswith(ref)]
        if len(prefixed) > 1:
            raise InvalidArgument(f"{kind} {ref} is ambiguous ({len(prefixed)} matches found)")
        if not prefixed:
            raise NotFound(f"{kind} {ref} not found")
        return prefixed[0]

    def reading(self, *, stale: bool = False, timeout_s: float = 10.0) -> "FakeControl":
        self.stale_reads += stale
        return self

    async def get_service(self, ref: str) -> Service:
        return self._find(self.services, ref, "service", lambda s: s.spec.name)

    async def list_services(self, filters: Any = None) -> list[Service]:
        return [
            s
            for s in self.services.values()
            if _matches(filters, "id", s.id.startswith)
            and _matches(filters, "name", s.spec.name.startswith)
            and _labelled(filters, s.spec.labels)
        ]

    async def create_service(self, spec: Any) -> Service:
        if not spec.name:
            spec = replace(spec, name="nameless")
        if any(s.spec.name == spec.name for s in self.services.values()):
            raise AlreadyExists(
                "rpc error: code = AlreadyExists desc = name conflicts with an existing object: "
                f"service {spec.name} already exists"
            )
        check_references(spec.task_template.container_spec)
        service = Service(id=new_id(), version=self._version(), created_at=NOW, updated_at=NOW, spec=spec)
        self.services[service.id] = service
        self._reconcile(service)
        return service

    async def update_service(self, ref: str, version: int, spec: Any, rollback: bool = False) -> Service:
        service = await self.get_service(ref)
        if version != service.version.index:
            raise UpdateOutOfSequence
        if rollback:
            spec = service.previous_spec
        check_references(spec.task_template.container_spec)
        changed = replace(service, version=self._version(), spec=spec, previous_spec=service.spec)
        self.services[service.id] = changed
        if changed.spec.task_template != service.spec.task_template:
            for task in self._tasks_of(service.id):
                ended = replace(task.status, state=TaskState.SHUTDOWN)
                self.tasks[task.id] = replace(task, desired_state=TaskState.SHUTDOWN, status=ended)
        self._reconcile(changed)
        return changed

    def _tasks_of(self, service_id: str) -> list[Task]:
        return [
            t for t in self.tasks.values() if t.service_id == service_id and t.desired_state is TaskState.RUNNING
        ]

    def _reconcile(self, service: Service) -> None:
        alive = {t.slot: t for t in self._tasks_of(service.id)}
        for slot, task in alive.items():
            if slot > service.spec.replicas:
                del self.tasks[task.id]
        for slot in range(1, service.spec.replicas + 1):
            if slot not in alive:
                self._make_task(service, slot)

    def _make_task(self, service: Service, slot: int) -> None:
        attachments = tuple(
            TaskNetwork(network_id=n.target, addr=f"10.0.1.{slot + 1}/24")
            for n in service.spec.task_template.networks
        )
        task = Task(
            id=new_id(),
            version=self._version(),
            created_at=NOW,
            updated_at=NOW,
            service_id=service.id,
            service_name=service.spec.name,
            service_labels=service.spec.labels,
            slot=slot,
            spec=service.spec.task_template,
            networks=attachments,
        )
        self.tasks[task.id] = self.place(task)

    async def remove_service(self, ref: str) -> None:
        service = await self.get_service(ref)
        del self.services[service.id]
        self.tasks = {id_: t for id_, t in self.tasks.items() if t.service_id != service.id}

    async def get_network(self, ref: str) -> Network:
        return self._find(self.networks, ref, "network", lambda n: n.spec.name)

    async def list_networks(self, filters: Any = None) -> list[Network]:
        return [n for n in self.networks.values() if _labelled(filters, n.spec.labels)]

    async def create_network(self, spec: Any) -> Network:
        if any(n.spec.name == spec.name for n in self.networks.values()):
            raise AlreadyExists(f"network with name {spec.name} already exists")
        number = len(self.networks) + 1
        network = Network(
            id=new_id(),
            version=self._version(),
            created_at=NOW,
            spec=spec,
            subnet=spec.ipam[0].subnet if spec.ipam else f"10.0.{number}.0/24",
            gateway=f"10.0.{number}.1",
            vni=4096 + number,
        )
        self.networks[network.id] = network
        return network

    async def remove_network(self, ref: str) -> None:
        network = await self.get_network(ref)
        users = [
            s for s in self.services.values() for n in s.spec.task_template.networks if n.target == network.id
        ]
        if users:
            raise FailedPrecondition(
                "rpc error: code = FailedPrecondition desc = network "
                f"{network.id} is in use by service {users[0].id}"
            )
        del self.networks[network.id]

    async def get_node(self, ref: str) -> Node:
        return self._find(self.nodes, ref, "node", lambda n: n.description.hostname)

    async def list_nodes(self, filters: Any = None) -> list[Node]:
        return [n for n in self.nodes.values() if _matches(filters, "name", n.description.hostname.startswith)]

    async def update_node(self, ref: str, version: int, spec: Any) -> Node:
        node = await self.get_node(ref)
        if version != node.version.index:
            raise UpdateOutOfSequence
        self.nodes[node.id] = replace(node, version=self._version(), spec=spec)
        return self.nodes[node.id]

    async def remove_node(self, ref: str, force: bool = False) -> None:
        node = await self.get_node(ref)
        if not force and node.status.state is not NodeState.DOWN:
            raise FailedPrecondition(
                f"rpc error: code = FailedPrecondition desc = node {node.id} is not down and can't be removed"
            )
        del self.nodes[node.id]

    async def get_task(self, ref: str) -> Task:
        return self._find(self.tasks, ref, "task", lambda t: t.name)

    async def list_tasks(self, filters: Any = None) -> list[Task]:
        return [
            t
            for t in self.tasks.values()
            if _matches(filters, "service", (t.service_id, t.service_name).__contains__)
            and _matches(filters, "node", t.node_id.__eq__)
            and _matches(filters, "desired-state", t.desired_state.value.__eq__)
            and _labelled(filters, t.service_labels)
            and (
                not (filters or {}).get("_up-to-date") or t.spec == self.services[t.service_id].spec.task_template
            )
        ]

    def _up_to_date(self, task: Task) -> bool:
        return task.spec == self.services[task.service_id].spec.task_template

    def _new_file(self, table: dict[str, Any], of: type[Any], kind: str, spec: Any) -> Any:
        check_file_spec(spec)
        if any(f.spec.name == spec.name for f in table.values()):
            raise AlreadyExists(f"rpc error: code = AlreadyExists desc = {kind} {spec.name} already exists")
        made = of(id=new_id(), version=self._version(), created_at=NOW, updated_at=NOW, spec=spec)
        table[made.id] = made
        return made

    def _relabel(self, table: dict[str, Any], found: Any, version: int, spec: Any) -> Any:
        check_file_update(found.spec, spec)
        if version != found.version.index:
            raise UpdateOutOfSequence
        spec = replace(found.spec, labels=spec.labels)
        table[found.id] = replace(found, version=self._version(), spec=spec)
        return table[found.id]

    def _listed(self, table: dict[str, Any], filters: Any) -> list[Any]:
        return [
            f
            for f in table.values()
            if _matches(filters, "name", f.spec.name.startswith)
            and _matches(filters, "names", f.spec.name.__eq__)
            and _matches(filters, "id", f.id.startswith)
            and _labelled(filters, f.spec.labels)
        ]

    def _drop_file(self, table: dict[str, Any], found: Any, kind: str) -> None:
        for service in self.services.values():
            if (kind, found.id) in file_keys(service.spec.task_template.container_spec):
                raise InUse(f"{kind} '{found.spec.name}' is in use by the following service: {service.spec.name}")
        del table[found.id]

    async def get_secret(self, ref: str) -> Secret:
        found = self._find(self.secrets, ref, "secret", lambda s: s.spec.name)
        return replace(found, spec=replace(found.spec, data=b""))

    async def list_secrets(self, filters: Any = None) -> list[Secret]:
        return [replace(s, spec=replace(s.spec, data=b"")) for s in self._listed(self.secrets, filters)]

    async def create_secret(self, spec: Any) -> Secret:
        return self._new_file(self.secrets, Secret, "secret", spec)

    async def update_secret(self, ref: str, version: int, spec: Any) -> Secret:
        return self._relabel(self.secrets, self.secrets[(await self.get_secret(ref)).id], version, spec)

    async def remove_secret(self, ref: str) -> None:
        self._drop_file(self.secrets, await self.get_secret(ref), "secret")

    async def get_config(self, ref: str) -> Config:
        return self._find(self.configs, ref, "config", lambda c: c.spec.name)

    async def list_configs(self, filters: Any = None) -> list[Config]:
        return self._listed(self.configs, filters)

    async def create_config(self, spec: Any) -> Config:
        return self._new_file(self.configs, Config, "config", spec)

    async def update_config(self, ref: str, version: int, spec: Any) -> Config:
        return self._relabel(self.configs, await self.get_config(ref), version, spec)

    async def remove_config(self, ref: str) -> None:
        self._drop_file(self.configs, await self.get_config(ref), "config")

    async def get_cluster(self) -> Cluster:
        return self.cluster

    async def update_cluster(
        self,
        version: int = 0,
        spec: Any = None,
        rotate_worker_token: bool = False,
        rotate_manager_token: bool = False,
    ) -> Cluster:
        tokens = self.cluster.join_tokens
        if rotate_worker_token:
            tokens = replace(tokens, worker=tokens.worker[:-1] + "9")
        if rotate_manager_token:
            tokens = replace(tokens, manager=tokens.manager[:-1] + "9")
        self.cluster = replace(
            self.cluster, version=self._version(), spec=spec or self.cluster.spec, join_tokens=tokens
        )
        return self.cluster

    async def read_logs(self, request: pb.ReadLogsRequest) -> AsyncGenerator[pb.ReadLogsMessage, None]:
        """What ``log_script`` has for this call; an exception in it is raised, its end waits for ever if asked."""
        self.log_requests.append(request)
        for step in self.log_script.pop(0):
            if isinstance(step, Exception):
                raise step
            if step is None:
                await asyncio.Event().wait()
            else:
                yield step

    async def watch_events(self, since_ns: int) -> AsyncGenerator[list[ClusterEvent], None]:
        """What ``happen`` was told, since then and from now on."""
        if self.events_error is not None:
            raise self.events_error
        watcher: asyncio.Queue[ClusterEvent] = asyncio.Queue()
        self.event_watchers.append(watcher)
        try:
            yield [event for event in self.events if since_ns and event.time_ns >= since_ns]
            while True:
                yield [await watcher.get()]
        finally:
            self.event_watchers.remove(watcher)

    def happen(self, event: ClusterEvent) -> None:
        """Tell whoever watches."""
        self.events.append(event)
        for watcher in self.event_watchers:
            watcher.put_nowait(event)

    async def close(self) -> None:
        return None


def _matches(filters: Any, name: str, test: Callable[[str], bool]) -> bool:
    values = (filters or {}).get(name)
    return not values or any(test(value) for value in values)


def _labelled(filters: Any, labels: dict[str, str]) -> bool:
    wanted = [text.partition("=") for text in (filters or {}).get("label", ())]
    return all(key in labels and (not has_value or labels[key] == value) for key, has_value, value in wanted)


class FakeNode:
    """The daemon of a host that may be in a swarm or not."""

    def __init__(self, engine: str) -> None:
        self.state = NodeInfo(engine=engine, version="0.1.0")
        self.control: FakeControl | None = None
        self.joined: list[JoinOptions] = []
        self.inits: list[InitOptions] = []
        self.leave_warning = ""

    async def info(self) -> NodeInfo:
        return self.state

    async def init(self, options: InitOptions) -> str:
        if self.state.local_state != "inactive":
            raise FailedPrecondition(
                "This node is already part of a swarm. "
                'Use "docker swarm leave" to leave this swarm and join another one.'
            )
        self.inits.append(options)
        self.become("manager")
        return self.state.node_id

    def become(self, role: str) -> None:
        node_id = new_id()
        self.control = FakeControl(node_id)
        self.state = replace(
            self.state,
            local_state="active",
            node_id=node_id,
            role=role,
            addr="10.99.0.1",
            manager_addrs=("10.99.0.1:2377",),
        )

    async def join(self, options: JoinOptions) -> NodeInfo:
        if self.state.local_state != "inactive":
            raise FailedPrecondition(
                "This node is already part of a swarm. "
                'Use "docker swarm leave" to leave this swarm and join another one.'
            )
        if options.token not in (WORKER_TOKEN, MANAGER_TOKEN):
            raise InvalidArgument("rpc error: code = InvalidArgument desc = A valid join token is necessary")
        self.joined.append(options)
        self.become("worker" if options.token == WORKER_TOKEN else "manager")
        return self.state

    async def leave(self, force: bool) -> str:
        if self.state.role == "manager" and not force:
            raise FailedPrecondition(
                "You are attempting to leave the swarm on a node that is participating as a manager. "
                "Use `--force` to suppress this message."
            )
        self.state = NodeInfo(engine=self.state.engine, version="0.1.0")
        self.control = None
        return self.leave_warning


async def run(*argv: str, timeout_s: float = 20.0, **env: str) -> tuple[int, str, str]:
    """Run a program beside the gateway of this very loop: exit code, output, errors."""
    variables = {k: v for k, v in os.environ.items() if k not in ("DOCKER_HOST", "PYSWARM_HOST", "DOCKER_CONTEXT")}
    process = await asyncio.create_subprocess_exec(
        *argv, stdout=PIPE, stderr=PIPE, env={**variables, **env, "PATH": PATH}
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(), timeout_s)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


def _json(value: Any, status: int = 200) -> web.Response:
    # Without a charset, as the engine says it: the stock client compares the whole header.
    return web.Response(body=json.dumps(value).encode(), status=status, content_type="application/json")


class FakeEngine:
    """The few engine endpoints that are asked, and a record of what came through."""

    def __init__(self) -> None:
        self.networks: list[dict[str, Any]] = [
            {"Name": "bridge", "Id": "b" * 64, "Driver": "bridge", "Scope": "local", "Labels": {}},
        ]
        self.seen: list[tuple[str, str, bytes]] = []
        self.pruned: list[str] = []
        self.prune_filters: list[dict[str, Any]] = []
        #: What it remembers, and what happens; one watcher at a time.
        self.events: list[dict[str, Any]] = []
        self.coming_events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/v1.41/version", self._version)
        app.router.add_get("/v1.41/info", self._info)
        app.router.add_get("/v1.41/networks", self._networks)
        app.router.add_get("/v1.41/networks/{ref}", self._network)
        app.router.add_post("/v1.41/networks/prune", self._prune)
        app.router.add_get("/v1.41/distribution/{name:.*}", self._distribution)
        app.router.add_get("/v1.41/events", self._events)
        app.router.add_route("*", "/{tail:.*}", self._any)
        return app

    async def _version(self, _request: web.Request) -> web.Response:
        engine = {"Name": "Engine", "Version": "20.10.24+dfsg1", "Details": {"ApiVersion": "1.41"}}
        return _json(
            {
                "Platform": {"Name": ""},
                "Components": [engine],
                "Version": "20.10.24+dfsg1",
                "ApiVersion": "1.41",
                "MinAPIVersion": "1.12",
                "Os": "linux",
                "Arch": "amd64",
                "KernelVersion": "6.1.0",
            }
        )

    async def _info(self, _request: web.Request) -> web.Response:
        return _json(
            {"ID": "X", "Name": "h1", "Containers": 3, "ServerVersion": "20.10.24", "Swarm": {"NodeID": "native"}}
        )

    async def _networks(self, request: web.Request) -> web.Response:
        filters = json.loads(request.query.get("filters", "{}"))
        return _json([n for n in self.networks if _labelled(filters, n.get("Labels", {}))])

    async def _network(self, request: web.Request) -> web.Response:
        ref = request.match_info["ref"]
        for network in self.networks:
            if ref == network["Name"] or network["Id"].startswith(ref):
                return _json(network)
        return _json({"message": f"network {ref} not found"}, status=404)

    async def _prune(self, request: web.Request) -> web.Response:
        self.prune_filters.append(json.loads(request.query["filters"]))
        return _json({"NetworksDeleted": self.pruned or None})

    async def _distribution(self, _request: web.Request) -> web.Response:
        return _json({"message": "no registry here"}, status=500)

    async def _events(self, request: web.Request) -> web.StreamResponse:
        self.seen.append((request.method, request.raw_path, b""))
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        since_ns = Decimal(request.query.get("since", "inf")) * 10**9
        for event in self.events:
            if event["timeNano"] < since_ns:
                continue
            await response.write(json.dumps(event).encode() + b"\n")
        if "until" not in request.query:
            while True:
                await response.write(json.dumps(await self.coming_events.get()).encode() + b"\n")
        return response

    async def _any(self, request: web.Request) -> web.Response:
        self.seen.append((request.method, request.raw_path, await request.read()))
        return _json({"Id": "f" * 64, "Warnings": []}, status=201)


class Rig:
    """A gateway on ``socket`` with everything behind it at hand."""

    def __init__(self, folder: Path, engine_socket: Path | None = None) -> None:
        self.socket = folder / "docker.sock"
        self.host = f"unix://{self.socket}"
        self.engine_socket = engine_socket or folder / "engine.sock"
        self.engine = FakeEngine()
        self.node = FakeNode(f"unix://{self.engine_socket}")

    @property
    def control(self) -> FakeControl:
        assert self.node.control is not None
        return self.node.control


@asynccontextmanager
async def running_gateway(folder: Path, engine_socket: Path | None = None) -> Any:
    """The real gateway application on a unix socket in ``folder``, with fakes behind it, or before the engine at
    ``engine_socket``."""
    rig = Rig(folder, engine_socket)
    tasks = TaskGroupOwner("test-gateway")
    engine = Engine(API_VERSION)

    async def connect(_info: NodeInfo) -> FakeControl:
        return rig.control

    app = make_app(Backend(ClusterAccess(rig.node, connect), engine, tasks))
    runners = []
    try:
        sites = [(make_runner(app, 0.5), rig.socket)]
        if engine_socket is None:
            sites.insert(
                0, (web.AppRunner(rig.engine.app(), access_log=None, shutdown_timeout=0.5), rig.engine_socket)
            )
        for runner, path in sites:
            await runner.setup()
            runners.append(runner)
            await web.UnixSite(runner, str(path)).start()
        yield rig
    finally:
        for runner in reversed(runners):
            await runner.cleanup()
        await engine.close()
        await tasks.stop(1.0)
