"""Leader and daemons together: etcd founded, secured, grown, lost and founded anew, with real members."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from aetcd.rpc import rpc_pb2
from support.env import require_binary
from support.registry_lab import Host, Pki, eventually

from pyswarm.common.clock import SystemClock
from pyswarm.common.tls import TLSIdentity
from pyswarm.overlay.registry.errors import RegistryDenied, RegistryError
from pyswarm.overlay.registry.keeper import EtcdKeeper, EtcdPlan, Managers, assignment_for
from pyswarm.overlay.registry.model import NodeEntry, OverlayState
from pyswarm.overlay.registry.plan import EtcdAssignment, EtcdStep, Limits, Settled
from pyswarm.overlay.registry.runner import NOT_INSTALLED, EtcdRunner
from pyswarm.overlay.registry.watcher import RegistryWatcher
from pyswarm.overlay.registry.writer import RegistryWriter

pytestmark = pytest.mark.integration_etcd


def state_of(name: str) -> OverlayState:
    """A state to tell from others."""
    return OverlayState(nodes={name: NodeEntry(name, name, "10.0.0.1")})


class HurriedClock(SystemClock):
    """Does not wait between attempts."""

    async def sleep(self, delay_s: float) -> None:
        """Only let others run."""
        await asyncio.sleep(0)


def runner_of(host: Host) -> EtcdRunner:
    """A daemon's runner."""
    return EtcdRunner(
        certs_dir=host.folder / "certs",
        data_dir=host.folder / "etcd",
        addr=host.ip,
        pid_file=host.folder / "etcd.pid",
        node_id=host.node_id,
        cluster_id=host.pki.cluster_id,
    )


class Cluster:
    """The manager's store, reduced to a plan that every daemon hears of at once."""

    def __init__(self, pki: Pki, folder: Path) -> None:
        self.hosts = [Host(pki, folder, f"127.0.1.{i}") for i in range(1, 3)]
        self.worker = Host(pki, folder, "127.0.1.4", "worker")
        self.runners = {h.node_id: runner_of(h) for h in self.hosts}
        self.managers = {h.node_id: h.ip for h in self.hosts}
        self.plan = EtcdPlan()
        self.seen: list[EtcdPlan] = []
        self.keeper = self.new_keeper(self.hosts[0].identity, broken_after_s=5)

    def new_keeper(self, identity: TLSIdentity, broken_after_s: float) -> EtcdKeeper:
        """As a new leadership makes one."""
        limits = Limits(broken_after_s=broken_after_s, join_patience_s=10, down_patience_s=3)
        return EtcdKeeper(identity, self.persist, limits=limits)

    async def persist(self, plan: EtcdPlan) -> None:
        """Store the plan and tell the daemons."""
        self.plan = plan
        self.seen.append(plan)
        for node_id, runner in self.runners.items():
            runner.apply(assignment_for(plan, node_id))

    async def tick(self) -> EtcdStep:
        """One tick of the leader."""
        alive = frozenset(self.runners) & self.managers.keys()
        ports = {h.node_id: (h.client_port, h.peer_port) for h in self.hosts}
        roles = dict.fromkeys(self.managers, "manager") | {self.worker.node_id: "worker"}
        leader = next(n for n in self.managers if n in alive)
        return await self.keeper.tick(self.plan, Managers(leader, self.managers, alive, {}, ports), roles)

    async def settle(self, members: int, what: str) -> None:
        """Tick until nothing is left to do."""

        async def settled() -> bool:
            return isinstance(await self.tick(), Settled) and len(self.plan.members) == members

        await eventually(settled, what, timeout_s=30)

    async def close(self) -> None:
        """End every process."""
        await self.keeper.close()
        for runner in self.runners.values():
            await runner.stop()


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    """Two managers and a worker; etcd is not founded yet."""
    require_binary("etcd", "setpriv")
    cluster = Cluster(Pki(), tmp_path)
    yield cluster
    await cluster.close()


