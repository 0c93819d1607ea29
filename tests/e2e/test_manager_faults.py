"""Data that cannot be trusted, folders that cannot be used, disks that are full: said clearly, at the cost of one
manager."""

import contextlib
import shutil
import subprocess
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from support.cluster import Cluster
from support.env import require_binary, require_root, wait_until
from support.lab import Lab

from pyswarm.manager.raft.disk import Disk
from pyswarm.manager.raft.meta import load_meta, save_meta

pytestmark = pytest.mark.e2e

#: What every message about a file that cannot be trusted ends with; walked below.
REMEDY = "'pyswarm node demote' and then 'pyswarm node promote'"
SNAPSHOT = "snapshot-00000000000000000003-00000000000000000001.snap"


@pytest.fixture(scope="module")
def three() -> Iterator[Cluster]:
    """Three managers; the disk under h1's log is small."""
    require_root()
    require_binary("docker", "dockerd", "etcd", "nft", "mount")
    with Lab("e2emf") as lab:
        lab.down()
        lab.up(3)
        small = lab.datadir / "h1" / "pyswarm" / "manager"
        small.mkdir(mode=0o700)
        run("mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(small))
        cluster = Cluster(lab, hosts=3, managers=3)
        cluster.form()
        yield cluster


def run(*argv: str) -> None:
    """A command of this machine."""
    subprocess.run(argv, check=True, timeout=20, stdin=subprocess.DEVNULL)


def raft_folder(cluster: Cluster, host: str) -> Path:
    """Where a host's manager keeps its log."""
    return cluster.lab.datadir / host / "pyswarm" / "manager" / "raft"


def error_of(cluster: Cluster, host: str) -> str:
    """What the daemon says is wrong."""
    try:
        return str(cluster.get("/info", host=host)["Swarm"]["Error"])
    except OSError:
        return ""


def is_manager(cluster: Cluster, host: str) -> bool:
    """Whether the host's own manager answers for the cluster."""
    try:
        return any(n["Description"]["Hostname"] == host for n in cluster.get("/nodes", host=host))
    except (AssertionError, OSError):
        return False


def store(cluster: Cluster, host: str, name: str) -> subprocess.CompletedProcess[str]:
    """A change through a host."""
    return cluster.lab.sh(host, "pyswarm", "config", "create", name, "/etc/hostname", check=False)


def flip(path: Path, offset: int) -> None:
    """Damage one byte."""
    content = bytearray(path.read_bytes())
    content[offset] ^= 0xFF
    path.write_bytes(content)


def damage_journal(folder: Path) -> None:
    flip(next(iter(sorted(folder.glob("journal-*.log")))), 40)


def damage_meta(folder: Path) -> None:
    flip(folder / "meta", 20)


def damage_vote(folder: Path) -> None:
    flip(folder / "vote", 13)


def damage_snapshot(folder: Path) -> None:
    (folder / SNAPSHOT).write_bytes(b"PSWMSNP1 no snapshot, for its checksum is not one")


def other_cluster(folder: Path) -> None:
    meta = load_meta(folder, Disk())
    assert meta is not None
    save_meta(folder, msgspec.structs.replace(meta, cluster_id="anothercluster"), Disk())


def newer_format(folder: Path) -> None:
    path = next(iter(sorted(folder.glob("journal-*.log"))))
    content = bytearray(path.read_bytes())
    content[8:12] = (2).to_bytes(4, "little")
    content[20:24] = zlib.crc32(content[:20]).to_bytes(4, "little")
    path.write_bytes(content)


def read_only(folder: Path) -> None:
    run("mount", "--bind", str(folder.parent), str(folder.parent))
    run("mount", "-o", "remount,bind,ro", str(folder.parent))


@contextlib.contextmanager
def kept(folder: Path) -> Iterator[None]:
    """Afterwards the folder is as it was."""
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder.parent)], check=False, capture_output=True, timeout=20)
        for path in folder.iterdir():
            if path.is_file() and path not in before:
                path.unlink()
        for path, content in before.items():
            path.write_bytes(content)


