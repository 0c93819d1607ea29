"""Figures of the replicated store; prints one JSON document, and progress beside it.

etcd and ours are measured in turn within one run, on the disk of ``--disk``; what counts are ratios and medians.
"""

import argparse
import asyncio
import json
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import uvloop

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "deploy"), str(ROOT / "benchmarks")]

from storebench import client, commits, idle, large, managers, member  # noqa: E402 - the folders above are not packages
from storebench.figures import log  # noqa: E402

Step = Callable[[], Coroutine[Any, Any, dict[str, Any]]]


def main() -> None:
    """Measure everything and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=3, help="rounds of each comparison [3]")
    parser.add_argument("--failovers", type=int, default=7, help="how often the leader is killed [7]")
    parser.add_argument("--steady-s", type=float, default=600.0, help="how long nothing may happen [600]")
    parser.add_argument("--disk", type=Path, default=ROOT, help="a folder on the disk to measure [the repository]")
    names = ("commits", "failover", "idle", "managers", "large", "steady")
    parser.add_argument("--only", choices=names, action="append", help="only this part; may be given again")
    args = parser.parse_args()
    steps: dict[str, Step] = {
        "commits": lambda: commits.bench_commits(args.disk, args.repeat),
        "failover": lambda: commits.bench_failover(args.disk, args.failovers),
        "idle": lambda: idle.bench_idle(args.disk),
        "managers": lambda: managers.bench_managers(args.repeat),
        "large": lambda: large.bench_large(args.disk, args.repeat),
        "steady": lambda: idle.bench_steady(args.disk, args.steady_s),
    }
    results: dict[str, Any] = {}
    for name, step in steps.items():
        if args.only is None or name in args.only:
            log(f"measuring: {name}")
            results[name] = asyncio.run(step())
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["member", folder, addr, *members]:
            uvloop.run(member.run(Path(folder), addr, members))
        case ["client", certs]:
            uvloop.run(client.run(Path(certs)))
        case ["large", folder]:
            uvloop.run(large.run(Path(folder)))
        case ["http", path]:
            uvloop.run(client.run_http(path))
        case _:
            main()
