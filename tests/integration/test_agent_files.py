"""Secrets and configs as files in memory: the door to mounts, and containers of a real engine that read them."""

import errno
import os
import stat
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from support.agents import a_config, a_secret, a_task, an_agent, until, using
from support.dispatcher import FakeDispatcher, agent_identity, gone
from support.dockerd import Dockerd, real_engine
from support.env import require_root
from support.pki import Pki

from pyswarm.agent.agent import Agent
from pyswarm.agent.engine import DockerEngine, EngineError, FileMount
from pyswarm.agent.files import remove_leftover_files
from pyswarm.agent.tmpfs import FileInMemory, TmpfsFolders
from pyswarm.common.types import FileTarget, TaskState

pytestmark = pytest.mark.integration_docker

S = TaskState
PAYLOAD = bytes(range(256)) + b"hunter2-in-memory-only"


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    require_root()
    yield tmp_path / "run" / "files"
    remove_leftover_files(tmp_path / "run")
    assert mounts_below(tmp_path) == []


def mounts_below(folder: Path) -> list[str]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [line for line in lines if line.split(" ")[4].startswith(str(folder))]


def test_a_folder_is_closed_bounded_and_in_memory(root: Path) -> None:
    folders = TmpfsFolders(root)
    old_mask = os.umask(0o077)
    try:
        folders.build(
            "t1",
            [
                FileInMemory("secrets/tls/key", 1000, 50, 0o440, PAYLOAD),
                FileInMemory("secrets/empty-looking", 0, 0, 0, b"\0"),
                FileInMemory("single/1", 0, 0, 0o777, b"x" * 511_999),
            ],
        )
    finally:
        os.umask(old_mask)
    folder = folders.path("t1")
    assert folders.is_complete("t1")
    assert folders.names() == ["t1"]
    found = (folder / "secrets/tls/key").stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (1000, 50, 0o440)
    assert (folder / "secrets/tls/key").read_bytes() == PAYLOAD
    for inner, mode in (("", 0o700), ("secrets", 0o755), ("secrets/tls", 0o755), ("single", 0o755)):
        assert stat.S_IMODE((folder / inner).stat().st_mode) == mode, inner
    assert stat.S_IMODE(root.stat().st_mode) == 0o700
    (mount,) = mounts_below(root)
    assert mount.split(" - ")[1].startswith("tmpfs ")
    for option in ("nosuid", "nodev", "noexec", "size="):
        assert option in mount
    limit_bytes = os.statvfs(folder).f_blocks * os.statvfs(folder).f_frsize
    assert 512_000 < limit_bytes < 1_000_000
    with pytest.raises(OSError, match="No space") as caught:
        (folder / "more").write_bytes(b"x" * limit_bytes)
    assert caught.value.errno == errno.ENOSPC


def test_a_folder_is_built_anew_unless_it_is_complete(root: Path) -> None:
    folders = TmpfsFolders(root)
    folders.build("t1", [FileInMemory("single/0", 0, 0, 0o444, b"old")])
    (folders.path("t1") / "complete").unlink()
    assert not folders.is_complete("t1")
    folders.build("t1", [FileInMemory("single/0", 0, 0, 0o444, b"new")])
    assert (folders.path("t1") / "single/0").read_bytes() == b"new"
    assert len(mounts_below(root)) == 1
    # What stands in the way is no mount, as after a restart of the host.
    (root / "t2" / "single").mkdir(parents=True)
    (root / "t2" / "complete").touch()
    assert not folders.is_complete("t2")
    folders.build("t2", [FileInMemory("single/0", 0, 0, 0o444, b"x")])
    assert folders.is_complete("t2")


def test_a_build_that_fails_leaves_nothing(root: Path) -> None:
    folders = TmpfsFolders(root)
    twice = FileInMemory("single/0", 0, 0, 0o444, b"x")
    with pytest.raises(FileExistsError):
        folders.build("t1", [twice, twice])
    assert folders.names() == []
    assert mounts_below(root) == []


