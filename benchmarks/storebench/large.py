"""A manager with 100,000 tasks and 1,000 nodes: memory, snapshots, restart, and a thousand subscribers."""

import asyncio
import gc
import os
import tempfile
import time
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, TypeVar

from msgspec.structs import replace

from pyswarm.common.clock import SystemClock
from pyswarm.common.ids import new_id
from pyswarm.common.types import (
    ContainerSpec,
    Node,
    NodeDescription,
    Service,
    ServiceSpec,
    Task,
    TaskNetwork,
    TaskSpec,
    TaskState,
    TaskStatus,
)
from pyswarm.manager.raft import Member, RaftConfig, RaftNode
from pyswarm.manager.raft.disk import Disk
from pyswarm.manager.raft.entries import Snapshot
from pyswarm.manager.raft.snapshots import SnapshotStore
from pyswarm.manager.state import Store, Transaction, Watch
from storebench.child import Child, serve_questions
from storebench.figures import log, medians, rss_mib
from storebench.member import be_like_a_manager

TASKS, NODES, SERVICES = 100_000, 1_000, 100
PER_TRANSACTION = 500
SUBSCRIBERS = 1_000
COMMITS = 200
LOOK_EVERY_S = 0.001

T = TypeVar("T")


class _Nowhere:
    """The network of a manager that is alone."""

    def send(self, _node_id: str, _addr: str, _payload: bytes) -> bool:
        return False

    def forget(self, _node_id: str) -> None:
        """Nobody is known."""


def _service(number: int) -> Service:
    container = ContainerSpec(image="busybox:latest", args=("httpd", "-f", "-p", "80"), env=("A=1", "B=2"))
    return Service(
        id=new_id(), spec=ServiceSpec(name=f"service{number}", task_template=TaskSpec(container_spec=container))
    )


def _task(number: int, service: Service, node: Node) -> Task:
    addr = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}/8"
    return Task(
        id=new_id(),
        service_id=service.id,
        service_name=service.spec.name,
        slot=number // SERVICES + 1,
        node_id=node.id,
        spec=service.spec.task_template,
        status=TaskStatus(state=TaskState.RUNNING, message="started"),
        networks=(TaskNetwork(network_id="net", addr=addr, mac="02:42:0a:00:00:01"),),
    )


class _Manager:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.store = Store(SystemClock())
        me = Member("bench", "127.0.0.1:1")
        new = not (folder / "raft").exists()
        self.node = RaftNode(
            RaftConfig(str(folder / "raft"), me.node_id, me.addr),
            self.store,
            _Nowhere(),
            initial_members=[me] if new else None,
        )
        self.store.bind(self.node.propose)

    async def start(self) -> None:
        leads = asyncio.Event()
        self.node.on_leadership(lambda leading, _term: leads.set() if leading else None)
        await self.node.start()
        await leads.wait()

    async def fill(self) -> dict[str, Any]:
        """Tasks and nodes, in transactions as the orchestrator's."""
        gc.collect()
        before = rss_mib(os.getpid())
        services = [_service(n) for n in range(SERVICES)]
        nodes = [Node(id=new_id(), description=NodeDescription(hostname=f"host{n}")) for n in range(NODES)]
        everything = [
            *services,
            *nodes,
            *(_task(n, services[n % SERVICES], nodes[n % NODES]) for n in range(TASKS)),
        ]
        began_s = time.perf_counter()
        for start in range(0, len(everything), PER_TRANSACTION):
            part = everything[start : start + PER_TRANSACTION]

            def build(tx: Transaction, part: list[Any] = part) -> None:
                for obj in part:
                    tx.create(obj)

            await self.store.update(build, reason="benchmark")
        took_s = time.perf_counter() - began_s
        del everything, services, nodes
        gc.collect()
        return {"fill_s": round(took_s, 2), "rss_mib": rss_mib(os.getpid()), "rss_before_mib": before}

    async def snapshot(self) -> dict[str, Any]:
        """Taken as the applier takes it, while the loop looks at the clock every millisecond."""
        quiet_ms, _ = await _longest_stall(asyncio.sleep(1))
        snapshots = SnapshotStore(self._folder, Disk())
        index = self.store.view.index
        sizes: list[int] = []
        capture_s = [0.0]

        async def take() -> None:
            began_s = time.perf_counter()
            serialise = self.store.snapshot()
            capture_s[0] = time.perf_counter() - began_s

            def save() -> None:
                data = serialise()
                sizes.append(len(data))
                snapshots.save(Snapshot(index, 1, ()), data)

            await asyncio.get_running_loop().run_in_executor(None, save)

        began_s = time.perf_counter()
        stall_ms, _ = await _longest_stall(take())
        return {
            "snapshot_s": round(time.perf_counter() - began_s, 3),
            "snapshot_mib": round(sizes[0] / 1024**2, 1),
            "capture_on_the_loop_ms": round(capture_s[0] * 1e3, 2),
            "longest_stall_ms": stall_ms,
            "longest_stall_without_ms": quiet_ms,
        }

    async def fan_out(self) -> dict[str, Any]:
        """The same commits without and with subscribers, each of whom reads every event."""
        task = next(iter(self.store.view.tasks.values()))
        alone_s = await self._commits(task.id)
        delivered = [0]
        done = asyncio.Event()
        watches = [self.store.watch() for _ in range(SUBSCRIBERS)]

        async def read(watch: Watch) -> None:
            async for batch in watch:
                delivered[0] += len(batch)
                if delivered[0] == SUBSCRIBERS * COMMITS:
                    done.set()

        readers = [asyncio.ensure_future(read(watch)) for watch in watches]
        await asyncio.sleep(0)
        began_s = time.perf_counter()
        watched_s = await self._commits(task.id)
        await done.wait()
        took_s = time.perf_counter() - began_s
        for watch in watches:
            watch.close()
        await asyncio.gather(*readers)
        return {
            "events_per_s": round(SUBSCRIBERS * COMMITS / took_s),
            "commit_ms": round(alone_s / COMMITS * 1e3, 2),
            "commit_with_subscribers_ms": round(watched_s / COMMITS * 1e3, 2),
        }

    async def _commits(self, task_id: str) -> float:
        began_s = time.perf_counter()
        for number in range(COMMITS):

            def build(tx: Transaction, number: int = number) -> None:
                task = tx.view.tasks.find(task_id)
                tx.update(replace(task, reason=f"{number} {time.time()}"))

            await self.store.update(build, reason="benchmark")
        return time.perf_counter() - began_s


