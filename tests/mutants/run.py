"""Takes each safeguard out in turn, in a copy of the package, and runs the tests that must notice.

``make mutants``, or ``python tests/mutants/run.py [--sim SEEDS] [--jobs N] [NAME ...]``. With ``--sim`` every
mutant also goes through the simulation, which is reported beside; what counts is that one of the two notices. Exit
code 1 when a mutant survives, or when the tests fail without any.
"""

import argparse
import concurrent.futures
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from catalogue import MUTANTS, Mutant

ROOT = Path(__file__).resolve().parent.parent.parent
TIME_LIMIT_S = 180


class Verdict(NamedTuple):
    """What noticed; empty texts when nothing did."""

    mutant: Mutant
    by_test: str
    by_sim: str

    @property
    def caught(self) -> bool:
        return bool(self.by_test or self.by_sim)


def copy_of_the_package(folder: Path, mutant: Mutant | None) -> Path:
    """A folder for PYTHONPATH whose ``pyswarm`` is the repository's, but for one change in ``manager``."""
    package = folder / "pyswarm"
    package.mkdir(parents=True)
    for name in ("agent", "cli", "common", "daemon", "gateway", "overlay", "proto"):
        (package / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "manager", package / "manager", ignore=shutil.ignore_patterns("__pycache__"))
    if mutant is not None:
        path = package / "manager" / mutant.file
        path.write_text(mutated(path.read_text(), mutant))
    return folder


def mutated(source: str, mutant: Mutant) -> str:
    """The source without the safeguard; raises ValueError when it does not stand there exactly once."""
    for old, new in mutant.edits:
        found = source.count(old)
        if found != 1:
            raise ValueError(f"{mutant.name}: a text to replace stands {found} times in {mutant.file}, not once")
        source = source.replace(old, new)
    return source


def _run(argv: list[str], path: Path) -> tuple[bool, str]:
    """(did it pass, its output)."""
    env = {**os.environ, "PYTHONPATH": str(path), "PYTHONDONTWRITEBYTECODE": "1", "PYTHONHASHSEED": "0"}
    try:
        done = subprocess.run(
            argv, env=env, cwd=ROOT, capture_output=True, text=True, timeout=TIME_LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return False, f"no end within {TIME_LIMIT_S} s"
    return done.returncode == 0, done.stdout + done.stderr


def run_tests(tests: tuple[str, ...], path: Path) -> tuple[bool, str]:
    """Run these tests on the package in ``path``; the text names the first one that failed."""
    options = ["-q", "-x", "-p", "no:cacheprovider", "--timeout", "60", f"--basetemp={path / 'tests'}"]
    passed, output = _run([sys.executable, "-m", "pytest", *options, *(f"tests/{t}" for t in tests)], path)
    failed = [line.split()[1] for line in output.splitlines() if line.startswith(("FAILED ", "ERROR "))]
    if not failed and not passed:
        # No test failed: a mistake in the list or a test that hangs says nothing about the safeguard.
        raise SystemExit(f"{' '.join(tests)}: {output.strip().splitlines()[-1]}")
    return passed, failed[0].removeprefix("tests/") if failed else ""


def run_simulation(seeds: int, path: Path) -> tuple[bool, str]:
    """Run the simulation on the package in ``path``."""
    argv = [sys.executable, "tests/sim/run.py", "--seeds", str(seeds), "--jobs", "1", "--stop", "--quiet"]
    passed, output = _run(argv, path)
    failed = [line for line in output.splitlines() if line.startswith("seed ")]
    return passed, failed[0] if failed else output.strip()[-200:]


def judge(mutant: Mutant, seeds: int) -> Verdict:
    """Whether anything notices that this safeguard is missing."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as name:
        path = copy_of_the_package(Path(name), mutant)
        passed, text = run_tests(mutant.tests, path)
        by_test = "" if passed else text
        by_sim = ""
        if seeds:
            passed, text = run_simulation(seeds, path)
            by_sim = "" if passed else text
    return Verdict(mutant, by_test, by_sim)


def without_any(seeds: int) -> str:
    """The same tests on an unchanged copy; returns what failed, which would make every verdict worthless."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as name:
        path = copy_of_the_package(Path(name), None)
        tests = tuple(sorted({test for mutant in MUTANTS for test in mutant.tests}))
        passed, text = run_tests(tests, path)
        if passed and seeds:
            passed, text = run_simulation(seeds, path)
    return "" if passed else text


def main() -> int:
    """Run, print a line for each mutant, and a summary."""
    parser = argparse.ArgumentParser(description="Take each safeguard of the replicated store out in turn.")
    parser.add_argument("names", nargs="*", help="only these mutants")
    parser.add_argument("--sim", type=int, default=0, metavar="SEEDS", help="also run the simulation on each")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    known = {mutant.name: mutant for mutant in MUTANTS}
    unknown = [name for name in given.names if name not in known]
    if unknown:
        parser.error(f"no mutant {', '.join(unknown)}; there are {', '.join(known)}")
    chosen = [known[name] for name in given.names] or list(MUTANTS)
    began = time.monotonic()
    broken = without_any(given.sim)
    if broken:
        print(f"with every safeguard in place this fails: {broken}")
        return 1
    survivors = []
    with concurrent.futures.ThreadPoolExecutor(given.jobs) as pool:
        for verdict in pool.map(lambda mutant: judge(mutant, given.sim), chosen):
            if not verdict.caught:
                survivors.append(verdict.mutant.name)
            how = verdict.by_test or ("-" if verdict.by_sim else "SURVIVED")
            sim = "" if not given.sim else f"  simulation: {verdict.by_sim or '-'}"
            print(f"{verdict.mutant.name:38} {how}{sim}", flush=True)
    took = time.monotonic() - began
    print(f"{len(chosen) - len(survivors)} of {len(chosen)} safeguards are missed when taken out, in {took:.0f} s")
    if survivors:
        print(f"nothing notices: {', '.join(survivors)}")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