def test_removing_empties_every_copy_of_the_mount(root: Path) -> None:
    folders = TmpfsFolders(root)
    folders.build("t1", [FileInMemory("secrets/a/b", 0, 0, 0o444, PAYLOAD)])
    held = os.open(folders.path("t1") / "secrets/a", os.O_RDONLY)
    try:
        folders.remove("t1")
        assert os.listdir(held) == []
    finally:
        os.close(held)
    assert not folders.path("t1").exists()
    folders.remove("t1")
    assert TmpfsFolders(root / "nowhere").names() == []


def test_leftovers_go(root: Path, tmp_path: Path) -> None:
    for name in ("t1", "t2"):
        TmpfsFolders(root).build(name, [FileInMemory("single/0", 0, 0, 0o444, b"x")])
    remove_leftover_files(tmp_path / "run")
    assert TmpfsFolders(root).names() == []
    remove_leftover_files(tmp_path / "elsewhere")


@pytest.fixture(scope="module")
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


async def test_a_missing_source_is_refused_not_made_up(engine: DockerEngine, root: Path) -> None:
    task = a_task("n" * 25)
    with pytest.raises(EngineError, match="bind source path does not exist"):
        await engine.create(task, [], egress=False, mounts=[FileMount(str(root / "t/single/0"), "/x")])
    assert not root.exists()


async def test_containers_read_their_files_across_restarts_of_agent_and_engine(
    dockerd: Dockerd, engine: DockerEngine, root: Path, tmp_path: Path
) -> None:
    pki = Pki()
    identity = agent_identity(pki)
    secret, config = a_secret("tok", PAYLOAD), a_config("conf", b"x=1\n")
    files = using(
        (secret, FileTarget(name="tok", uid="1000", gid="50", mode=0o400)),
        (secret, FileTarget(name="sub/tok")),
        (secret, FileTarget(name="/etc/app/tok")),
        (config, FileTarget(name="conf", mode=0o440)),
    )
    task = a_task(identity.node_id, read_only=True, **files)
    reader = a_task(
        identity.node_id, slot=2, user="1000", **using((secret, FileTarget(name="tok", uid="1000", mode=0o400)))
    )

    def shell(name: str, script: str) -> str:
        return dockerd.docker("exec", name, "sh", "-c", script, check=False)

    async with FakeDispatcher(pki) as leader:
        leader.objects = {item.id: item for item in (secret, config, task, reader)}
        agents: list[Agent] = []

        async def new_agent() -> Agent:
            agents.append(an_agent(identity, [leader.addr], DockerEngine(dockerd.url), tmp_path))
            await agents[-1].start()
            return agents[-1]

        try:
            agent = await new_agent()
            await leader.until((task, S.RUNNING), (reader, S.RUNNING), timeout_s=60)
            name = task.container_name
            assert shell(name, "stat -c '%u %g %a' /run/secrets/tok /run/secrets/sub/tok /etc/app/tok /conf") == (
                "1000 50 400\n0 0 444\n0 0 444\n0 0 440"
            )
            digest = shell(name, "sha256sum < /run/secrets/tok").split()[0]
            assert digest == shell(name, "sha256sum < /etc/app/tok").split()[0]
            assert shell(name, "cat /conf") == "x=1"
            assert shell(name, "wc -c < /run/secrets/sub/tok") == str(len(PAYLOAD))
            for script in (
                "echo x > /run/secrets/tok",
                "rm /run/secrets/tok",
                "touch /run/secrets/x",
                "echo > /conf",
            ):
                assert shell(name, f"({script}) 2>&1 && echo done").endswith("Read-only file system"), script
            assert shell(reader.container_name, "wc -c < /run/secrets/tok") == str(len(PAYLOAD))
            assert "hunter2" not in dockerd.docker("inspect", name)

            await agent.stop()
            dockerd.kill()
            assert len(mounts_below(root)) == 2
            dockerd.start()
            agent = await new_agent()
            await leader.until((task, S.RUNNING), (reader, S.RUNNING))
            assert shell(name, "sha256sum < /run/secrets/tok").split()[0] == digest
            assert len(mounts_below(root)) == 2

            leader.assign(gone(task))
            await until(lambda: not shell(name, "true") and len(mounts_below(root)) == 1, "its files to go")
            await agent.leave([])
            assert mounts_below(root) == []
        finally:
            for each in agents:
                await each.stop()
    for path in (p for p in tmp_path.rglob("*") if p.is_file()):
        assert b"hunter2-in-memory" not in path.read_bytes(), path
