"""The stock client's work with the engine of its host, through the gateway, on a real engine."""

import asyncio
import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvloop
from support.dockerd import IMAGE, Dockerd, real_engine
from support.env import wait_until
from support.gateway_fakes import Rig, running_gateway

pytestmark = pytest.mark.integration_docker

LIMIT_S = 20.0


class Client:
    """The docker CLI, with the gateway as its host."""

    def __init__(self, rig: Rig, dockerd: Dockerd) -> None:
        self.dockerd = dockerd
        self.rig = rig
        self._env = {**os.environ, "DOCKER_HOST": rig.host, "DOCKER_BUILDKIT": "0"}
        self._env.pop("DOCKER_CONTEXT", None)

    def run(self, *argv: str, given: bytes | None = None, cwd: Path | None = None) -> tuple[int, bytes, bytes]:
        """Exit code, output, errors."""
        done = subprocess.run(
            ["docker", *argv],
            input=given,
            stdin=subprocess.DEVNULL if given is None else None,
            capture_output=True,
            env=self._env,
            timeout=LIMIT_S,
            cwd=cwd,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    def __call__(self, *argv: str, given: bytes | None = None, cwd: Path | None = None) -> str:
        """Its output; it has to succeed."""
        code, out, error = self.run(*argv, given=given, cwd=cwd)
        assert code == 0, f"docker {' '.join(argv)}: {code}\n{out!r}\n{error!r}"
        return out.decode().strip()

    def start(self, *argv: str) -> subprocess.Popen[bytes]:
        """A command that goes on; the caller ends it."""
        return subprocess.Popen(
            ["docker", *argv],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=self._env,
            bufsize=0,
        )


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill it, and wait for it."""
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """The gateway has a loop of the kind it has as a process, in a thread of its own."""
    folder = tmp_path_factory.mktemp("gw")
    rigs: list[Rig] = []
    up = threading.Event()

    with real_engine() as dockerd:
        loop = uvloop.new_event_loop()
        stop = asyncio.Event()

        async def serve() -> None:
            async with running_gateway(folder, Path(dockerd.socket)) as rig:
                rig.node.become("manager")
                rigs.append(rig)
                up.set()
                await stop.wait()

        thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
        thread.start()
        try:
            assert up.wait(LIMIT_S)
            yield Client(rigs[0], dockerd)
        finally:
            loop.call_soon_threadsafe(stop.set)
            thread.join(LIMIT_S)
            loop.close()
            dockerd.clean()


@pytest.fixture
def sleeper(client: Client) -> Iterator[str]:
    """A running container."""
    name = client("run", "-d", IMAGE, "sleep", "600")[:12]
    yield name
    client("rm", "-f", name)


def test_run_with_input_output_errors_and_exit_code(client: Client) -> None:
    code, out, error = client.run("run", "--rm", IMAGE, "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (code, out, error) == (7, b"out\n", b"err\n")
    text = bytes(range(256)) * 4000
    script = "cat; echo end"
    assert client.run("run", "--rm", "-i", IMAGE, "sh", "-c", script, given=text) == (0, text + b"end\n", b"")
    # Input that nobody reads does not spoil the end.
    assert client.run("run", "--rm", "-i", IMAGE, "head", "-c", "3", given=b"abc" * 1_000_000)[:2] == (0, b"abc")
    code, _, error = client.run("run", "--rm", "--pull=never", "no/such:image", "true")
    assert (code, b"No such image" in error) == (125, True)


def test_exec(client: Client, sleeper: str) -> None:
    assert client.run("exec", sleeper, "sh", "-c", "echo out; echo err >&2; exit 5") == (5, b"out\n", b"err\n")
    data = os.urandom(3_000_000)
    assert client.run("exec", "-i", sleeper, "sh", "-c", "cat > /f; cat /f", given=data) == (0, data, b"")
    client("exec", "-d", sleeper, "touch", "/made")
    wait_until(lambda: client.run("exec", sleeper, "ls", "/made")[0] == 0, LIMIT_S, "the command ran")
    code, _, error = client.run("exec", "nobody", "true")
    assert (code, b"No such container: nobody" in error) == (1, True)


def test_attach_logs_and_wait(client: Client) -> None:
    script = "while read line; do echo got $line; done; exit 3"
    name = client("create", "-i", IMAGE, "sh", "-c", script)
    client("start", name)
    attached = client.start("attach", name)
    followed = client.start("logs", "-f", name)
    waiting = client.start("wait", name)
    try:
        for process in (attached, followed, waiting):
            assert process.stdin is not None
            assert process.stdout is not None
        attached.stdin.write(b"one\n")
        assert attached.stdout.readline() == b"got one\n"
        assert followed.stdout.readline() == b"got one\n"
        attached.stdin.write(b"two\n")
        # Output goes on after the input has ended.
        attached.stdin.close()
        assert attached.stdout.read() == b"got two\n"
        assert attached.wait(LIMIT_S) == 3
        assert followed.stdout.read() == b"got two\n"
        assert followed.wait(LIMIT_S) == 0
        assert waiting.stdout.read() == b"3\n"
        assert client("logs", "--tail", "1", name) == "got two"
    finally:
        for process in (attached, followed, waiting):
            end(process)
        client("rm", "-f", name)


def test_a_terminal(client: Client, sleeper: str) -> None:
    inside = f"docker exec -it {sleeper} sh -c 'tty; exit 4'"
    done = subprocess.run(
        ["script", "-qec", inside, "/dev/null"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env={**os.environ, "DOCKER_HOST": client.rig.host},
        timeout=LIMIT_S,
        check=False,
    )
    assert (done.returncode, b"/dev/pts/" in done.stdout) == (4, True)


def test_images_and_a_build(client: Client, tmp_path: Path) -> None:
    context = tmp_path / "context"
    context.mkdir()
    (context / "Dockerfile").write_text(f"FROM {IMAGE}\nARG A\nCOPY f /f\nRUN echo $A >> /f\n")
    (context / "f").write_text("copied\n")
    try:
        built = client("build", "--build-arg", f"A={'x' * 20_000}", "-t", "built:1", str(context))
        assert "Successfully tagged built:1" in built
        client("tag", "built:1", "built:2")
        listed = client("images", "--format", "{{.Repository}}:{{.Tag}}", "built").split()
        assert sorted(listed) == ["built:1", "built:2"]
        code, saved, _ = client.run("save", "built:1")
        assert (code, len(saved) > 1_000_000) == (0, True)
        client("rmi", "built:1", "built:2")
        assert "Loaded image: built:1" in client("load", given=saved)
        assert client("run", "--rm", "built:1", "cat", "/f") == "copied\n" + "x" * 20_000
    finally:
        client.run("rmi", "-f", "built:1", "built:2")


def test_volumes(client: Client) -> None:
    assert client("volume", "create", "v1") == "v1"
    client("run", "--rm", "-v", "v1:/v", IMAGE, "touch", "/v/f")
    assert client("run", "--rm", "-v", "v1:/v", IMAGE, "ls", "/v") == "f"
    assert "v1" in client("volume", "ls", "-q").split()
    assert client("volume", "rm", "v1") == "v1"
    assert "v1" not in client("volume", "ls", "-q").split()


def test_copies_and_export(client: Client, sleeper: str, tmp_path: Path) -> None:
    data = os.urandom(5_000_000)
    (tmp_path / "f").write_bytes(data)
    client("cp", str(tmp_path / "f"), f"{sleeper}:/tmp/f")
    client("cp", f"{sleeper}:/tmp/f", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == data
    code, _, error = client.run("cp", str(tmp_path / "f"), f"{sleeper}:/no/such/folder/f")
    assert (code, b"/no/such/folder" in error) == (1, True)
    code, exported, _ = client.run("export", sleeper)
    assert (code, data in exported) == (0, True)


def test_stats_top_and_events(client: Client, sleeper: str) -> None:
    assert sleeper in client("stats", "--no-stream", sleeper)
    assert "sleep 600" in client("top", sleeper)
    events = client.start("events", "--format", "{{json .}}", "--filter", "type=volume")
    try:
        assert events.stdout is not None
        since = client("info", "--format", "{{.SystemTime}}")
        # The stream is open once a volume made after it shows; which one does not matter.
        made = threading.Event()

        def make() -> None:
            while not made.wait(0.2):
                client("volume", "create", "v2")
                client("volume", "rm", "v2")

        maker = threading.Thread(target=make)
        maker.start()
        try:
            first = json.loads(events.stdout.readline())
        finally:
            made.set()
            maker.join(LIMIT_S)
        assert first["Type"] == "volume"
        events.send_signal(signal.SIGINT)
        events.wait(LIMIT_S)
        until = client("info", "--format", "{{.SystemTime}}")
        past = client("events", "--since", since, "--until", until, "--format", "{{.Action}}")
        assert {"create", "destroy"} <= set(past.split())
    finally:
        end(events)


def test_networks_of_the_engine_and_those_of_the_cluster(client: Client) -> None:
    client("network", "create", "mine")
    try:
        assert client("run", "--rm", "--network", "mine", IMAGE, "echo", "there") == "there"
    finally:
        client("network", "rm", "mine")
    client("network", "create", "-d", "overlay", "app")
    code, _, error = client.run("run", "--rm", "--network", "app", IMAGE, "true")
    assert (code, b"on cluster network app is not supported" in error) == (125, True)


def test_a_client_that_is_killed_leaves_nothing_open(client: Client, sleeper: str) -> None:
    def connections() -> int:
        """Those whose other end, the gateway's, is still there; the engine itself keeps some for longer."""
        table = subprocess.run(["ss", "-xH", "state", "established"], capture_output=True, text=True, check=True)
        return sum(
            str(client.dockerd.socket) in line and line.split()[-1] != "0" for line in table.stdout.splitlines()
        )

    before = connections()
    streams = [
        client.start("logs", "-f", sleeper),
        client.start("events"),
        client.start("attach", "--no-stdin", sleeper),
        client.start("exec", "-i", sleeper, "cat"),
    ]
    try:
        wait_until(lambda: connections() >= before + len(streams), LIMIT_S, "all streams are open")
    finally:
        for process in streams:
            end(process)
    wait_until(lambda: connections() <= before, LIMIT_S, "all streams are closed")
