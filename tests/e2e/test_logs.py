"""What containers say, from every node, through pyswarm and the stock docker client: each line once."""

import re
import signal
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.cluster import Cluster
from support.env import wait_until
from support.lab import LAB

pytestmark = pytest.mark.e2e

#: Says numbered lines, every fifth on stderr as well, and a last one when it is asked to end.
COUNTER = (
    "trap 'echo bye; exit 0' TERM; i=0; while :; do i=$((i+1)); echo line $i; "
    "[ $((i % 5)) = 0 ] && echo odd $i >&2; sleep 0.05 & wait $!; done"
)
QUIET = "trap 'exit 0' TERM; echo one; echo two; sleep 0.2; echo three >&2; while :; do sleep 60 & wait $!; done"
LINE = re.compile(r"(?P<task>web\.\d+\.\w+)@(?P<node>h\d) +\| (?P<text>.*)")


def create(cluster: Cluster, replicas: int, script: str = COUNTER, *options: str) -> None:
    cluster.lab.sh(
        cluster.ask,
        *("pyswarm", "service", "create", "-d", "--name", "web", "--replicas", str(replicas), *options),
        *("busybox:latest", "sh", "-c", script),
    )
    cluster.wait_running("web", replicas)


class Follower:
    """A client that follows, its output in a file."""

    def __init__(self, cluster: Cluster, folder: Path, host: str, *argv: str) -> None:
        self._path = folder / f"{argv[0]}-{host}"
        self.out = self._path.open("w")
        command = [str(LAB), "--name", cluster.lab.prefix, "exec", host, "--", *argv]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self.out, stderr=self.out)

    @property
    def lines(self) -> dict[str, list[str]]:
        """What each task said, as far as it is here."""
        found: dict[str, list[str]] = defaultdict(list)
        for line in self._path.read_text().split("\n")[:-1]:
            if not line:
                continue  # the stock client's, at Ctrl-C
            match = LINE.fullmatch(line)
            assert match is not None, f"not a line of a task: {line!r}"
            found[match["task"]].append(match["text"])
        return found

    def count(self, task: str) -> int:
        """How many numbered lines of a slot's tasks are here."""
        return sum(len(numbers(said)) for name, said in self.lines.items() if name.startswith(f"{task}."))

    def interrupt(self) -> int:
        """Ctrl-C; the exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(20)

    def end(self) -> None:
        """Whatever state it is in."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.out.close()


def numbers(said: list[str]) -> list[int]:
    return [int(text.removeprefix("line ")) for text in said if text.startswith("line ")]


@contextmanager
def followers(cluster: Cluster, folder: Path, *argv: str) -> Iterator[list[Follower]]:
    """``pyswarm`` and ``docker`` follow, on two managers."""
    first, second = cluster.managers[1], cluster.managers[2]
    both = [
        Follower(cluster, folder, first, "pyswarm", "service", "logs", "-f", *argv, "web"),
        Follower(cluster, folder, second, "docker", "service", "logs", "-f", *argv, "web"),
    ]
    try:
        yield both
    finally:
        for follower in both:
            follower.end()


def wait_lines(following: list[Follower], task: str, more: int) -> None:
    """Wait until each client has ``more`` lines of the slot than now."""
    for follower in following:
        target = follower.count(task) + more
        wait_until(lambda f=follower, t=target: f.count(task) >= t, 40, f"lines of {task} arrive")  # type: ignore[misc]


def assert_each_line_once(follower: Follower, from_start: bool = True) -> None:
    for task, said in follower.lines.items():
        found = numbers(said)
        first = 1 if from_start else found[0]
        assert found == list(range(first, first + len(found))), f"{task}: a line is missing or there twice"
        # Which of two lines on two streams was first is not sure: none is expected for the first, and one may have
        # overtaken its line on stdout, which is still to come.
        odd = [int(text.removeprefix("odd ")) for text in said if text.startswith("odd ")]
        expected = [n for n in range(first + 1, found[-1] + 2) if n % 5 == 0]
        assert [n for n in odd if n > first] == expected[: len(odd)], f"{task}: a line on stderr"


def test_logs_of_every_node_in_the_order_of_their_times(cluster: Cluster) -> None:
    create(cluster, 4, QUIET)

    def last_words() -> int:
        return cluster.lab.sh("h1", "pyswarm", "service", "logs", "web").stderr.count("three")

    wait_until(lambda: last_words() == 4, 20, "all have said all")
    for program in ("pyswarm", "docker"):
        done = cluster.lab.sh("h2", program, "service", "logs", "-t", "web")
        out = [line.split(" ", 1) for line in done.stdout.splitlines()]
        assert [time for time, _ in out] == sorted(time for time, _ in out)
        found = [LINE.fullmatch(text) for _, text in out]
        assert sorted(m["text"] for m in found if m) == ["one"] * 4 + ["two"] * 4
        tasks = {m["task"]: m["node"] for m in found if m}
        assert tasks == {f"{t.name}.{t.id[:12]}": t.node for t in cluster.running("web")}
        assert len(set(tasks.values())) > 1
        assert done.stderr.count("| three") == 4
        tail = cluster.lab.sh("h2", program, "service", "logs", "--tail", "1", "--raw", "web")
        assert (tail.stdout, tail.stderr) == ("", "three\n" * 4), "of each task"
        task = cluster.running("web")[0]
        one = cluster.lab.sh("h3", program, "service", "logs", "--no-task-ids", task.id)
        assert one.stdout == f"{task.name}@{task.node}    | one\n{task.name}@{task.node}    | two\n"
        later = cluster.lab.sh("h2", program, "service", "logs", "--since", "0s", "web")
        assert (later.stdout, later.stderr) == ("", "")


