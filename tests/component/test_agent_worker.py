"""The agent's worker on an engine double: preparing, starting, stopping, removing, networks."""

import asyncio
from pathlib import Path

import msgspec
from support.agents import RememberingOverlay, a_network, a_task, until
from support.fake_engine import BlockedEngine, FakeEngine, FlakyEngine
from support.worker_bench import NODE, S, bench, wanted

from pyswarm.agent.engine import EngineError
from pyswarm.agent.worker import Removal
from pyswarm.common.types import Network, PortConfig
from pyswarm.overlay.api import OverlayError


async def test_nothing_happens_before_the_first_full_set(tmp_path: Path) -> None:
    task = a_task(NODE)
    async with bench(tmp_path) as b:
        await b.worker.incremental([task])
        await until(lambda: b.health.up, "the engine to be seen")
        await b.clock.advance(30)
        assert b.state(task) is S.ASSIGNED
        await b.worker.complete([task])
        await b.reaches(task, S.RUNNING)


async def test_a_missing_image_rejects_the_task_in_dockers_words(tmp_path: Path) -> None:
    task = a_task(NODE, image="foo:latest")
    async with bench(tmp_path, assigned=[task]) as b:
        await b.reaches(task, S.REJECTED)
        assert b.err(task) == "No such image: foo:latest"
        assert "no route" in b.worker.statuses[task.id].message


async def test_a_container_that_cannot_start_fails_the_task(tmp_path: Path) -> None:
    task = a_task(NODE)
    engine = FakeEngine()
    engine.start_errors["web.1"] = EngineError("exec: no such file")
    async with bench(tmp_path, engine, assigned=[task]) as b:
        await b.reaches(task, S.FAILED)
        assert b.err(task) == "starting container failed: exec: no such file"


async def test_a_task_held_ready_starts_when_it_may(tmp_path: Path) -> None:
    task = a_task(NODE, desired=S.READY)
    async with bench(tmp_path, assigned=[task]) as b:
        await b.reaches(task, S.READY)
        await b.clock.advance(10)
        assert b.engine.count("start") == 0
        await b.worker.incremental([wanted(task, S.RUNNING)])
        await b.reaches(task, S.RUNNING)


async def test_shutdown_stops_but_keeps_the_container_for_history(tmp_path: Path) -> None:
    task = a_task(NODE)
    async with bench(tmp_path, assigned=[task]) as b:
        await b.reaches(task, S.RUNNING)
        await b.worker.incremental([wanted(task, S.SHUTDOWN)])
        await b.reaches(task, S.SHUTDOWN)
        assert task.container_name in b.engine.found
        await b.worker.incremental([Removal("task", task.id)])
        await b.reaches(task, None)
        assert not b.engine.found


async def test_desired_remove_takes_the_container_too(tmp_path: Path) -> None:
    task = a_task(NODE)
    async with bench(tmp_path, assigned=[task]) as b:
        await b.reaches(task, S.RUNNING)
        await b.worker.incremental([wanted(task, S.REMOVE)])
        await b.reaches(task, S.SHUTDOWN)
        await until(lambda: not b.engine.found, "the container to be removed")
        assert b.state(task) is S.SHUTDOWN


async def test_a_container_that_ended_before_the_stop_keeps_its_own_end(tmp_path: Path) -> None:
    task = a_task(NODE)
    engine = BlockedEngine()
    async with bench(tmp_path, engine, assigned=[task]) as b:
        await b.reaches(task, S.RUNNING)
        found = engine.found[task.container_name]
        engine.found[task.container_name] = msgspec.structs.replace(found, running=False, exit_code=9)
        await b.worker.incremental([wanted(task, S.SHUTDOWN)])
        await b.reaches(task, S.FAILED)
        assert b.err(task) == "task: non-zero exit (9)"


async def test_a_pull_is_given_up_when_the_task_is_no_longer_wanted(tmp_path: Path) -> None:
    task = a_task(NODE)
    engine = BlockedEngine("image")
    async with bench(tmp_path, engine, assigned=[task]) as b:
        await asyncio.wait_for(engine.waiting.wait(), 5)
        await b.worker.incremental([wanted(task, S.SHUTDOWN)])
        await b.reaches(task, S.SHUTDOWN)
        assert engine.count("create") == 0


async def test_an_unreliable_engine_is_asked_again(tmp_path: Path) -> None:
    task = a_task(NODE)
    async with bench(tmp_path, FlakyEngine(times=2), assigned=[task]) as b:
        await b.reaches(task, S.RUNNING)
        await b.worker.incremental([Removal("task", task.id)])
        await b.reaches(task, None)


