"""The agent's engine door, and the whole agent, on a real Docker Engine."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.agents import SLEEPER, RememberingOverlay, a_network, a_task, an_agent, until
from support.dispatcher import FakeDispatcher, agent_identity, gone
from support.dockerd import Dockerd, cgroup_value, real_engine
from support.pki import Pki

from pyswarm.agent.dataplane import local
from pyswarm.agent.engine import (
    Attachment,
    DockerEngine,
    EngineError,
    EngineUnavailable,
    NameConflict,
    NoSuchContainer,
    NoSuchImage,
)
from pyswarm.agent.engine.networks import EGRESS
from pyswarm.common.ids import new_id
from pyswarm.common.types import Limit, Task, TaskState

pytestmark = pytest.mark.integration_docker

S = TaskState
NODE = new_id()


@pytest.fixture(scope="session")
def host() -> Iterator[Dockerd]:
    with real_engine() as dockerd:
        yield dockerd


@pytest.fixture
def dockerd(host: Dockerd) -> Iterator[Dockerd]:
    yield host
    host.clean()


@pytest.fixture
async def engine(dockerd: Dockerd) -> AsyncIterator[DockerEngine]:
    engine = DockerEngine(dockerd.url)
    yield engine
    await engine.close()


def inspect(dockerd: Dockerd, kind: str, name: str) -> Any:
    return json.loads(dockerd.docker(kind, "inspect", name))[0]


async def run(engine: DockerEngine, task: Task) -> str:
    await engine.create(task, [], egress=True)
    await engine.start(task.container_name)
    return task.container_name


async def test_the_host_is_described(engine: DockerEngine) -> None:
    description = await engine.describe()
    assert description.platform.os == "linux"
    assert description.resources.nano_cpus > 0
    assert description.resources.memory_bytes > 1 << 28
    assert description.engine.engine_version
    await engine.check_usable()


async def test_a_container_lives_and_dies(engine: DockerEngine, dockerd: Dockerd) -> None:
    task = a_task(NODE, hostname="me", env=("A=1",), dir="/tmp", user="nobody")
    created = await engine.create(task, [], egress=True)
    assert not created.started
    await engine.start(task.container_name)
    running = await engine.inspect(task.container_name)
    assert running.running
    assert running.started
    assert running.pid > 1
    shown = dockerd.docker("exec", task.container_name, "sh", "-c", "echo $A $(hostname) $(pwd) $(id -un)")
    assert shown == "1 me /tmp nobody"
    labels = inspect(dockerd, "container", task.container_name)["Config"]["Labels"]
    assert labels["com.docker.swarm.task.name"] == task.container_name
    assert inspect(dockerd, "container", task.container_name)["HostConfig"]["RestartPolicy"]["Name"] == "no"
    await engine.stop(task.container_name, 5)
    stopped = await engine.inspect(task.container_name)
    assert (stopped.running, stopped.exit_code) == (False, 0)
    await engine.remove(task.container_name)
    with pytest.raises(NoSuchContainer):
        await engine.inspect(task.container_name)
    await engine.stop(task.container_name, 1)
    await engine.remove(task.container_name)


async def test_limits_reach_the_kernel(engine: DockerEngine, dockerd: Dockerd) -> None:
    task = a_task(NODE, limits=Limit(memory_bytes=64 << 20, nano_cpus=500_000_000, pids=50))
    name = await run(engine, task)
    container_id = (await engine.inspect(name)).id
    assert cgroup_value(dockerd.cgroup, container_id, "memory.limit_in_bytes", "memory.max") == str(64 << 20)
    assert cgroup_value(dockerd.cgroup, container_id, "pids.max", "pids.max") == "50"


async def test_exit_codes_are_the_containers_own(engine: DockerEngine) -> None:
    name = await run(engine, a_task(NODE, ("sh", "-c", "exit 3")))
    await _ended(engine, name)
    assert (await engine.inspect(name)).exit_code == 3


async def _ended(engine: DockerEngine, name: str) -> None:
    async with asyncio.timeout(10):
        while (await engine.inspect(name)).running:  # noqa: ASYNC110 - the engine is the only one to ask
            await asyncio.sleep(0.02)


async def test_a_program_that_is_not_there_is_told(engine: DockerEngine) -> None:
    task = a_task(NODE, ("/no/such/program",))
    await engine.create(task, [], egress=True)
    with pytest.raises(EngineError, match="no such file"):
        await engine.start(task.container_name)
    assert (await engine.inspect(task.container_name)).started


async def test_a_missing_image_is_told_in_time(engine: DockerEngine) -> None:
    await engine.ensure_image("busybox:latest")
    async with asyncio.timeout(20):
        with pytest.raises(NoSuchImage, match=r"^No such image: foo:latest$") as caught:
            await engine.ensure_image("foo:latest")
    assert caught.value.reason
    with pytest.raises(NoSuchImage):
        await engine.create(a_task(NODE, image="foo:latest"), [], egress=True)


async def test_an_earlier_tries_container_is_adopted_and_anothers_is_not(
    engine: DockerEngine, dockerd: Dockerd
) -> None:
    network = local(a_network())
    await engine.ensure_network(network)
    task = a_task(NODE)
    first = await engine.create(task, [], egress=True)
    again = await engine.create(task, [Attachment(network, "10.77.1.5")], egress=True)
    assert again.id == first.id
    networks = inspect(dockerd, "container", first.id)["NetworkSettings"]["Networks"]
    assert {"app", EGRESS} <= set(networks), "what the earlier try had not connected"
    await engine.start(task.container_name)
    assert (await engine.create(task, [], egress=True)).running
    other = a_task(NODE, slot=2)
    dockerd.docker("create", "--name", other.container_name, "busybox")
    with pytest.raises(NameConflict, match=other.container_name):
        await engine.create(other, [], egress=True)


async def test_networks_and_addresses(engine: DockerEngine, dockerd: Dockerd) -> None:
    app, back = local(a_network()), local(a_network("back", 4098, "10.77.2.0/24"))
    for network in (app, back):
        await engine.ensure_network(network)
        await engine.ensure_network(network)
    task = a_task(NODE)
    await engine.create(task, [Attachment(app, "10.77.1.5"), Attachment(back, "10.77.2.6")], egress=True)
    await engine.start(task.container_name)
    hosts = dockerd.docker("exec", task.container_name, "cat", "/etc/hosts")
    hostname = dockerd.docker("exec", task.container_name, "hostname")
    assert {line.split()[0] for line in hosts.splitlines() if line.endswith(hostname)} == {
        "10.77.1.5",
        "10.77.2.6",
    }
    assert "02:42:0a:4d:01:05" in dockerd.docker("exec", task.container_name, "ip", "link")
    assert "default via 172." in dockerd.docker("exec", task.container_name, "ip", "route")
    bridge = json.loads(dockerd.sh("ip", "-j", "-d", "link", "show", "pswb4097"))[0]
    assert bridge["mtu"] == 1450
    shown = inspect(dockerd, "network", "app")
    assert shown["Internal"]
    assert shown["Labels"]["com.pyswarm.network.id"] == app.network_id
    assert inspect(dockerd, "network", EGRESS)["Options"]["com.docker.network.bridge.enable_icc"] == "false"
    assert dockerd.sh("ip", "-o", "link", "show", "pswgw")
    assert set(await engine.network_ids()) == {app.network_id, back.network_id}
    with pytest.raises(EngineError, match="active endpoints"):
        await engine.remove_network(app.network_id)
    await engine.stop(task.container_name, 2)
    await engine.remove_network(app.network_id)
    await engine.remove_network(app.network_id)
    assert await engine.network_ids() == [back.network_id]
    await engine.remove_egress()
    assert EGRESS not in dockerd.docker("network", "ls")
    await engine.create(a_task(NODE, slot=2), [Attachment(back, "10.77.2.7")], egress=True)
    assert EGRESS in dockerd.docker("network", "ls")


async def test_a_network_of_ours_in_the_way_goes_and_a_users_is_named(
    engine: DockerEngine, dockerd: Dockerd
) -> None:
    await engine.ensure_network(local(a_network()))
    newer = local(a_network(vni=4099))
    await engine.ensure_network(newer)
    assert await engine.network_ids() == [newer.network_id]
    dockerd.docker("network", "create", "mine")
    with pytest.raises(NameConflict, match="docker network rm mine"):
        await engine.ensure_network(local(a_network("mine", 4100, "10.77.3.0/24")))


async def test_an_address_in_use_is_told_by_the_engine(engine: DockerEngine) -> None:
    network = local(a_network())
    await engine.ensure_network(network)
    for slot in (1, 2):
        task = a_task(NODE, slot=slot)
        await engine.create(task, [Attachment(network, "10.77.1.5")], egress=False)
        if slot == 1:
            await engine.start(task.container_name)
    with pytest.raises(EngineError, match="Address already in use"):
        await engine.start(task.container_name)


async def test_ours_are_listed_by_node(engine: DockerEngine, dockerd: Dockerd) -> None:
    running = await run(engine, a_task(NODE))
    created = a_task(NODE, slot=2)
    await engine.create(created, [], egress=True)
    await engine.create(a_task(new_id()), [], egress=True)
    dockerd.docker("create", "busybox")
    found = {info.name: info.running for info in await engine.containers(NODE)}
    assert found == {running: True, created.container_name: False}


async def test_what_is_left_over_is_ours_of_any_node_and_nobody_elses(
    engine: DockerEngine, dockerd: Dockerd
) -> None:
    tasks = [a_task(NODE), a_task(new_id())]
    for task in tasks:
        await engine.create(task, [], egress=True)
    dockerd.docker("create", "--label", f"com.docker.swarm.task.id={new_id()}", "busybox")
    assert {info.name for info in await engine.all_of_ours()} == {task.container_name for task in tasks}


async def test_events_tell_of_ends_even_those_before_asking(engine: DockerEngine, dockerd: Dockerd) -> None:
    since_s = float(dockerd.sh("date", "+%s.%N"))
    task = a_task(NODE, ("true",))
    await _ended(engine, await run(engine, task))
    async with asyncio.timeout(10):
        async for event in engine.events(since_s):
            if event.action == "die":
                assert event.task_id == task.id
                break


async def test_an_engine_that_is_not_there_is_told() -> None:
    engine = DockerEngine("unix:///nowhere/docker.sock")
    with pytest.raises(EngineUnavailable, match="no such socket"):
        await engine.describe()
    await engine.close()


# --- the whole agent ---


class Node:
    """An agent on the real engine, with a leader played by the test."""

    def __init__(self, dockerd: Dockerd, folder: Path) -> None:
        self.dockerd = dockerd
        self.pki = Pki()
        self.identity = agent_identity(self.pki)
        self.node_id = self.identity.node_id
        self.overlay = RememberingOverlay()
        self.folder = folder


@pytest.fixture
def node(dockerd: Dockerd, tmp_path: Path) -> Node:
    return Node(dockerd, tmp_path)


async def test_tasks_run_are_stopped_and_leave_nothing(node: Node, engine: DockerEngine) -> None:
    network = a_network()
    tasks = [a_task(node.node_id, slot=slot, networks=[(network, slot + 4)]) for slot in range(1, 7)]
    broken = a_task(node.node_id, ("sh", "-c", "exit 3"), slot=7)
    missing = a_task(node.node_id, image="foo:latest", slot=8)
    async with FakeDispatcher(node.pki) as leader:
        agent = an_agent(node.identity, [leader.addr], engine, node.folder, node.overlay)
        await agent.start()
        try:
            leader.assign(items=[network, *tasks, broken, missing])
            await leader.until(*((task, S.RUNNING) for task in tasks), (broken, S.FAILED), (missing, S.REJECTED))
            assert leader.statuses[broken.id][-1].err == "task: non-zero exit (3)"
            assert leader.statuses[missing.id][-1].err == "No such image: foo:latest"
            assert node.dockerd.docker("exec", tasks[0].container_name, "ping", "-c1", "-W2", "10.77.1.6")
            assert network.id in node.overlay.networks
            leader.assign(*(gone(task) for task in (*tasks, broken, missing)), gone(network))
            await until(lambda: not agent.statuses, "all tasks to be gone", timeout_s=20)
            await until(lambda: not node.overlay.networks, "the network to be left")
        finally:
            await agent.stop()
    assert node.dockerd.docker("ps", "-aq") == ""
    await _no_network(engine)


async def _no_network(engine: DockerEngine) -> None:
    async with asyncio.timeout(10):
        while await engine.network_ids():  # noqa: ASYNC110 - the engine is the only one to ask
            await asyncio.sleep(0.02)


async def test_a_restarted_agent_adopts_and_reports_what_ended_meanwhile(node: Node, engine: DockerEngine) -> None:
    kept = a_task(node.node_id)
    ended = a_task(node.node_id, slot=2)
    async with FakeDispatcher(node.pki) as leader:
        agent = an_agent(node.identity, [leader.addr], engine, node.folder)
        await agent.start()
        leader.assign(items=[kept, ended])
        await leader.until((kept, S.RUNNING), (ended, S.RUNNING))
        await agent.stop()
        before = await engine.inspect(kept.container_name)
        node.dockerd.docker("exec", ended.container_name, "kill", "-9", "-1", check=False)
        node.dockerd.docker("kill", ended.container_name, check=False)
        again = DockerEngine(node.dockerd.url)
        agent = an_agent(node.identity, [leader.addr], again, node.folder)
        await agent.start()
        try:
            await leader.until((ended, S.FAILED))
            assert leader.statuses[ended.id][-1].err == "task: non-zero exit (137)"
            assert agent.statuses[kept.id].state is S.RUNNING
            assert (await engine.inspect(kept.container_name)).pid == before.pid
        finally:
            await agent.stop()
            await again.close()


async def test_an_engine_that_is_killed_and_restarted_loses_no_task(node: Node, engine: DockerEngine) -> None:
    kept = a_task(node.node_id)
    ended = a_task(node.node_id, ("sh", "-c", "while [ ! -e /tmp/end ]; do sleep 0.1; done; exit 5"), slot=2)
    later = a_task(node.node_id, SLEEPER, slot=3)
    async with FakeDispatcher(node.pki) as leader:
        agent = an_agent(node.identity, [leader.addr], engine, node.folder, node.overlay)
        await agent.start()
        try:
            leader.assign(items=[kept, ended])
            await leader.until((kept, S.RUNNING), (ended, S.RUNNING))
            before = await engine.inspect(kept.container_name)
            pid = (await engine.inspect(ended.container_name)).pid
            node.dockerd.kill()
            await until(lambda: leader.descriptions[-1].engine_error, "the engine's absence to be reported")
            assert "is the engine running?" in leader.descriptions[-1].engine_error
            Path(f"/proc/{pid}/root/tmp/end").touch()
            leader.assign(items=[later])
            await until(lambda: not Path(f"/proc/{pid}").exists(), "the container to end without its engine")
            assert leader.state(kept) is S.RUNNING
            await asyncio.to_thread(node.dockerd.start)
            await leader.until((ended, S.FAILED), (later, S.RUNNING), timeout_s=40)
            assert leader.statuses[ended.id][-1].err == "task: non-zero exit (5)"
            assert (await engine.inspect(kept.container_name)).pid == before.pid
            assert len(leader.sessions) == 1
            assert not leader.descriptions[-1].engine_error
        finally:
            await agent.stop()
