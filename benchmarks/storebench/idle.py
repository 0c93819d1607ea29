"""Managers that have nothing to do: what they cost, and that they keep their leader on a busy machine."""

import asyncio
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from storebench.clusters import Identities, Managers
from storebench.figures import cpu_s, log

IDLE_S = 20.0
LOOK_EVERY_S = 30.0
AIM_PERCENT = 1.0


async def bench_idle(disk: Path) -> dict[str, Any]:
    """(f) Processor time of Raft and store with nothing to do; that of whole managers is in ``managers``."""
    with tempfile.TemporaryDirectory(dir=disk) as made:
        managers = Managers(Path(made), Identities())
        try:
            await managers.start()
            leader = await managers.leader()
            await asyncio.sleep(2)
            before = {m: cpu_s(m.pid) for m in managers.members}
            await asyncio.sleep(IDLE_S)
            used = {m: round(100 * (cpu_s(m.pid) - before[m]) / IDLE_S, 2) for m in managers.members}
        finally:
            await managers.stop()
    return {
        "leader_percent": used[leader],
        "follower_percent": max(p for m, p in used.items() if m is not leader),
        "aim_percent": AIM_PERCENT,
    }


async def bench_steady(disk: Path, seconds: float) -> dict[str, Any]:
    """(c) Every core is kept busy, nobody fails: the leader and its term stay what they are."""
    with tempfile.TemporaryDirectory(dir=disk) as made:
        managers = Managers(Path(made), Identities())
        burners = []
        try:
            await managers.start()
            leader = await managers.leader()
            term = (await leader.ask("state"))["term"]
            cores = os.cpu_count() or 1
            burn = (sys.executable, "-c", "while True: pass")
            burners = [await asyncio.create_subprocess_exec(*burn) for _ in range(cores)]
            until_s = time.monotonic() + seconds
            while (left_s := until_s - time.monotonic()) > 0:
                await asyncio.sleep(min(LOOK_EVERY_S, left_s))
                terms = [(await m.ask("state"))["term"] for m in managers.members]
                log(f"{left_s:.0f} s to go, terms {terms}")
            state = await leader.ask("state")
        finally:
            for burner in burners:
                burner.kill()
                await burner.wait()
            await managers.stop()
    return {
        "seconds": seconds,
        "busy_loops": cores,
        "elections": max(terms) - term,
        "the_same_leader": state["leads"],
        "aim_elections": 0,
    }