def test_followed_lines_come_once_while_services_scale_and_leaders_die(cluster: Cluster, tmp_path: Path) -> None:
    create(cluster, 2)
    with followers(cluster, tmp_path) as following:
        wait_lines(following, "web.1", 10)
        cluster.lab.sh("h1", "pyswarm", "service", "scale", "-d", "web=4")
        for task in ("web.3", "web.4"):
            wait_lines(following, task, 10)
        cluster.lab.kill(cluster.leader(), "manager")
        for task in ("web.1", "web.4"):
            wait_lines(following, task, 20)
        cluster.lab.sh("h1", "pyswarm", "service", "scale", "-d", "web=3")
        cluster.wait_running("web", 3)
        wait_lines(following, "web.3", 20)
        assert following[0].interrupt() == 130
        assert following[1].interrupt() != 0
        for follower in following:
            assert_each_line_once(follower)
            assert len(follower.lines) == 4
            gone = next(said for task, said in follower.lines.items() if task.startswith("web.4."))
            assert "bye" in gone, "what a task says at its end"


def test_followed_lines_come_once_while_engines_daemons_and_links_fail(cluster: Cluster, tmp_path: Path) -> None:
    create(cluster, 4)
    slots = {t.node: t.name for t in cluster.running("web")}
    victim = slots["h4"]
    with followers(cluster, tmp_path, "--tail", "2") as following:
        wait_lines(following, victim, 10)
        for what in ("engine", "daemon"):
            cluster.lab.kill("h4", what)
            cluster.lab.start("h4", what)
            wait_lines(following, victim, 20)
        # Shorter than it takes for the node to be given up.
        cluster.lab.cut("h4")
        cluster.lab.heal("h4")
        wait_lines(following, victim, 40)
        for follower in following:
            assert_each_line_once(follower, from_start=False)
            assert {len(said) > 2 for said in follower.lines.values()} == {True}


def test_a_node_that_is_cut_off_is_named_and_holds_nobody_up(cluster: Cluster) -> None:
    create(cluster, 4, QUIET)
    # A node that was lost a moment ago is asked in vain; one that is known to be down is not asked.
    cluster.lab.cut("h4")
    for known_down in (False, True):
        if known_down:
            wait_until(lambda: cluster.node_state("h4") == "down", 30, "h4 is down")
        done = cluster.lab.sh("h1", "pyswarm", "service", "logs", "web")
        assert done.stdout.count("| two") >= 3
        assert done.stderr.splitlines()[-1] == (
            "warning: incomplete log stream. some logs could not be retrieved for the following reasons: "
            "node h4 is not available"
        )
    stock = cluster.lab.sh("h1", "docker", "service", "logs", "web", check=False)
    assert stock.stdout.count("| two") >= 3
    assert "node h4 is not available" in stock.stderr
    cluster.lab.heal("h4")
    wait_until(lambda: cluster.node_state("h4") == "ready", 30, "h4 is back")
    healed = cluster.lab.sh("h1", "pyswarm", "service", "logs", "web")
    assert "not available" not in healed.stderr


def test_logs_of_tasks_that_have_ended(cluster: Cluster) -> None:
    create(cluster, 1, QUIET)
    first = cluster.running("web")[0]
    cluster.lab.docker(first.node, "kill", first.container)
    wait_until(lambda: [t.id for t in cluster.running("web") if t.id != first.id], 30, "a replacement")
    wait_until(
        lambda: cluster.lab.sh("h1", "docker", "service", "logs", "web").stdout.count("| two") == 2,
        20,
        "both tasks' lines",
    )
    one = cluster.lab.sh("h1", "pyswarm", "service", "logs", "-f", "--raw", first.id)
    assert (one.stdout, one.stderr) == ("one\ntwo\n", "three\n"), "following ends with the task"


def test_following_ends_with_the_service(cluster: Cluster, tmp_path: Path) -> None:
    create(cluster, 2)
    with followers(cluster, tmp_path) as following:
        wait_lines(following, "web.1", 5)
        cluster.lab.sh("h1", "pyswarm", "service", "rm", "web")
        for follower in following:
            assert follower.process.wait(40) == 0
            assert_each_line_once(follower)
            # Of two lines on two streams either may come first; "bye" is the last one on its own.
            last = [[text for text in said if not text.startswith("odd ")][-1] for said in follower.lines.values()]
            assert last == ["bye", "bye"]


def test_a_terminals_log_is_raw(cluster: Cluster) -> None:
    create(cluster, 1, QUIET, "--tty")
    for program in ("pyswarm", "docker"):
        refused = cluster.lab.sh("h2", program, "service", "logs", "web", check=False)
        assert refused.returncode == 1
        assert "tty service logs only supported with --raw" in refused.stderr
        wait_until(
            lambda program=program: (  # type: ignore[misc]
                cluster.lab.sh("h2", program, "service", "logs", "--raw", "web").stdout == "one\ntwo\nthree\n"
            ),
            20,
            "all it said",
        )
