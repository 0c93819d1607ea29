"""The HTTP API on its unix socket, before a cluster that is only imagined."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
from msgspec.structs import replace
from support.gateway_fakes import Rig, running_gateway
from yarl import URL

from pyswarm.common.errors import NotLeader
from pyswarm.common.types import NodeRole

SPEC = {
    "Name": "web",
    "TaskTemplate": {"ContainerSpec": {"Image": "busybox:latest"}},
    "Mode": {"Replicated": {"Replicas": 2}},
}


class Api:
    """Requests to a rig."""

    def __init__(self, rig: Rig, session: aiohttp.ClientSession) -> None:
        self.rig = rig
        self._session = session

    async def __call__(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        async with self._session.request(method, URL(f"http://x{path}", encoded=True), json=body) as reply:
            text = await reply.read()
            return reply.status, json.loads(text) if text.strip() else None

    async def raw(self, method: str, path: str) -> tuple[int, Any, bytes]:
        async with self._session.request(method, f"http://x{path}") as reply:
            return reply.status, reply.headers, await reply.read()


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with (
        running_gateway(tmp_path) as rig,
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(rig.socket))) as session,
    ):
        yield Api(rig, session)


@pytest.fixture
async def swarm(api: Api) -> Api:
    """The same on a manager."""
    await api("POST", "/swarm/init", {})
    return api


async def test_ping_has_the_headers_clients_negotiate_with(api: Api) -> None:
    status, headers, body = await api.raw("GET", "/_ping")
    assert (status, body) == (200, b"OK")
    assert headers["Api-Version"] == "1.41"
    assert headers["Docker-Experimental"] == "false"
    assert headers["Ostype"] == "linux"
    assert headers["Content-Type"] == "text/plain; charset=utf-8"
    assert headers["Cache-Control"] == "no-cache, no-store, must-revalidate"
    status, headers, body = await api.raw("HEAD", "/_ping")
    assert (status, body, headers["Api-Version"]) == (200, b"", "1.41")


async def test_versions_of_the_path(api: Api) -> None:
    assert (await api("GET", "/v1.24/version"))[0] == 200
    assert (await api("GET", "/version"))[0] == 200
    assert await api("GET", "/v9.99/version") == (
        400,
        {"message": "client version 9.99 is too new. Maximum supported API version is 1.41"},
    )
    assert (await api("GET", "/v1.12/version"))[0] == 400
    assert await api("GET", "/v1.41/banana") == (404, {"message": "page not found"})
    assert await api("GET", "/banana") == (404, {"message": "page not found"})


async def test_without_a_swarm_cluster_paths_say_so(api: Api) -> None:
    for path in ("/services", "/nodes", "/tasks", "/swarm", "/services/x", "/swarm/unlockkey"):
        status, answer = await api("GET", path)
        assert status == 503, path
        assert answer["message"].startswith("This node is not a swarm manager. Use ")
    status, answer = await api("POST", "/networks/create", {"Name": "app", "Driver": "overlay"})
    assert (status, "not a swarm manager" in answer["message"]) == (503, True)
    info = (await api("GET", "/info"))[1]
    assert info["Swarm"]["LocalNodeState"] == "inactive"
    assert info["Containers"] == 3
    assert [n["Name"] for n in (await api("GET", "/networks"))[1]] == ["bridge"]


async def test_a_worker_points_to_the_managers(api: Api) -> None:
    api.rig.node.become("worker")
    status, answer = await api("GET", "/services")
    assert status == 503
    assert "Worker nodes can't be used to view or modify cluster state" in answer["message"]
    info = (await api("GET", "/info"))[1]["Swarm"]
    assert info["ControlAvailable"] is False
    assert info["RemoteManagers"] == [{"NodeID": "", "Addr": "10.99.0.1:2377"}]


async def test_init_info_and_token_rotation(api: Api) -> None:
    status, node_id = await api("POST", "/swarm/init", {"ListenAddr": "0.0.0.0:2377", "Spec": {"Labels": None}})
    assert (status, node_id) == (200, api.rig.node.state.node_id)
    assert (await api("POST", "/swarm/init", {}))[0] == 400
    info = (await api("GET", "/info"))[1]["Swarm"]
    assert (info["NodeID"], info["ControlAvailable"], info["Managers"]) == (node_id, True, 1)
    assert info["RemoteManagers"] == [{"NodeID": node_id, "Addr": "10.99.0.1:2377"}]
    swarm = (await api("GET", "/swarm"))[1]
    before = swarm["JoinTokens"]
    path = f"/swarm/update?version={swarm['Version']['Index']}&rotateWorkerToken=true"
    assert (await api("POST", path, swarm["Spec"]))[0] == 200
    after = (await api("GET", "/swarm"))[1]["JoinTokens"]
    assert before["Worker"] != after["Worker"]
    assert before["Manager"] == after["Manager"]
    assert (await api("POST", "/swarm/leave"))[0] == 400
    assert (await api("POST", "/swarm/leave?force=1"))[0] == 200
    assert (await api("GET", "/info"))[1]["Swarm"]["LocalNodeState"] == "inactive"


async def test_init_passes_settings_on_and_refuses_the_rest_by_name(api: Api) -> None:
    for body, name in (
        ({"DataPathAddr": "eth1"}, "DataPathAddr"),
        ({"AutoLockManagers": True}, "AutoLockManagers"),
        ({"Spec": {"CAConfig": {"ExternalCAs": [{"URL": "x"}]}}}, "Spec.CAConfig.ExternalCAs"),
        ({"Spec": {"Raft": {"SnapshotInterval": 5}}}, "Spec.Raft.SnapshotInterval"),
        ({"Spec": {"EncryptionConfig": {"AutoLockManagers": True}}}, "Spec.EncryptionConfig.AutoLockManagers"),
    ):
        status, answer = await api("POST", "/swarm/init", body)
        assert (status, answer["message"]) == (400, f"{name} is not supported by this version of pyswarm")
    body = {
        "AdvertiseAddr": "192.0.2.1",
        "DefaultAddrPool": ["10.20.0.0/16"],
        "SubnetSize": 26,
        "Availability": "drain",
        "Spec": {"Orchestration": {"TaskHistoryRetentionLimit": 2}, "Dispatcher": {"HeartbeatPeriod": 2 * 10**9}},
        "EtcdEndpoints": ["https://192.0.2.9:2379"],
    }
    assert (await api("POST", "/swarm/init", body))[0] == 200
    (options,) = api.rig.node.inits
    assert (options.advertise_addr, options.default_addr_pool, options.subnet_size) == (
        "192.0.2.1",
        ("10.20.0.0/16",),
        26,
    )
    assert (options.availability, options.etcd_endpoints) == ("drain", ("https://192.0.2.9:2379",))
    assert (options.spec.task_history_limit, options.spec.heartbeat_period_ns) == (2, 2 * 10**9)


async def test_join(api: Api) -> None:
    assert (await api("POST", "/swarm/join", {"JoinToken": "x"}))[0] == 400
    body = {"RemoteAddrs": ["192.0.2.1:2377"], "JoinToken": "x", "ListenAddr": "0.0.0.0:2377"}
    status, answer = await api("POST", "/swarm/join", body)
    assert (status, "valid join token" in answer["message"]) == (400, True)


async def test_a_service_from_creation_to_removal(swarm: Api) -> None:
    status, created = await swarm("POST", "/services/create", SPEC)
    assert status == 201
    path = f"/services/{created['ID'][:6]}"
    service = (await swarm("GET", path))[1]
    assert service["Spec"]["Mode"] == {"Replicated": {"Replicas": 2}}
    assert "UpdateConfig" not in service["Spec"]
    assert (await swarm("GET", "/services/web?insertDefaults=true"))[1]["Spec"]["UpdateConfig"]["Parallelism"] == 1
    listed = (await swarm("GET", "/services?status=true"))[1]
    assert listed[0]["ServiceStatus"] == {"RunningTasks": 2, "DesiredTasks": 2, "CompletedTasks": 0}
    assert "ServiceStatus" not in (await swarm("GET", "/services"))[1][0]

    assert (await swarm("POST", "/services/create", SPEC))[0] == 409
    assert (await swarm("POST", f"{path}/update", SPEC))[0] == 400
    status, answer = await swarm("POST", f"{path}/update?version=1", SPEC)
    assert (status, answer) == (500, {"message": "rpc error: code = Unknown desc = update out of sequence"})
    version = service["Version"]["Index"]
    status, answer = await swarm("POST", f"{path}/update?version={version}&rollback=previous", SPEC)
    assert (status, "does not have a previous spec" in answer["message"]) == (400, True)
    assert (await swarm("POST", f"{path}/update?version={version}", service["Spec"])) == (200, {"Warnings": None})

    filters = quote(json.dumps({"service": {"web": True}, "_up-to-date": {"true": True}}))
    tasks = (await swarm("GET", f"/tasks?filters={filters}"))[1]
    assert sorted(t["Slot"] for t in tasks) == [1, 2]
    assert (await swarm("GET", f"/tasks/{tasks[0]['ID']}"))[1]["ServiceID"] == created["ID"]
    on_self = quote('{"node":["self"]}')
    assert len((await swarm("GET", f"/tasks?filters={on_self}"))[1]) == 2
    assert (await swarm("GET", "/tasks?filters=%7B%22banana%22:%5B%22x%22%5D%7D"))[0] == 400
    assert (await swarm("GET", "/tasks?filters=banana"))[0] == 400

    assert (await swarm("DELETE", "/services/web")) == (200, None)
    assert await swarm("GET", "/services/web") == (404, {"message": "service web not found"})


async def test_bad_bodies_get_one_line(swarm: Api) -> None:
    for path in ("/services/create", "/networks/create", "/swarm/update?version=1"):
        async with swarm._session.post(f"http://x{path}", data=b"{banana") as reply:
            assert reply.status == 400
            message = (await reply.json())["message"]
        assert message.startswith("invalid JSON")
        assert "\n" not in message
    status, answer = await swarm("POST", "/services/create", {**SPEC, "Mode": {"Global": {}}})
    assert (status, answer["message"]) == (400, "Mode.Global is not supported by this version of pyswarm")


async def test_nodes(swarm: Api) -> None:
    worker = swarm.rig.control.add_node("h2")
    nodes = (await swarm("GET", "/nodes"))[1]
    assert [n["Description"]["Hostname"] for n in nodes] == ["h1", "h2"]
    assert nodes[0]["ManagerStatus"]["Leader"] is True
    found = (await swarm("GET", "/nodes/h2"))[1]
    spec = {**found["Spec"], "Availability": "drain", "Labels": {"disk": "ssd"}}
    path = f"/nodes/{worker.id}/update"
    assert (await swarm("POST", f"{path}?version={found['Version']['Index']}", spec))[0] == 200
    assert (await swarm("GET", "/nodes/h2"))[1]["Spec"] == spec
    assert (await swarm("POST", f"{path}?version=1", {"Role": "worker"}))[0] == 400
    assert (await swarm("DELETE", "/nodes/h2"))[0] == 400
    assert (await swarm("DELETE", "/nodes/h2?force=1"))[0] == 200
    assert (await swarm("GET", "/nodes/h2"))[0] == 404


async def test_networks_of_cluster_and_engine_show_once(swarm: Api) -> None:
    body = {
        "Name": "app",
        "Driver": "overlay",
        "Attachable": True,
        "CheckDuplicate": True,
        "IPAM": {"Driver": "default", "Options": {}, "Config": [{"Subnet": "10.9.0.0/24"}]},
        "EnableIPv6": False,
        "Scope": "",
        "Ingress": False,
        "ConfigFrom": None,
    }
    status, created = await swarm("POST", "/networks/create", body)
    assert status == 201
    labels = {"com.pyswarm.network.id": created["Id"]}
    containers = {"c1": {"Name": "web.1", "IPv4Address": "10.9.0.3/24"}}
    swarm.rig.engine.networks.append(
        {"Name": "app", "Id": "a" * 64, "Driver": "bridge", "Labels": labels, "Containers": containers}
    )
    listed = (await swarm("GET", "/networks"))[1]
    assert sorted((n["Name"], n["Scope"]) for n in listed) == [("app", "swarm"), ("bridge", "local")]
    by_scope = quote('{"scope":["swarm"]}')
    assert "app" in [n["Name"] for n in (await swarm("GET", f"/networks?filters={by_scope}"))[1]]
    for ref in ("app", created["Id"], created["Id"][:5]):
        found = (await swarm("GET", f"/networks/{ref}?scope="))[1]
        assert (found["Id"], found["Scope"], found["Containers"]) == (created["Id"], "swarm", containers)
    assert (await swarm("GET", "/networks/bridge"))[1]["Id"] == "b" * 64
    assert (await swarm("GET", "/networks/bridge?scope=swarm"))[0] == 404
    assert (await swarm("GET", "/networks/nope"))[0] == 404

    status, answer = await swarm("POST", "/networks/app/connect", {"Container": "x"})
    assert (status, "network connect on cluster network app" in answer["message"]) == (400, True)
    status, answer = await swarm(
        "POST", "/containers/create", {"Image": "x", "HostConfig": {"NetworkMode": "app"}}
    )
    assert (status, "cluster network app" in answer["message"]) == (400, True)
    assert swarm.rig.engine.seen == []

    await swarm("POST", "/services/create", {**SPEC, "Networks": [{"Target": created["Id"]}]})
    tasks = (await swarm("GET", "/tasks"))[1]
    assert {t["NetworksAttachments"][0]["Addresses"][0] for t in tasks} == {"10.0.1.2/24", "10.0.1.3/24"}
    peers = (await swarm("GET", "/networks/app"))[1]["Peers"]
    assert peers == [{"Name": swarm.rig.node.state.node_id[:12], "IP": "10.99.0.1"}]
    assert (await swarm("DELETE", "/networks/app"))[0] == 400
    await swarm("DELETE", "/services/web")
    assert (await swarm("DELETE", "/networks/app")) == (204, None)


async def test_pruning_takes_what_no_service_uses_and_leaves_the_engine_no_bridge_of_the_cluster(
    swarm: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = {}
    for name, labels in (("used", {}), ("idle", {"a": "b"}), ("other", {"a": "c"})):
        body = {"Name": name, "Driver": "overlay", "Labels": labels}
        ids[name] = (await swarm("POST", "/networks/create", body))[1]["Id"]
    await swarm("POST", "/services/create", {**SPEC, "Networks": [{"Target": ids["used"]}]})
    swarm.rig.engine.pruned = ["local"]
    asked = []
    remove = swarm.rig.control.remove_network

    async def spy(ref: str) -> None:
        asked.append(ref)
        await remove(ref)

    # The manager waits for tasks that are stopping; it is not asked in vain.
    monkeypatch.setattr(swarm.rig.control, "remove_network", spy)

    by_label = quote('{"label":{"a=b":true}}')
    assert await swarm("POST", f"/networks/prune?filters={by_label}") == (
        200,
        {"NetworksDeleted": ["idle", "local"]},
    )
    by_time = quote('{"until":["24h"]}')
    assert await swarm("POST", f"/networks/prune?filters={by_time}") == (200, {"NetworksDeleted": ["local"]})
    assert await swarm("POST", "/v1.41/networks/prune") == (200, {"NetworksDeleted": ["other", "local"]})
    swarm.rig.engine.pruned = []
    assert await swarm("POST", "/networks/prune") == (200, {"NetworksDeleted": None})
    assert "used" in [n["Name"] for n in (await swarm("GET", "/networks"))[1]]
    assert asked == [ids["idle"], ids["other"]]

    ours = ["com.pyswarm.network.id", "com.pyswarm.egress"]
    assert swarm.rig.engine.prune_filters == [
        {"label": ["a=b"], "label!": ours},
        {"until": ["24h"], "label!": ours},
        {"label!": ours},
        {"label!": ours},
    ]


async def test_pruning_on_a_worker_is_of_its_host(api: Api) -> None:
    api.rig.node.become("worker")
    api.rig.engine.pruned = ["local"]
    assert await api("POST", "/networks/prune") == (200, {"NetworksDeleted": ["local"]})


async def test_a_worker_shows_the_network_behind_its_bridge(api: Api) -> None:
    api.rig.node.become("worker")
    labels = {"com.pyswarm.network.id": "n" * 25}
    api.rig.engine.networks.append(
        {"Name": "app", "Id": "a" * 64, "Driver": "bridge", "Scope": "local", "Labels": labels}
    )
    for found in ((await api("GET", "/networks"))[1][1], (await api("GET", "/networks/app"))[1]):
        assert (found["Id"], found["Scope"], found["Driver"], found["Labels"]) == (
            "n" * 25,
            "swarm",
            "overlay",
            {},
        )
    assert (await api("DELETE", "/networks/app"))[0] == 503


async def test_network_options_that_are_not_there_yet(swarm: Api) -> None:
    for extra, name in (
        ({"EnableIPv6": True}, "EnableIPv6"),
        ({"ConfigOnly": True}, "ConfigOnly"),
        ({"IPAM": {"Driver": "mine"}}, "IPAM driver mine"),
        (
            {"IPAM": {"Config": [{"Subnet": "10.1.0.0/16", "AuxiliaryAddresses": {"a": "b"}}]}},
            "AuxiliaryAddresses.a",
        ),
    ):
        status, answer = await swarm("POST", "/networks/create", {"Name": "x", "Driver": "overlay", **extra})
        assert status == 400
        assert answer["message"].endswith(f"{name} is not supported by this version of pyswarm")
    assert (await swarm("POST", "/networks/create", {"Name": "bridge", "Driver": "overlay"}))[0] == 403


async def test_everything_else_is_the_engines(swarm: Api) -> None:
    assert (await swarm("POST", "/networks/create", {"Name": "mine", "Driver": "bridge"}))[0] == 201
    assert (await swarm("POST", "/v1.30/containers/create?name=a%2Fb", {"Image": "x"}))[0] == 201
    assert (await swarm("GET", "/images/json"))[0] == 201
    seen = swarm.rig.engine.seen
    assert [(method, path) for method, path, _ in seen] == [
        ("POST", "/v1.41/networks/create"),
        ("POST", "/v1.30/containers/create?name=a%2Fb"),
        ("GET", "/v1.41/images/json"),
    ]
    assert json.loads(seen[0][2]) == {"Name": "mine", "Driver": "bridge"}
    assert (await swarm("GET", "/distribution/busybox:latest/json"))[0] == 500


async def test_without_its_engine_the_cluster_is_still_served(swarm: Api) -> None:
    swarm.rig.node.state = replace(swarm.rig.node.state, engine="unix:///nonexistent.sock")
    await swarm("POST", "/networks/create", {"Name": "app", "Driver": "overlay"})
    assert [n["Name"] for n in (await swarm("GET", "/networks"))[1]] == ["app"]
    assert (await swarm("GET", "/networks/app"))[0] == 200
    assert (await swarm("GET", "/version"))[1]["ApiVersion"] == "1.41"
    info = (await swarm("GET", "/info"))[1]
    assert info["Swarm"]["LocalNodeState"] == "active"
    assert "does not answer" in info["Warnings"][0]
    status, answer = await swarm("GET", "/containers/json")
    assert (status, "nonexistent.sock) does not answer" in answer["message"]) == (503, True)


async def test_a_cluster_without_a_leader_is_told_and_info_still_answers(
    swarm: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nobody(*_args: object) -> None:
        raise NotLeader

    for name in ("list_services", "get_cluster", "list_nodes"):
        monkeypatch.setattr(swarm.rig.control, name, nobody)
    status, answer = await swarm("GET", "/services")
    assert (status, "does not have a leader" in answer["message"]) == (503, True)
    info = (await swarm("GET", "/info"))[1]["Swarm"]
    assert "does not have a leader" in info["Error"]


async def test_a_failure_inside_shows_no_inside(swarm: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_args: object) -> None:
        raise KeyError("secret")

    monkeypatch.setattr(swarm.rig.control, "list_services", broken)
    status, answer = await swarm("GET", "/services")
    assert status == 500
    assert "secret" not in answer["message"]


async def test_roles_are_changed_through_the_node_spec(swarm: Api) -> None:
    node = swarm.rig.control.add_node("h2", NodeRole.WORKER)
    spec = {"Role": "manager", "Availability": "active"}
    assert (await swarm("POST", f"/nodes/h2/update?version={node.version.index}", spec))[0] == 200
    assert swarm.rig.control.nodes[node.id].spec.role is NodeRole.MANAGER


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/services/create", b"[" * 200_000),
        ("/services/create", b'{"Labels":' * 500 + b"1" + b"}" * 500),
        ("/networks/create", b"[" * 200_000),
        ("/containers/create", b"[" * 200_000),
        ("/containers/create", b'{"NetworkingConfig": [1]}'),
        ("/containers/create", b'{"HostConfig": {"NetworkMode": [1]}}'),
        ("/services/create", b'{"Name": "web", "Mode": {"Replicated": {"Replicas": 1' + b"0" * 30 + b"}}}"),
        ("/swarm/update?version=" + "1" * 5000, b"{}"),
        ("/services/create", b"[]"),
    ],
)
async def test_a_body_that_makes_no_sense_is_the_client_s_mistake(swarm: Api, path: str, body: bytes) -> None:
    async with swarm._session.request("POST", f"http://x{path}", data=body) as reply:
        message = json.loads(await reply.read())["message"]
        assert reply.status == 400, message
        assert "\n" not in message


async def test_odd_filters_are_refused(swarm: Api) -> None:
    for text in ("[" * 2000, '{"name":[[1]]}', '{"name":[{}]}'):
        assert (await swarm("GET", f"/services?filters={quote(text)}"))[0] == 400
