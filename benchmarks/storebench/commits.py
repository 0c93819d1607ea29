"""Commits over RPC, ours and etcd's in turn, and failover after the leader's process is killed."""

import asyncio
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from storebench.child import Child, in_turn
from storebench.clusters import Etcd, Identities, Managers, described
from storebench.figures import log, medians

OUTSTANDING = (1, 32, 256)
SECONDS = 3.0
#: The ratio of our throughput to etcd's that is aimed at.
AIMS = {1: 1.0, 256: 1.5}
SETTLE_S = 1.0


async def bench_commits(disk: Path, repeat: int) -> dict[str, Any]:
    """(a) Rounds of both stores and of ourselves without RPC, alternating, so that noise meets all of them."""
    with tempfile.TemporaryDirectory(dir=disk) as made:
        folder, identities = Path(made), Identities()
        managers, etcd = Managers(folder, identities), Etcd(folder, identities)
        identities.save(folder / "client")
        client = Child("client", str(folder / "client"))
        try:
            await managers.start()
            await etcd.start()
            await client.start()
            return await _compare(managers, etcd, client, repeat)
        finally:
            await client.kill()
            await etcd.stop()
            await managers.stop()


async def _compare(managers: Managers, etcd: Etcd, client: Child, repeat: int) -> dict[str, Any]:
    result: dict[str, Any] = {"setup": described()}
    leader, their_addr = await managers.leader(), await etcd.leader(client)
    our_addr = managers.addrs[leader]
    for outstanding in OUTSTANDING:
        ways = {
            "etcd": (client, {"addr": their_addr, "through": "etcd"}),
            "ours": (client, {"addr": our_addr, "through": "store"}),
            "rpc_without_work": (client, {"addr": our_addr, "through": "nothing"}),
            "ours_in_process": (leader, {"through": "store"}),
            "ours_in_process_log_only": (leader, {"through": "raft"}),
        }
        rounds = await in_turn(ways, repeat, outstanding, SECONDS, f"{outstanding} outstanding")
        found: dict[str, Any] = {way: medians(figures) for way, figures in rounds.items()}
        pairs = zip(rounds["ours"], rounds["etcd"], strict=True)
        found["ratio"] = round(statistics.median(a["ops_per_s"] / b["ops_per_s"] for a, b in pairs), 2)
        if outstanding in AIMS:
            found["aim"] = AIMS[outstanding]
        result[f"outstanding_{outstanding}"] = found
    return result


async def bench_failover(disk: Path, repeat: int) -> dict[str, Any]:
    """(b) From kill -9 of the leader to the next acknowledged write at one of the others."""
    with tempfile.TemporaryDirectory(dir=disk) as made:
        managers = Managers(Path(made), Identities())
        gaps_s = []
        try:
            await managers.start()
            for number in range(repeat):
                leader = await managers.leader()
                others = [m for m in managers.members if m is not leader]
                asked = [asyncio.ensure_future(m.ask("write")) for m in others]
                began = time.time()
                await leader.kill()
                times = [float(a["at"]) for a in await asyncio.gather(*asked) if a]
                gaps_s.append(min(times) - began)
                log(f"failover {number}: {gaps_s[-1]:.3f} s")
                await leader.start()
                await asyncio.sleep(SETTLE_S)
        finally:
            await managers.stop()
    return {
        "median_s": round(statistics.median(gaps_s), 3),
        "max_s": round(max(gaps_s), 3),
        "rounds": repeat,
        "aim_s": 1.0,
    }