async def test_tasks_absent_from_a_full_set_are_removed(tmp_path: Path) -> None:
    kept, gone = a_task(NODE), a_task(NODE, slot=2)
    async with bench(tmp_path, assigned=[kept, gone]) as b:
        await b.reaches(kept, S.RUNNING)
        await b.reaches(gone, S.RUNNING)
        await b.worker.complete([kept])
        await b.reaches(gone, None)
        assert b.state(kept) is S.RUNNING
        assert set(b.engine.found) == {kept.container_name}


async def test_a_name_that_is_taken_rejects_the_task(tmp_path: Path) -> None:
    task = a_task(NODE)
    engine = FakeEngine()
    engine.add(task.container_name, "", "")
    async with bench(tmp_path, engine, assigned=[task]) as b:
        await b.reaches(task, S.REJECTED)
        assert "taken" in b.err(task)


async def test_the_overlay_gets_a_moment_and_then_the_task_says_why(tmp_path: Path) -> None:
    network = a_network()
    one, two = (a_task(NODE, slot=slot, networks=[(network, slot + 4)]) for slot in (1, 2))
    overlay = RememberingOverlay()
    overlay.failures = [OverlayError("the bridge is not there yet")] * 2
    async with bench(tmp_path, overlay=overlay, assigned=[network, one]) as b:
        await b.reaches(one, S.RUNNING)
        await b.worker.incremental([Removal("task", one.id), Removal("network", network.id)])
        await b.reaches(one, None)
        await until(lambda: not overlay.networks, "the network to be left")
        overlay.failures = [OverlayError("VNI 4097 belongs to another device")] * 20
        await b.worker.incremental([network, two])
        await b.reaches(two, S.REJECTED)
        assert "VNI 4097" in b.err(two)


async def test_a_network_outlives_its_last_task_by_a_grace_period(tmp_path: Path) -> None:
    network = a_network()
    task, later = (a_task(NODE, slot=slot, networks=[(network, slot + 4)]) for slot in (1, 2))
    async with bench(tmp_path, assigned=[network, task]) as b:
        await b.reaches(task, S.RUNNING)
        await b.worker.incremental([wanted(task, S.SHUTDOWN)])
        await b.reaches(task, S.SHUTDOWN, passing=False)
        await b.clock.advance(5)
        assert network.id in b.overlay.networks
        await b.worker.incremental([later])
        await b.reaches(later, S.RUNNING, passing=False)
        await b.clock.advance(20)
        assert network.id in b.engine.networks
        await b.worker.incremental([wanted(later, S.SHUTDOWN)])
        await b.reaches(later, S.SHUTDOWN, passing=False)
        await b.clock.advance(11)
        await until(lambda: not b.engine.networks and not b.overlay.networks, "the network to be left")


async def test_a_network_in_its_grace_period_makes_way(tmp_path: Path) -> None:
    old, new = a_network(), a_network(vni=4099)
    task, later = a_task(NODE, networks=[(old, 5)]), a_task(NODE, slot=2, networks=[(new, 5)])
    async with bench(tmp_path, assigned=[old, task]) as b:
        await b.reaches(task, S.RUNNING)
        await b.worker.incremental([wanted(task, S.SHUTDOWN)])
        await b.reaches(task, S.SHUTDOWN, passing=False)
        await b.worker.incremental([new, later])
        await b.reaches(later, S.RUNNING, passing=False)
        assert set(b.overlay.networks) == {new.id}
        assert set(b.engine.networks) == {new.id}


async def test_leftover_networks_are_swept(tmp_path: Path) -> None:
    left: Network = a_network("left")
    engine = FakeEngine()
    engine.networks[left.id] = None  # type: ignore[assignment]
    async with bench(tmp_path, engine, assigned=[]) as b:
        await until(lambda: not engine.networks, "the leftover to be removed")
        await until(lambda: b.overlay.kept == set(), "the overlay to be pruned")


async def test_internal_networks_lead_nowhere(tmp_path: Path) -> None:
    inner, outer = a_network(internal=True), a_network("outer", 4098, "10.77.2.0/24")
    one = a_task(NODE, networks=[(inner, 5)])
    two = a_task(NODE, slot=2, networks=[(inner, 6), (outer, 6)])
    async with bench(tmp_path, assigned=[inner, outer, one, two]) as b:
        await b.reaches(one, S.RUNNING)
        await b.reaches(two, S.RUNNING)
        assert b.engine.egress == {one.container_name: False, two.container_name: True}
        assert [a.addr for a in b.engine.attachments[two.container_name]] == ["10.77.1.6", "10.77.2.6"]


