"""The main job on four real hosts, each command and its output shown as they happen.

It can be run again at any time and be interrupted at any time: each run begins by taking the demo's own lab
down, and nothing else is touched.
"""

import http.client
import json
import shlex
import signal
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lab import api

ROOT = Path(__file__).resolve().parent.parent
LAB = [str(ROOT / "deploy" / "lab" / "lab"), "--name", "demo"]
HOSTS = ("h1", "h2", "h3", "h4")
STACK = Path("deploy/hits/docker-stack.yml")
#: Long enough for the lines of new tasks to be among those shown.
LOGS_SHOWN = 20


class DemoFailure(Exception):
    """A step did not do what it should; the message says which."""


def lab(*argv: str, check: bool = True, quiet: bool = False) -> subprocess.CompletedProcess[str]:
    """Run a verb of the lab tool."""
    done = subprocess.run([*LAB, *argv], text=True, capture_output=quiet, check=False)
    if check and done.returncode:
        raise DemoFailure(f"lab {' '.join(argv)}: exit code {done.returncode}\n{(done.stderr or '').strip()}")
    return done


def value(*argv: str) -> str:
    """The one line a verb of the lab tool prints."""
    return lab(*argv, quiet=True).stdout.strip()


def ask(host: str, *argv: str) -> str:
    """Run a command on a host without showing it: what the demo itself needs to know."""
    return lab("exec", host, "--", *argv, quiet=True).stdout


def say(text: str) -> None:
    """A line about what comes next."""
    print(f"\n\033[1m# {text}\033[0m" if sys.stdout.isatty() else f"\n# {text}", flush=True)


