"""What an earlier membership left on a host is removed before a new one begins, and nothing else."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from support.agents import a_network, a_task
from support.fake_engine import FakeEngine

from pyswarm.agent import leftovers
from pyswarm.agent.dataplane import local
from pyswarm.agent.engine import ContainerInfo, EngineError, EngineUnavailable
from pyswarm.common.ids import new_id


class LeftEngine(FakeEngine):
    """An engine on which all containers but ``foreign`` are pyswarm's."""

    def __init__(self) -> None:
        super().__init__()
        self.foreign: set[str] = set()
        self.stuck = ""

    async def all_of_ours(self) -> Sequence[ContainerInfo]:
        await self._asked("all_of_ours")
        return [info for name, info in self.found.items() if name not in self.foreign]

    async def remove(self, name: str) -> None:
        if self.stuck and self._name(name) == self.stuck:
            raise EngineError("device or resource busy")
        await super().remove(name)


@pytest.fixture
def devices(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    left = ["pswv4097"]

    async def remove() -> list[str]:
        gone = list(left)
        left.clear()
        return gone

    monkeypatch.setattr(leftovers, "remove_leftover_devices", remove)
    return left


async def made() -> LeftEngine:
    engine = LeftEngine()
    for slot in (1, 2):
        task = a_task(new_id(), slot=slot)
        await engine.create(task, [], egress=False)
        await engine.start(task.container_name)
    engine.add("theirs", new_id(), new_id(), running=True)
    engine.foreign = {"theirs"}
    await engine.ensure_network(local(a_network()))
    return engine


async def test_containers_of_any_membership_networks_and_devices_go(devices: list[str], tmp_path: Path) -> None:
    engine = await made()
    await leftovers.remove_leftovers(engine, tmp_path)
    assert list(engine.found) == ["theirs"]
    assert engine.networks == {}
    assert devices == []
    assert engine.count("egress-remove") == 1
    await leftovers.remove_leftovers(engine, tmp_path)


async def test_one_that_cannot_be_removed_holds_up_nothing(devices: list[str], tmp_path: Path) -> None:
    engine = await made()
    engine.stuck = next(iter(engine.found))
    await leftovers.remove_leftovers(engine, tmp_path)
    assert set(engine.found) == {engine.stuck, "theirs"}
    assert engine.networks == {}


async def test_an_absent_engine_is_told(devices: list[str], tmp_path: Path) -> None:
    engine = await made()
    engine.go_down()
    with pytest.raises(EngineUnavailable):
        await leftovers.remove_leftovers(engine, tmp_path)