async def test_the_life_of_an_etcd(cluster: Cluster) -> None:
    await cluster.settle(2, "two members")
    assert [p.sealed for p in cluster.seen][:2] == [True, False]
    assert {p.generation for p in cluster.seen} == {1}
    states: list[OverlayState] = []
    watcher = RegistryWatcher(
        cluster.worker.client(), lambda state: states.append(msgspec.structs.replace(state, mark=None))
    )
    watcher.start()
    watcher.set_endpoints(cluster.plan.client_endpoints)
    try:
        await RegistryWriter(cluster.keeper.client).sync(state_of("first"), (1, 1))

        async def has(name: str) -> bool:
            return bool(states) and states[-1] == state_of(name)

        await eventually(lambda: has("first"), "the worker reads")
        worker = cluster.worker.client(*cluster.hosts)
        with pytest.raises(RegistryDenied):
            await worker.put(b"/pyswarm/v1/nodes/evil", b"{}")
        await worker.close()

        # A manager is demoted: its member goes, its data too, and as an etcd user it is gone.
        demoted = cluster.hosts[1]
        del cluster.managers[demoted.node_id]
        await cluster.settle(1, "the demoted manager's member is removed")

        async def wiped() -> bool:
            runner = cluster.runners[demoted.node_id]
            return runner.pid is None and not list((demoted.folder / "etcd").glob("*-*"))

        await eventually(wiped, "its data is deleted")
        cluster.managers[demoted.node_id] = demoted.ip
        await cluster.settle(2, "it joins again")

        # The leader's host is lost for good: no quorum, so a new etcd on the one that is left.
        await cluster.runners.pop(cluster.hosts[0].node_id).stop()
        await cluster.keeper.close()
        cluster.keeper = cluster.new_keeper(demoted.identity, broken_after_s=4)
        del cluster.managers[cluster.hosts[0].node_id]
        await cluster.settle(1, "a new generation")
        assert cluster.plan.generation >= 2
        watcher.set_endpoints(cluster.plan.client_endpoints)
        assert states == [state_of("first")]
        await RegistryWriter(cluster.keeper.client).sync(state_of("second"), (2, 1))
        await eventually(lambda: has("second"), "the worker reads what was filled in again")
        assert states == [state_of("first"), state_of("second")]
    finally:
        await watcher.stop()


async def test_the_runner_restarts_what_dies(cluster: Cluster) -> None:
    del cluster.managers[cluster.hosts[1].node_id]
    await cluster.settle(1, "one member")
    host = cluster.hosts[0]
    runner = cluster.runners[host.node_id]
    first = runner.pid
    assert first is not None
    assert int((host.folder / "etcd.pid").read_text()) == first
    await cluster.keeper.client.put(b"/pyswarm/v1/nodes/x", b"{}")
    os.kill(first, signal.SIGKILL)

    async def restarted() -> bool:
        return (
            runner.pid not in (None, first) and await cluster.keeper.client.get(b"/pyswarm/v1/nodes/x") is not None
        )

    await eventually(restarted, "etcd runs again with its data")
    await cluster.settle(1, "nothing to do")
    assert cluster.plan.generation == 1

    # etcd 3.4 lets any node of the cluster raise the alarm of missing space; that must not cost the data.
    worker = cluster.worker.client(host)
    alarm = rpc_pb2.AlarmRequest(action=rpc_pb2.AlarmRequest.ACTIVATE, memberID=0, alarm=rpc_pb2.NOSPACE)
    await worker.call(lambda link, t: link.maintenance.Alarm(alarm, timeout=t))
    await worker.close()
    with pytest.raises(RegistryError):
        await cluster.keeper.client.put(b"/pyswarm/v1/nodes/y", b"{}")
    await cluster.settle(1, "the alarm is cleared")
    await cluster.keeper.client.put(b"/pyswarm/v1/nodes/y", b"{}")
    assert cluster.plan.generation == 1
    await runner.stop()
    assert not (host.folder / "etcd.pid").exists()
    with pytest.raises(RegistryError):
        await cluster.keeper.client.get(b"/pyswarm/v1/nodes/x")


async def test_a_missing_etcd_is_said_plainly(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    host = cluster.hosts[0]
    monkeypatch.setenv("PATH", str(host.folder))
    failures: list[str] = []
    runner = EtcdRunner(
        certs_dir=host.folder / "certs",
        data_dir=host.folder / "etcd",
        addr=host.ip,
        pid_file=host.folder / "etcd.pid",
        node_id=host.node_id,
        cluster_id=host.pki.cluster_id,
        on_failure=lambda assignment, text: failures.append(text),
        clock=HurriedClock(),
    )
    runner.apply(EtcdAssignment(1, 1, "t", "", "new"))

    async def reported() -> bool:
        return bool(failures)

    await eventually(reported, "the failure is reported")
    assert failures[0] == NOT_INSTALLED == "etcd is not installed: apt-get install etcd-server"
    await runner.stop()
