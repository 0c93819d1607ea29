"""The lab's verbs."""

import os
import signal
import sys
from collections.abc import Callable

from . import daemon, network, state
from .errors import LabError
from .names import DEFAULT_PREFIX, MAX_HOSTS, Host, Lab, lab_of
from .processes import clean_environment, enter, in_host, recorded_pid, send, wait_until

USAGE = """\
usage: lab [--name PREFIX] VERB

  up N [--engines-only]   make hosts h1..hN, or start what is missing of them; waits until they are ready.
                          Links that were cut are healed; a larger lab keeps its hosts
  down                    stop and remove everything of the lab
  exec HOST -- CMD...     run a command on a host (DOCKER_HOST and PYSWARM_HOST point at its API socket)
  ip HOST                 its address
  socket HOST             its API socket
  engine HOST             its engine's socket
  cut HOST                pull its cable
  heal HOST               plug it in again
  kill HOST daemon|manager|engine|etcd [-SIGNAL]   -KILL by default; waits for the end after KILL and TERM
  start HOST daemon|engine                         and wait until it answers
  status                  what runs where
  netns HOST              its network namespace, found in /run/netns (`sw`: the switch's)
  datadir                 the folder with all data of all hosts

PREFIX (1 to 8 of a-z0-9, default "lab") begins all names the lab makes; several labs can stand side by side.
$PYSWARM_LAB_ROOT holds the labs' folders (default /var/tmp/pyswarm-lab); $PYSWARM_LAB_DAEMON replaces pyswarmd.
"""
STOP_LIMIT_S = 30.0


