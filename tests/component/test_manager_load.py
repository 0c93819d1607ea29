"""Thousands of tasks: the loops give way to others, and the store's metrics count them."""

import asyncio
import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry
from support.swarm import Swarm

from pyswarm.common.tasks import TaskGroupOwner
from pyswarm.common.types import NodeAvailability
from pyswarm.manager.state.metrics import StoreMetrics

REPLICAS = 2_000
MAX_LAG_S = 0.05


@contextmanager
def without_collector() -> Iterator[None]:
    """The garbage collector's pauses depend on all the process holds, here on what other tests left."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


class LagProbe:
    """Measures the processor time between two turns of the event loop: what a heartbeat would have waited."""

    def __init__(self) -> None:
        self.worst_s = 0.0

    async def run(self) -> None:
        last_s = time.thread_time()
        while True:
            await asyncio.sleep(0)
            now_s = time.thread_time()
            self.worst_s = max(self.worst_s, now_s - last_s)
            last_s = now_s


async def test_thousands_of_tasks_do_not_hold_up_the_event_loop() -> None:
    swarm, probe, owner = Swarm(), LagProbe(), TaskGroupOwner("test")
    registry = CollectorRegistry()
    StoreMetrics(swarm.store, registry)
    try:
        with without_collector():
            await swarm.start(nodes=20)
            network = await swarm.network("big", "10.64.0.0/16")
            owner.spawn(probe.run(), "probe")
            web = await swarm.create("web", REPLICAS, networks=[network])
            await until_running(swarm, web.id, REPLICAS)
            await swarm.agents.lose("node-h1")
            await swarm.agents.set_availability("node-h2", NodeAvailability.DRAIN)
            await until_running(swarm, web.id, REPLICAS)
            assert registry.get_sample_value("pyswarm_store_objects", {"kind": "node"}) == 20
            running = registry.get_sample_value("pyswarm_tasks", {"state": "running"})
            assert running == REPLICAS + REPLICAS / 20, "those on the node that is down still count as they were"
            await swarm.depose()
            swarm.lead()
            await swarm.clock.advance(0.1)
            await swarm.update(web, replicas=10, networks=[network])
            await until_running(swarm, web.id, 10)
    finally:
        await owner.stop()
        await swarm.stop()
    assert probe.worst_s < MAX_LAG_S


async def until_running(swarm: Swarm, service_id: str, count: int) -> None:
    """Let virtual time pass until so many run."""
    service = swarm.store.view.services.find(service_id)
    for _ in range(400):
        await swarm.clock.advance(0.05)
        # Large services are planned on another thread, which needs real time.
        await asyncio.sleep(0.002)
        on_down = [t for t in swarm.running(service) if t.node_id in swarm.agents.cut]
        if len(swarm.running(service)) - len(on_down) == count:
            return
    raise AssertionError(f"{len(swarm.running(service))} instead of {count} run")
