"""The lab tool itself: hosts, links, engines, a daemon's life, and that nothing of it remains."""

import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.env import require_binary, require_root, wait_until
from support.lab import Lab

pytestmark = pytest.mark.integration_docker

# Stands in for pyswarmd: writes pid files, answers /_ping, has one child, ends on SIGTERM.
STAND_IN = """
import http.server, os, pathlib, socketserver, subprocess, sys
run = pathlib.Path(sys.argv[sys.argv.index("--run-dir") + 1])
(run / "docker.sock").unlink(missing_ok=True)
class Answer(http.server.BaseHTTPRequestHandler):
    def address_string(self): return "client"
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"OK")
# The child ends with the daemon, whose end of the pipe closes.
reader, writer = os.pipe()
child = subprocess.Popen(["cat"], stdin=reader)
os.close(reader)
(run / "pyswarmd.pid").write_text(str(os.getpid()))
(run / "manager.pid").write_text(str(child.pid))
print("serving", *sys.argv[1:], flush=True)
socketserver.ThreadingUnixStreamServer(str(run / "docker.sock"), Answer).serve_forever()
"""


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    require_root()
    require_binary("dockerd", "containerd", "docker", "ip", "nsenter", "busybox")
    stand_in = tmp_path / "stand_in.py"
    stand_in.write_text(STAND_IN)
    monkeypatch.setenv("PYSWARM_LAB_DAEMON", f"{sys.executable} {stand_in}")
    with Lab(f"t{secrets.token_hex(3)}") as made:
        yield made


def ping(lab: Lab, source: str, target: str) -> bool:
    done = lab.sh(source, "busybox", "ping", "-c", "1", "-W", "1", lab.ip(target), check=False)
    return done.returncode == 0


def remains(lab: Lab) -> list[str]:
    """Whatever on this machine still carries the lab's name."""
    found: list[str] = []
    own = re.compile(rf"{lab.prefix}-(h\d+|sw|br)\b|{re.escape(str(lab.datadir))}")
    for entry in Path("/proc").iterdir():
        try:
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            cgroup = (entry / "cgroup").read_text()
        except OSError:  # not a process, or one that has just ended
            continue
        if state != "Z" and entry.name != str(os.getpid()) and (own.search(command) or own.search(cgroup)):
            found.append(f"process {entry.name}: {command}")
    mounts = Path("/proc/self/mountinfo").read_text()
    found += [f"mount: {line}" for line in mounts.splitlines() if own.search(line)]
    links = subprocess.run(["ip", "-br", "link"], capture_output=True, text=True, check=True).stdout
    found += [f"link: {line}" for line in links.splitlines() if own.search(line)]
    netns = Path("/run/netns")
    found += [
        f"namespace: {path}" for path in (netns.iterdir() if netns.exists() else []) if own.search(path.name)
    ]
    for root, folders, _ in os.walk("/sys/fs/cgroup"):
        found += [f"cgroup: {root}/{name}" for name in folders if own.search(name)]
    if lab.datadir.exists():
        found.append(f"folder: {lab.datadir}")
    return found


@pytest.mark.parametrize("attempt", ["first", "again"])
def test_two_hosts_from_up_to_down(lab: Lab, attempt: str) -> None:
    lab.up(2, engines_only=True)
    assert lab.sh("h2", "hostname").stdout == "h2\n"
    assert ping(lab, "h1", "h2")
    lab.cut("h2")
    assert not ping(lab, "h1", "h2")
    assert "cut" in lab.verb("status").stdout
    lab.heal("h2")
    assert ping(lab, "h1", "h2")

    page = lab.docker("h1", "run", "--rm", "busybox:latest", "cat", "/www/index.html").stdout
    assert "It works" in page
    lab.docker("h2", "run", "-d", "--name", "long", "busybox:latest", "sleep", "1000")
    inspect = ("inspect", "--format", "{{.State.Pid}}", "long")
    before = lab.docker("h2", *inspect).stdout
    lab.kill("h2", "engine")
    assert lab.docker("h2", "ps", check=False).returncode != 0
    os.kill(int(before), 0)  # the container lives on without its engine
    lab.start("h2", "engine")
    assert lab.docker("h2", *inspect).stdout == before

    shims = lab.datadir.glob("h*/containerd/state/*/*/*/address")
    sockets = [Path(address.read_text().strip().removeprefix("unix://")) for address in shims]
    assert sockets
    assert all(socket.exists() for socket in sockets)

    identities = {lab.docker(host, "info", "--format", "{{.ID}} {{.Name}}").stdout for host in ("h1", "h2")}
    assert len(identities) == 2
    lab.down()
    assert remains(lab) == []
    assert not any(socket.exists() for socket in sockets)