def main() -> int:
    """Entry point; the exit code."""
    try:
        return _run(sys.argv[1:])
    except LabError as exc:
        print(f"lab: {exc}", file=sys.stderr)
        if exc.details:
            print(exc.details, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("lab: interrupted; 'up' goes on from here, 'down' removes what there is", file=sys.stderr)
        return 130


def _run(argv: list[str]) -> int:
    prefix = DEFAULT_PREFIX
    if argv[:1] == ["--name"]:
        if len(argv) < 2:
            raise LabError("--name needs a value")
        prefix, argv = argv[1], argv[2:]
    elif argv and argv[0].startswith("--name="):
        prefix, argv = argv[0].removeprefix("--name="), argv[1:]
    if not argv:
        print(USAGE, end="", file=sys.stderr)
        return 2
    if argv[0] in ("help", "--help", "-h"):
        print(USAGE, end="")
        return 0
    verb = _VERBS.get(argv[0])
    if verb is None:
        raise LabError(f"no verb {argv[0]!r}; 'lab help' lists them")
    function, needs_root = verb
    lab = lab_of(prefix)
    if needs_root and os.geteuid() != 0:
        raise LabError(f"'{argv[0]}' needs root")
    return function(lab, argv[1:])


def _one_host(lab: Lab, arguments: list[str]) -> Host:
    if len(arguments) != 1:
        raise LabError("give one host, such as h1")
    return state.find_host(lab, arguments[0])


def _none(arguments: list[str]) -> None:
    if arguments:
        raise LabError(f"unexpected {arguments[0]!r}")


def _up(lab: Lab, arguments: list[str]) -> int:
    from .up import up

    rest = [argument for argument in arguments if argument != "--engines-only"]
    if len(rest) != 1 or not rest[0].isdigit() or not 1 <= int(rest[0]) <= MAX_HOSTS:
        raise LabError(f"give the number of hosts, 1 to {MAX_HOSTS}: up 4")
    with state.locked(lab):
        up(lab, int(rest[0]), engines_only=len(rest) != len(arguments))
    return 0


def _down(lab: Lab, arguments: list[str]) -> int:
    from .teardown import down

    _none(arguments)
    with state.locked(lab):
        down(lab)
    return 0


def _exec(lab: Lab, arguments: list[str]) -> int:
    if len(arguments) < 3 or arguments[1] != "--":
        raise LabError("exec HOST -- CMD...")
    host = state.find_host(lab, arguments[0])
    if not (network.is_mounted(host.netns) and network.is_mounted(host.uts)):
        raise LabError(f"{host.name} is not up: run 'lab --name {lab.prefix} up {state.host_count(lab)}'")
    env = clean_environment()
    env["DOCKER_HOST"] = env["PYSWARM_HOST"] = f"unix://{host.api_socket}"
    argv = [*enter(host), *arguments[2:]]
    try:
        os.execvpe(argv[0], argv, env)  # noqa: S606 - the command is the user's, run as given
    except OSError as exc:
        raise LabError(f"nsenter: {exc.strerror}") from exc


def _show(value: Callable[[Host], object]) -> Callable[[Lab, list[str]], int]:
    def verb(lab: Lab, arguments: list[str]) -> int:
        print(value(_one_host(lab, arguments)))
        return 0

    return verb


def _netns(lab: Lab, arguments: list[str]) -> int:
    print((lab.switch_netns if arguments == ["sw"] else _one_host(lab, arguments).netns).name)
    return 0


def _cut(lab: Lab, arguments: list[str]) -> int:
    network.set_link(_one_host(lab, arguments), up=False)
    return 0


def _heal(lab: Lab, arguments: list[str]) -> int:
    network.set_link(_one_host(lab, arguments), up=True)
    return 0


def _kill(lab: Lab, arguments: list[str]) -> int:
    what = arguments[1] if len(arguments) > 1 else ""
    if len(arguments) not in (2, 3) or what not in ("daemon", "manager", "engine", "etcd"):
        raise LabError("kill HOST daemon|manager|engine|etcd [-SIGNAL]")
    host = state.find_host(lab, arguments[0])
    number = _signal(arguments[2]) if len(arguments) == 3 else signal.SIGKILL
    pid = recorded_pid(host, {"engine": "dockerd", "daemon": "pyswarmd"}.get(what, what))
    if pid is None:
        raise LabError(f"{host.name}: no {what} is running")
    # With the daemon its children end: a start right after must not find them still holding sockets and ports.
    children = [recorded_pid(host, name) for name in daemon.CHILDREN] if what == "daemon" else []
    send(pid, number)
    if number in (signal.SIGKILL, signal.SIGTERM):
        doomed = [each for each in (pid, *children) if each is not None]
        if not wait_until(lambda: not any(in_host(each, host) for each in doomed), STOP_LIMIT_S):
            left = " ".join(str(each) for each in doomed if in_host(each, host))
            raise LabError(f"{host.name}: {what} has not ended after {STOP_LIMIT_S:g} s; still there: {left}")
    return 0


def _signal(text: str) -> signal.Signals:
    name = text.removeprefix("-").upper()
    try:
        if name.isdigit():
            return signal.Signals(int(name))
        return signal.Signals["SIG" + name.removeprefix("SIG")]
    except (ValueError, KeyError):
        raise LabError(f"no signal {text!r}") from None


def _start(lab: Lab, arguments: list[str]) -> int:
    from .engine import ensure_engine

    if len(arguments) != 2 or arguments[1] not in ("daemon", "engine"):
        raise LabError("start HOST daemon|engine")
    host = state.find_host(lab, arguments[0])
    if arguments[1] == "engine":
        ensure_engine(host)
    else:
        daemon.ensure_daemon(host)
    return 0


def _status(lab: Lab, arguments: list[str]) -> int:
    _none(arguments)
    hosts = state.known_hosts(lab)
    if not hosts:
        raise LabError(f"there is no lab {lab.prefix!r}")
    rows = [["HOST", "ADDRESS", "LINK", "ENGINE", "DAEMON", "MANAGER", "ETCD"]]
    for host in hosts:
        pids = [
            recorded_pid(host, "dockerd"),
            recorded_pid(host, "pyswarmd"),
            recorded_pid(host, "manager"),
            recorded_pid(host, "etcd"),
        ]
        link = {True: "up", False: "cut", None: "-"}[network.link_is_up(host)]
        rows.append([host.name, host.address, link, *(str(pid) if pid else "-" for pid in pids)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return 0


def _datadir(lab: Lab, arguments: list[str]) -> int:
    _none(arguments)
    print(lab.datadir)
    return 0


# Each verb, and whether it needs root.
_VERBS: dict[str, tuple[Callable[[Lab, list[str]], int], bool]] = {
    "up": (_up, True),
    "down": (_down, True),
    "exec": (_exec, True),
    "ip": (_show(lambda host: host.address), False),
    "socket": (_show(lambda host: host.api_socket), False),
    "engine": (_show(lambda host: host.engine_socket), False),
    "cut": (_cut, True),
    "heal": (_heal, True),
    "kill": (_kill, True),
    "start": (_start, True),
    "status": (_status, True),
    "netns": (_netns, False),
    "datadir": (_datadir, False),
}
