"""Runs seeds: ``python tests/sim/run.py --seeds 500 --jobs 2``. A failing one says how to run it again."""

import argparse
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
if str(TESTS) not in sys.path:
    sys.path.insert(0, str(TESTS))

from sim.world import Report, World  # noqa: E402 - found through the line above

#: Shown of a failing seed; the whole transcript goes to a file.
_SHOWN_LINES = 60
_CHUNK = 5


def run_seed(seed: int) -> Report:
    """One seed; the transcript comes along only when it is needed."""
    report = World(seed).run()
    if not report.violations:
        report.transcript = []
    return report


def reports(first: int, seeds: int, jobs: int) -> Iterator[Report]:
    """All seeds, as they end."""
    wanted = range(first, first + seeds)
    if jobs == 1:
        yield from map(run_seed, wanted)
        return
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        yield from pool.imap_unordered(run_seed, wanted, _CHUNK)


def replay_command(seed: int) -> str:
    """What shows a seed again."""
    return f"PYTHONHASHSEED=0 .venv/bin/python tests/sim/run.py --seeds 1 --first {seed} --jobs 1 --transcript"


def show_failure(report: Report, folder: Path) -> None:
    """Print what went wrong, the last lines of the transcript, and how to run it again."""
    path = folder / f"sim-{report.seed}.txt"
    path.write_text("\n".join(report.transcript) + "\n")
    print(f"\nseed {report.seed} FAILED: {report.violations[0]}")
    print("\n".join(report.transcript[-_SHOWN_LINES:]))
    print(f"whole transcript: {path}\nagain: {replay_command(report.seed)}\n", flush=True)


def main() -> int:
    """0 when every seed passed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--stop", action="store_true", help="stop at the first seed that fails")
    parser.add_argument("--quiet", action="store_true", help="only failures and the summary")
    parser.add_argument("--digests", action="store_true", help="print what a seed did as a number")
    parser.add_argument("--transcript", action="store_true", help="print each transcript")
    parser.add_argument("--folder", type=Path, default=Path("/tmp"), help="where transcripts of failures go")
    args = parser.parse_args()
    began, done, failed, totals = time.monotonic(), 0, [], Counter[str]()
    for report in reports(args.first, args.seeds, args.jobs):
        done += 1
        totals += report.counts
        if report.violations:
            failed.append(report.seed)
            show_failure(report, args.folder)
            if args.stop:
                break
        if args.digests:
            print(f"digest {report.seed} {report.digest}")
        if args.transcript:
            print("\n".join(World(report.seed).run().transcript))
        if not args.quiet and (done % 50 == 0 or done == args.seeds):
            elapsed = time.monotonic() - began
            print(f"{done}/{args.seeds} seeds, {len(failed)} failed, {elapsed:.0f} s", flush=True)
    print(f"{done} seeds from {args.first}, {len(failed)} failed {sorted(failed) or ''}")
    print(", ".join(f"{count} {name}" for name, count in sorted(totals.items())))
    return 1 if failed else 0


if __name__ == "__main__":
    if os.environ.get("PYTHONHASHSEED") != "0":
        # The same seed is to mean the same run in every process.
        os.environ["PYTHONHASHSEED"] = "0"
        os.execv(sys.executable, [sys.executable, *sys.argv])  # noqa: S606 - itself, once more
    sys.exit(main())
