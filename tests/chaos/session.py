"""One session: a cluster of managers, clients that write, a fault after the other, and the count at the end."""

import contextlib
import itertools
import random
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec
from support.cluster import Cluster
from support.env import wait_until
from support.lab import Lab

from .faults import WITHOUT_QUORUM, Faults
from .writers import Writer


class Incident(msgspec.Struct):
    """One fault. ``silence_s``: no client's write was acknowledged for so long during it, or after it if meanwhile
    nobody could lead."""

    kind: str
    where: str
    at_s: float
    silence_s: float = 0.0


class Report(msgspec.Struct):
    """What came of it. ``wrong`` is empty when nothing that was acknowledged is missing."""

    seed: int
    seconds: float
    acknowledged: int
    unanswered: int
    wrong: list[str]
    recovery_s: dict[str, dict[str, float]]
    incidents: list[Incident]
    answers: dict[str, int]


def run_session(
    lab: Lab, *, seed: int, seconds: float, writers: int, say: Callable[[str], None] = lambda _line: None
) -> Report:
    """Form a cluster of three managers on ``lab`` and torment it for ``seconds``."""
    choose = random.Random(seed)
    cluster = Cluster(lab, 3, 3)
    lab.up(3)
    faults = Faults(lab, cluster.hosts, lambda: _leader(cluster), choose)
    with contextlib.ExitStack() as stack:
        stack.enter_context(faults.small_disk("h3"))
        cluster.form()
        stop = threading.Event()
        # Each stays with one host: those of hosts that are well show how long the swarm as a whole took.
        sockets = itertools.cycle([lab.socket(host) for host in cluster.hosts])
        clients = [Writer(number, socket, stop) for number, socket in zip(range(writers), sockets, strict=False)]
        stack.callback(stop.set)
        for client in clients:
            client.thread.start()
        incidents = _torment(cluster, faults, choose, clients, seconds, say)
        stop.set()
        for client in clients:
            client.thread.join(60)
        wrong = _verify(cluster, clients, say)
    return _report(seed, seconds, clients, incidents, wrong)


def _leader(cluster: Cluster) -> str:
    for host in cluster.hosts:
        cluster.ask = host
        if leader := cluster.leader():
            return leader
    return ""


def _all_reachable(cluster: Cluster) -> bool:
    _leader(cluster)
    nodes = _try(cluster.nodes) or []
    states = [node.get("ManagerStatus", {}).get("Reachability") for node in nodes]
    return states == ["reachable"] * len(cluster.hosts)


def _torment(
    cluster: Cluster,
    faults: Faults,
    choose: random.Random,
    clients: list[Writer],
    seconds: float,
    say: Callable[[str], None],
) -> list[Incident]:
    began = time.monotonic()
    incidents: list[Incident] = []
    order: list[str] = []
    while time.monotonic() - began < seconds:
        if not order:
            order = choose.sample(list(faults.kinds), len(faults.kinds))
        kind = order.pop()
        start = time.monotonic()
        steps = faults.kinds[kind]()
        where = next(steps)
        for _ in steps:
            raise AssertionError("a fault yields once")
        ended = time.monotonic()
        wait_until(lambda at=ended: _newest(clients) > at, 60, f"writes after: {kind} on {where}")  # type: ignore[misc]
        incident = Incident(kind, where, round(start - began, 1), 0.0)
        if kind in WITHOUT_QUORUM:
            incident.silence_s = round(_first_after(clients, ended) - ended, 2)
        else:
            incident.silence_s = round(_silence(clients, start), 2)
        incidents.append(incident)
        # The next fault meets a whole cluster, so that each one's own cost is seen.
        wait_until(lambda: _all_reachable(cluster), 60, f"all managers are back after: {kind} on {where}")
        say(f"{incident.at_s:6.1f} s  {kind:28} {where:24} no write for {incident.silence_s:.2f} s")
    return incidents


def _newest(clients: list[Writer]) -> float:
    return max((client.acknowledged_at[-1] for client in clients if client.acknowledged_at), default=0.0)


def _first_after(clients: list[Writer], since: float) -> float:
    return min(at for client in clients for at in client.acknowledged_at if at > since)


def _silence(clients: list[Writer], since: float) -> float:
    """The longest time between two acknowledged writes, whoever's, from just before ``since`` until now."""
    times = sorted(at for client in clients for at in client.acknowledged_at if at > since - 5.0)
    return max((b - a for a, b in itertools.pairwise(times) if b > since), default=0.0)


def _configs(cluster: Cluster) -> dict[str, int]:
    return {
        config["Spec"]["Name"]: int((config["Spec"].get("Labels") or {}).get("count", 0))
        for config in cluster.get("/configs")
    }


def _verify(cluster: Cluster, clients: list[Writer], say: Callable[[str], None]) -> list[str]:
    """Look with each leader in turn, so that more than one manager's state is seen."""
    wrong: list[str] = []
    for turn in range(3):
        leader = wait_until(lambda: _leader(cluster), 60, "somebody leads")
        cluster.ask = next(host for host in cluster.hosts if host != leader)
        configs = wait_until(lambda: _try(lambda: _configs(cluster)), 60, "the configs are listed")
        found = [problem for client in clients for problem in client.check(configs)]
        say(f"{leader} leads: {len(configs)} configs, {len(found)} problems")
        wrong += [f"{leader} leads: {problem}" for problem in found]
        if turn < 2:
            cluster.lab.kill(leader, "manager", "KILL")
            wait_until(lambda gone=leader: _leader(cluster) not in ("", gone), 60, "another one leads")  # type: ignore[misc]
    return wrong


def _try(ask: Callable[[], Any]) -> Any:
    try:
        return ask()
    except (AssertionError, OSError):
        return None


def _report(
    seed: int, seconds: float, clients: list[Writer], incidents: list[Incident], wrong: list[str]
) -> Report:
    answers: Counter[str] = Counter()
    for client in clients:
        answers.update(client.answers)
    kinds = sorted({incident.kind for incident in incidents})
    silences = {kind: [i.silence_s for i in incidents if i.kind == kind] for kind in kinds}
    return Report(
        seed=seed,
        seconds=seconds,
        acknowledged=sum(len(client.acknowledged_at) for client in clients),
        unanswered=sum(len(client.attempted - client.acknowledged) for client in clients),
        wrong=wrong,
        recovery_s={
            kind: {"times": len(found), "median": statistics.median(found), "longest": max(found)}
            for kind, found in silences.items()
        },
        incidents=incidents,
        answers=dict(answers.most_common(12)),
    )