def test_a_full_disk_refuses_writes_in_time_and_goes_on_when_there_is_space(three: Cluster) -> None:
    lab = three.lab
    three.ask = "h1"
    assert three.leader() == "h1", "who founded the swarm leads it"
    folder = raft_folder(three, "h1")
    filler = folder.parent / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)
    try:
        # The last page of the journal may still have room for a few.
        refused = None
        for number in range(40):
            began = time.monotonic()
            done = store(three, "h1", f"full-{number}")
            assert time.monotonic() - began < 10
            if done.returncode != 0:
                refused = done
                break
        assert refused is not None
        assert "no space left on this manager for the raft log in" in refused.stderr
        assert "\n" not in refused.stderr.strip()
        assert "no space left" in error_of(three, "h1")
        three.ask = "h2"
        wait_until(lambda: three.leader() in ("h2", "h3"), 20, "another leader")
        assert store(three, "h2", "meanwhile").returncode == 0
    finally:
        filler.unlink()
    wait_until(lambda: store(three, "h1", "space-again").returncode == 0, 20, "h1 takes changes again")
    assert "Traceback" not in (lab.datadir / "h1" / "pyswarmd.log").read_text()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (
            damage_journal,
            (
                "journal-0000000001.log is damaged at offset ",
                REMEDY,
            ),
        ),
        (
            damage_meta,
            ("raft/meta is damaged (offset 12)", REMEDY),
        ),
        (
            damage_vote,
            ("raft/vote is damaged (offset 12)", REMEDY),
        ),
        (
            damage_snapshot,
            (f"{SNAPSHOT} is damaged (offset ", REMEDY),
        ),
        (other_cluster, ("belongs to cluster anothercluster",)),
        (newer_format, ("has format 2", "newer release of pyswarm")),
        (read_only, ("cannot use the folder", "Read-only file system")),
    ],
)
def test_one_manager_stops_and_says_why_and_the_others_go_on(
    three: Cluster, spoil: Callable[[Path], None], said: tuple[str, ...]
) -> None:
    lab, folder = three.lab, raft_folder(three, "h3")
    three.ask = "h2"
    lab.verb("kill", "h3", "daemon", "-KILL", check=False)  # the case before left it dead
    with kept(folder):
        spoil(folder)
        lab.start("h3", "daemon")
        wait_until(lambda: all(text in error_of(three, "h3") for text in said), 20, f"it says {said}")
        assert (Path(lab.socket("h3")).parent / "gateway.pid").exists()
        assert not (Path(lab.socket("h3")).parent / "manager.pid").exists()
        refused = lab.sh("h3", "pyswarm", "node", "ls", check=False)
        assert refused.returncode == 1
        assert said[0] in refused.stderr
        assert "\n" not in refused.stderr.strip()
        log = (lab.datadir / "h3" / "pyswarmd.log").read_text().rpartition('"daemon started"')[2]
        assert log.count("child cannot run") <= 1, "it is not started again and again"
        assert "Traceback" not in log
        done = store(three, "h2", f"without-h3-{spoil.__name__.replace('_', '-')}")
        assert done.returncode == 0, done.stderr
        lab.kill("h3", "daemon", "KILL")


def test_the_manager_is_back_when_its_data_is(three: Cluster) -> None:
    three.lab.start("h3", "daemon")
    wait_until(lambda: is_manager(three, "h3"), 20, "h3 is back with its data")
    assert error_of(three, "h3") == ""


def empty(folder: Path) -> None:
    for path in folder.parent.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.mark.parametrize(
    ("spoil", "said"), [(damage_journal, "is damaged at offset "), (empty, "its data folder is empty")]
)
def test_the_remedy_helps(three: Cluster, spoil: Callable[[Path], None], said: str) -> None:
    lab = three.lab
    three.ask = "h2"
    lab.verb("kill", "h3", "daemon", "-KILL", check=False)
    spoil(raft_folder(three, "h3"))
    lab.start("h3", "daemon")
    wait_until(lambda: said in error_of(three, "h3"), 40, f"it says {said}")
    if spoil is damage_journal:
        # A rescue that cannot begin takes nothing from a swarm that is well.
        refused = lab.sh("h3", "pyswarm", "swarm", "init", "--force-new-cluster", check=False)
        assert refused.returncode == 1
        assert said in refused.stderr
        wait_until(lambda: three.node_state("h3") == "ready", 20, "h3 is a node of the swarm as before")
        assert not (lab.datadir / "h3" / "pyswarm" / "manager" / "force-new-cluster").exists()
    lab.sh("h2", "pyswarm", "node", "demote", "h3")
    lab.sh("h2", "pyswarm", "node", "promote", "h3")
    wait_until(lambda: is_manager(three, "h3"), 40, "h3 is a manager again")
    assert error_of(three, "h3") == ""
    assert store(three, "h3", f"after-{spoil.__name__.replace('_', '-')}").returncode == 0


def test_a_second_daemon_on_the_same_data_is_refused(three: Cluster, tmp_path: Path) -> None:
    lab = three.lab
    data = str(lab.datadir / "h2" / "pyswarm")
    second = lab.sh("h2", "pyswarmd", "--data-dir", data, "--run-dir", str(tmp_path), check=False, timeout_s=40)
    assert second.returncode == 1
    assert second.stderr.splitlines()[-1] == f"pyswarmd: another pyswarmd is using {data}"
    assert is_manager(three, "h2")