def run(host: str, command: str, *, check: bool = True) -> str:
    """Show and run one command on one host; its output appears as it comes and is returned."""
    print(f"{host}$ {command}", flush=True)
    lines = []
    with subprocess.Popen(
        [*LAB, "exec", host, "--", *shlex.split(command)],
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        assert process.stdout is not None  # noqa: S101 - for the type checker
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
    if check and process.returncode:
        raise DemoFailure(f"{host}$ {command}: exit code {process.returncode}")
    return "".join(lines)


def until(probe: Callable[[], bool], timeout_s: float, what: str) -> float:
    """Seconds until ``probe`` said yes; raises DemoFailure after ``timeout_s``."""
    started = time.monotonic()
    while not probe():
        if time.monotonic() - started > timeout_s:
            raise DemoFailure(f"not within {timeout_s:g} s: {what}")
        time.sleep(0.2)
    return time.monotonic() - started


def tasks_of(service: str, host: str = "h1") -> list[dict[str, str]]:
    """The tasks of a service that should run, from Docker's API, with node name, state and address."""
    wanted = urllib.parse.quote(json.dumps({"service": [service], "desired-state": ["running"]}))
    nodes = {n["ID"]: n["Description"]["Hostname"] for n in get(host, "/nodes")}
    return [
        {
            "name": f"{service}.{task['Slot']}",
            "node": nodes.get(task.get("NodeID", ""), ""),
            "state": task["Status"]["State"],
            "addr": task["NetworksAttachments"][0]["Addresses"][0].partition("/")[0],
            "container": task["Status"].get("ContainerStatus", {}).get("ContainerID", "")[:12],
        }
        for task in get(host, f"/tasks?filters={wanted}")
        if task.get("NetworksAttachments")
    ]


def get(host: str, path: str) -> Any:
    """What Docker's API on a host answers; raises DemoFailure when it does not."""
    status, answer = api.request(value("socket", host), "GET", path)
    if status != http.client.OK:
        raise DemoFailure(f"{host}: GET {path}: {status} {answer}")
    return answer


def make_cluster() -> None:
    """init on h1; h2 and h3 join as managers, h4 as a worker."""
    say("One command makes a cluster of one; it prints how others join")
    run("h1", f"pyswarm swarm init --advertise-addr {value('ip', 'h1')}")
    manager = ask("h1", "pyswarm", "swarm", "join-token", "-q", "manager").strip()
    worker = ask("h1", "pyswarm", "swarm", "join-token", "-q", "worker").strip()
    say("Two more managers, and a worker")
    for host, token in (("h2", manager), ("h3", manager), ("h4", worker)):
        run(host, f"pyswarm swarm join --token {token} {value('ip', 'h1')}:2377")
    until(lambda: len(get("h1", "/nodes")) == 4, 20, "four nodes")
    run("h1", "pyswarm node ls")


def outside(url: str) -> str:
    """Show and make a request from a client that is on no host of the cluster."""
    print(f"outside$ wget -qO- {url}", flush=True)
    done = subprocess.run(
        ["nsenter", f"--net=/run/netns/{value('netns', 'sw')}", "timeout", "5", "busybox", "wget", "-qO-", url],
        text=True,
        capture_output=True,
        check=False,
    )
    print(done.stdout, end="", flush=True)
    if done.returncode:
        raise DemoFailure(f"no answer from {url}: {done.stderr.strip()}")
    return done.stdout


def run_service() -> None:
    """A network across the hosts, and a published service on it."""
    say("A network across all hosts, and a service on it, published on port 8080 of every host")
    run("h1", "pyswarm network create -d overlay --attachable app")
    run(
        "h1",
        "pyswarm service create --name web --replicas 6 --network app -p 8080:80 --limit-memory 64m "
        "busybox:latest httpd -f -p 80 -h /www",
    )
    run("h1", "pyswarm service ls")
    run("h1", "pyswarm service ps web")
    say("The stock docker client drives the same cluster")
    run("h1", "docker service ls")


def reach_it() -> None:
    """The published port on every host, and the service's name in a container."""
    say("Every host answers on the published port, to anybody")
    for host in HOSTS:
        outside(f"http://{value('ip', host)}:8080/")
    run("h1", "wget -qO- http://127.0.0.1:8080/")
    task = next(t for t in tasks_of("web") if t["node"] == "h1")
    say("Containers find a service by its name: one address of its own, or with tasks. those of all its tasks")
    for command in ("nslookup web", "ping -c 1 web", "wget -qO- http://web/", "nslookup tasks.web"):
        run("h1", f"docker exec {task['container']} {command}")


def cross_hosts() -> None:
    """A request from a container on h1 to one on h4, seen on the wire between them."""
    tasks = tasks_of("web")
    here = next(t for t in tasks if t["node"] == "h1")
    there = next(t for t in tasks if t["node"] == "h4")
    say(f"From {here['name']} on h1 to {there['name']} on h4, {there['addr']}, with a capture on the switch")
    capture = subprocess.Popen(
        [
            *("nsenter", f"--net=/run/netns/{value('netns', 'sw')}"),
            *("tcpdump", "-i", "any", "-nn", "-c", "4", "-l", f"udp port 4789 and host {value('ip', 'h4')}"),
        ],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        assert capture.stderr is not None  # noqa: S101 - for the type checker
        while "listening on" not in capture.stderr.readline():
            pass
        engine = value("engine", "h1")
        run("h1", f"docker -H unix://{engine} exec {here['container']} wget -qO- http://{there['addr']}/")
        print("switch$ tcpdump -i any -nn udp port 4789", flush=True)
        output, _ = capture.communicate(timeout=20)
    finally:
        if capture.poll() is None:
            capture.kill()
            capture.wait()
    print(output.rstrip(), flush=True)
    if "VXLAN" not in output:
        raise DemoFailure("no VXLAN packet was captured between h1 and h4")


def change_it() -> None:
    """Scale, and a rolling update."""
    say("Scale it, and change it while it runs")
    run("h1", "pyswarm service scale web=12")
    run("h1", "pyswarm service update --env-add A=1 --update-parallelism 4 web")


def read_logs() -> None:
    """The logs of all tasks on all hosts in one stream, which takes in new tasks as they come."""
    say("The logs of a service's tasks, wherever they run; scaled meanwhile")
    loop = "'i=0; while true; do i=$((i + 1)); echo tick $i; sleep 1; done'"
    run("h1", f"pyswarm service create --quiet --name clock --replicas 2 busybox:latest sh -c {loop}")
    print("h1$ pyswarm service logs -f clock", flush=True)
    with subprocess.Popen(
        [*LAB, "exec", "h1", "--", "pyswarm", "service", "logs", "-f", "clock"], text=True, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None  # noqa: S101 - for the type checker
        for number, line in enumerate(process.stdout):
            print(line, end="", flush=True)
            if number == 1:
                run("h2", "pyswarm service scale -d clock=4")
            if number >= LOGS_SHOWN:
                break
        process.send_signal(signal.SIGINT)
    run("h1", "pyswarm service rm clock")


def deploy_stack() -> None:
    """Two services, a network, a secret and two configs from one file, by the stock client."""
    say(f"A stack of two services by the stock docker client, from {STACK}")
    run("h1", f"docker stack deploy -c {STACK} hits")
    until(
        lambda: [t["state"] for s in ("hits_web", "hits_counter") for t in tasks_of(s)] == ["running"] * 4,
        60,
        "the stack's four tasks run",
    )
    run("h1", "docker stack services hits")
    run("h1", "pyswarm secret ls")
    say("The web server asks its backend by name, reads its secret, and knows who asks")
    for host in HOSTS[:3]:
        outside(f"http://{value('ip', host)}:8081/cgi-bin/hits")
    run("h1", "docker stack rm hits")


def break_it() -> None:
    """Lose a worker, then the leader."""
    say("h4 is cut off: its tasks run elsewhere")
    lab("cut", "h4")
    print("(the cable of h4 is pulled)", flush=True)

    def moved() -> bool:
        tasks = tasks_of("web")
        running = [t for t in tasks if t["state"] == "running" and t["node"] != "h4"]
        return len(running) == 12

    took_s = until(moved, 60, "12 tasks running on the other hosts")
    print(f"(12 of 12 run on h1, h2 and h3 after {took_s:.1f} s)", flush=True)
    run("h1", "pyswarm node ls")
    lab("heal", "h4")
    print("(the cable of h4 is plugged in again)", flush=True)
    leader = next(n for n in get("h1", "/nodes") if n.get("ManagerStatus", {}).get("Leader"))
    name = leader["Description"]["Hostname"]
    other = next(h for h in ("h1", "h2", "h3") if h != name)
    say(f"The leader's manager, on {name}, is killed with kill -9: the next command still works")
    lab("kill", name, "manager", "-KILL")
    started = time.monotonic()
    run(other, "pyswarm service scale -d web=9")
    print(f"(answered after {time.monotonic() - started:.1f} s)", flush=True)
    run(other, "pyswarm service ls")


def clean_up() -> None:
    """Remove the service."""
    say("And away with it")
    run("h1", "pyswarm service rm web")


def main() -> int:
    """Run it all; exit code 1 with one line when a step failed."""
    try:
        print("# Four hosts: network namespaces, each with an engine and a pyswarmd of its own", flush=True)
        lab("down", quiet=True)
        lab("up", str(len(HOSTS)))
        make_cluster()
        run_service()
        reach_it()
        cross_hosts()
        change_it()
        read_logs()
        deploy_stack()
        break_it()
        clean_up()
    except KeyboardInterrupt:
        print("\ninterrupted; the lab is still there: `make demo` starts over, `make demo-down` removes it")
        return 130
    except DemoFailure as exc:
        print(
            f"\nthe demo failed: {exc}\nthe lab is still there to look at; `make demo-down` removes it",
            file=sys.stderr,
        )
        return 1
    say("The four hosts go on. By hand:")
    print(
        "  deploy/lab/lab --name demo exec h1 -- bash        a shell on h1, then: pyswarm node ls\n"
        "  deploy/lab/lab --name demo status                 what runs where\n"
        "  make demo-down                                    remove all of it"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