async def _longest_stall(work: Awaitable[T]) -> tuple[float, T]:
    """Run ``work``; the longest time, in ms, for which the loop did not come round meanwhile."""
    longest_s = 0.0
    task = asyncio.ensure_future(work)
    before_s = time.perf_counter()
    while not task.done():
        await asyncio.sleep(LOOK_EVERY_S)
        now_s = time.perf_counter()
        longest_s, before_s = max(longest_s, now_s - before_s), now_s
    return round(longest_s * 1e3, 1), await task


async def run(folder: Path) -> None:
    """The child: one manager, alone, on a real disk."""
    be_like_a_manager()
    manager = _Manager(folder)
    began_s = time.perf_counter()
    await manager.start()
    ready_s = round(time.perf_counter() - began_s, 3)

    async def answer(question: dict[str, Any]) -> dict[str, Any]:
        match question["what"]:
            case "ready":
                view = manager.store.view
                return {"open_and_restore_s": ready_s, "tasks": len(view.tasks), "rss_mib": rss_mib(os.getpid())}
            case "fill":
                return await manager.fill()
            case "snapshot":
                return await manager.snapshot()
            case "fan_out":
                return await manager.fan_out()
            case unknown:
                raise ValueError(f"not a question: {unknown}")

    await serve_questions(answer)


async def bench_large(disk: Path, repeat: int) -> dict[str, Any]:
    """(e) One manager; snapshots, restarts and fan-out are repeated."""
    with tempfile.TemporaryDirectory(dir=disk) as made:
        child = Child("large", made)
        try:
            await child.start()
            result: dict[str, Any] = {"tasks": TASKS, "nodes": NODES, "filled": await child.ask("fill")}
            log(f"{result}")
            result["snapshot"] = medians([await child.ask("snapshot") for _ in range(repeat)])
            result["fan_out"] = {
                "subscribers": SUBSCRIBERS,
                **medians([await child.ask("fan_out") for _ in range(repeat)]),
            }
            log(f"{result}")
            starts = []
            for _ in range(repeat):
                await child.kill()
                began_s = time.perf_counter()
                await child.start()
                restarted_s = time.perf_counter() - began_s
                starts.append({"process_to_leader_s": restarted_s, **await child.ask("ready")})
                log(f"restart: {starts[-1]}")
            result["restart"] = medians(starts)
        finally:
            await child.kill()
    return result