def test_daemons_are_started_killed_and_started_again(lab: Lab) -> None:
    lab.up(1)
    assert f"DOCKER_HOST=unix://{lab.socket('h1')}\n" in lab.sh("h1", "env").stdout
    assert Path(lab.socket("h1")).is_socket()
    row = lab.verb("status").stdout.splitlines()[1].split()
    daemon, manager = int(row[4]), int(row[5])

    lab.up(2)  # adds a host and leaves the first one alone
    assert lab.verb("status").stdout.splitlines()[1].split() == row
    assert ping(lab, "h1", "h2")

    lab.kill("h1", "manager", "STOP")
    assert Path(f"/proc/{manager}/stat").read_text().split()[2] in "Tt"
    lab.kill("h1", "manager", "CONT")
    lab.kill("h1", "daemon")
    row = lab.verb("status").stdout.splitlines()[1].split()
    assert row[4:] == ["-", "-", "-"], f"the daemon {daemon} and its child {manager} have ended"
    assert lab.verb("kill", "h1", "daemon", check=False).stderr == "lab: h1: no daemon is running\n"
    lab.start("h1", "daemon")
    lab.kill("h1", "daemon", "TERM")
    lab.up(2)
    assert "-" not in lab.verb("status").stdout.splitlines()[1].split()[3:6]

    served = (lab.datadir / "h2" / "pyswarmd.log").read_text()
    assert f"--engine unix://{lab.engine('h2')}" in served
    lab.down()
    assert remains(lab) == []
    lab.down()  # and once more, with nothing there


def test_an_interrupted_up_is_taken_down(lab: Lab) -> None:
    process = subprocess.Popen(
        ["deploy/lab/lab", "--name", lab.prefix, "up", "3"],
        cwd=Path(__file__).parents[2],
        stderr=subprocess.DEVNULL,
    )
    wait_until((lab.datadir / "h1" / "dockerd.log").exists, 30, "an engine is being started")
    process.send_signal(signal.SIGKILL)
    process.wait()
    lab.down()
    assert remains(lab) == []


def test_a_daemon_that_fails_is_explained(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYSWARM_LAB_DAEMON", "sh -c 'echo the reason; exit 3'")
    failed = lab.verb("up", "1", check=False)
    assert failed.returncode == 1
    assert "lab: h1: pyswarmd ended with exit code 3\n" in failed.stderr
    assert "the reason" in failed.stderr


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["up"], "give the number of hosts"),
        (["up", "0"], "give the number of hosts"),
        (["ip", "h1"], "there is no lab"),
        (["dance"], "no verb 'dance'"),
        (["--name", "Lab-1", "status"], "1 to 8 characters"),
    ],
)
def test_bad_input_gets_one_line(lab: Lab, arguments: list[str], complaint: str) -> None:
    argv = ["deploy/lab/lab", *([] if arguments[0] == "--name" else ["--name", lab.prefix]), *arguments]
    done = subprocess.run(argv, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert complaint in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_folder_of_somebody_else_is_left_alone(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    # Not pytest's own folder: its name grows with each run, and sockets below it would get too long.
    with tempfile.TemporaryDirectory(prefix="lab", dir="/tmp") as root, monkeypatch.context() as changed:
        changed.setenv("PYSWARM_LAB_ROOT", root)
        letter = Path(root) / lab.prefix / "letter"
        letter.parent.mkdir()
        letter.write_text("dear")
        assert "was not made by the lab" in lab.verb("up", "1", check=False).stderr
        assert "was not made by the lab" in lab.verb("down", check=False).stderr
        assert letter.read_text() == "dear"