async def test_the_overlay_knows_where_a_running_container_asks_from(tmp_path: Path) -> None:
    front, back = a_network(), a_network("back", 4098, "10.77.2.0/24")
    task, alone = a_task(NODE, networks=[(front, 5), (back, 5)]), a_task(NODE, slot=2)
    async with bench(tmp_path, assigned=[front, back, task, alone]) as b:
        await b.reaches(task, S.RUNNING)
        await b.reaches(alone, S.RUNNING)
        addrs = ["10.77.1.5", "10.77.2.5"]
        assert b.overlay.clients == {task.id: (addrs, [front.id, back.id])}
        known = b.engine.found[task.container_name]
        b.engine.found[task.container_name] = msgspec.structs.replace(known, egress_addr="172.18.0.3")
        await b.worker.engine_up()
        await until(lambda: b.overlay.clients[task.id][0] == [*addrs, "172.18.0.3"], "the way out to be known")
        await b.worker.incremental([wanted(task, S.SHUTDOWN)])
        await b.reaches(task, S.SHUTDOWN, passing=False)
        assert b.overlay.clients == {}


async def test_a_published_task_can_be_reached_before_anybody_hears_that_it_runs(tmp_path: Path) -> None:
    ingress = a_network("ingress", 4096, "10.77.3.0/24", internal=True, ingress=True)
    published = msgspec.structs.replace(a_task(NODE, networks=[(ingress, 5)]), mesh_network_id=ingress.id)
    published = msgspec.structs.replace(published, ports=(PortConfig(target_port=80, published_port=8080),))
    async with bench(tmp_path, assigned=[ingress]) as b:
        b.engine.egress_addr = "172.18.0.7"
        heard: list[dict[str, str]] = []
        b.overlay.on_let_in = lambda: heard.append({t: s.state for t, s in b.worker.statuses.items()})
        await b.worker.incremental([published])
        await b.reaches(published, S.RUNNING)
        assert b.overlay.ways_in == {published.id: "172.18.0.7"}
        assert heard == [{published.id: S.STARTING}]
        assert b.engine.egress == {published.container_name: True}, "its clients are outside, whatever its network"
        assert b.overlay.clients[published.id][1] == [], "nobody has a name on the ingress network"


async def test_ports_lent_by_the_host_are_reported_and_are_not_the_host_s_own(tmp_path: Path) -> None:
    fixed = PortConfig(target_port=80, published_port=8080, publish_mode="host")
    any_port = PortConfig(target_port=81, publish_mode="host")
    task = msgspec.structs.replace(a_task(NODE), ports=(fixed, any_port))
    lent = (fixed, msgspec.structs.replace(any_port, published_port=49_153))
    async with bench(tmp_path, assigned=[task]) as b:
        assert b.worker.lent_ports() >= {("tcp", 8080)}, "before it is started"
        b.engine.lend = lent
        await b.reaches(task, S.RUNNING)
        assert b.worker.statuses[task.id].port_status == lent
        assert {("tcp", 8080), ("tcp", 49_153)} <= b.worker.lent_ports()
        await b.worker.incremental([wanted(task, S.SHUTDOWN)])
        await b.reaches(task, S.SHUTDOWN, passing=False)
        assert b.worker.statuses[task.id].port_status == ()


async def test_an_unknown_network_is_named(tmp_path: Path) -> None:
    task = a_task(NODE, networks=[(network := a_network(), 5)])
    async with bench(tmp_path, assigned=[task]) as b:
        await b.reaches(task, S.REJECTED)
        assert network.id in b.err(task)


async def test_leaving_removes_everything_of_this_node(tmp_path: Path) -> None:
    network = a_network()
    task = a_task(NODE, networks=[(network, 5)])
    async with bench(tmp_path, assigned=[network, task]) as b:
        await b.reaches(task, S.RUNNING)
        await b.worker.remove_everything()
        assert not b.engine.found
        assert not b.engine.networks
        assert not b.overlay.networks
        assert not b.overlay.in_mesh


async def test_metrics_tell_tasks_by_state(tmp_path: Path) -> None:
    running, missing = a_task(NODE), a_task(NODE, slot=2, image="foo")
    async with bench(tmp_path, assigned=[running, missing]) as b:
        await b.reaches(running, S.RUNNING)
        await b.reaches(missing, S.REJECTED)

        def value(name: str, **labels: str) -> float | None:
            return b.registry.get_sample_value(name, labels)

        assert value("pyswarm_agent_tasks", state="running") == 1
        assert value("pyswarm_agent_tasks", state="rejected") == 1
        assert value("pyswarm_agent_tasks", state="preparing") == 0
        assert value("pyswarm_agent_container_starts_total") == 1
        assert value("pyswarm_agent_engine_up") == 1
