"""Hundreds of seeds, and that the simulation would notice."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sim.linearizable import Operation, is_linearizable

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The runner as people use it."""
    return subprocess.run(
        [sys.executable, str(ROOT / "tests/sim/run.py"), *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.timeout(600)
def test_nothing_is_lost_in_500_worlds(tmp_path: Path) -> None:
    done = run("--seeds", "500", "--quiet", "--folder", str(tmp_path))
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr
    assert "500 seeds from 1, 0 failed" in done.stdout


def test_the_same_seed_does_the_same_in_any_process(tmp_path: Path) -> None:
    alone = run("--seeds", "6", "--first", "7", "--jobs", "1", "--digests", "--quiet", "--folder", str(tmp_path))
    shared = run("--seeds", "6", "--first", "7", "--jobs", "2", "--digests", "--quiet", "--folder", str(tmp_path))
    found = [sorted(line for line in done.stdout.splitlines() if "digest" in line) for done in (alone, shared)]
    assert len(set(found[0])) == 6
    assert found[0] == found[1]


def read(value: str | None, invoked_at: float, returned_at: float) -> Operation:
    return Operation("read", value, invoked_at, returned_at)


def write(value: str, invoked_at: float, returned_at: float = math.inf, before: str | None = "?") -> Operation:
    return Operation("write", value, invoked_at, returned_at, before)


@pytest.mark.parametrize(
    "history",
    [
        [],
        [read(None, 0, 1), write("a", 2, 3), read("a", 4, 5)],
        [write("a", 0, 9), read(None, 1, 2), read("a", 3, 4)],
        [write("a", 0, 5), write("b", 1, 6), read("a", 7, 8)],
        [write("a", 0, 1, None), write("b", 2, 3, "a"), read("b", 4, 5)],
        [write("a", 0), read(None, 5, 6), read("a", 90, 91)],
        [write("a", 0), read(None, 5, 6)],
        [write("a", 0, 1), write("b", 2), write("c", 3, 4, "b"), read("c", 5, 6)],
    ],
)
def test_histories_that_can_have_happened(history: list[Operation]) -> None:
    assert is_linearizable(history)


@pytest.mark.parametrize(
    "history",
    [
        [write("a", 0, 1), read(None, 2, 3)],
        [write("a", 0, 9), read("a", 1, 2), read(None, 3, 4)],
        [write("a", 0, 1), write("b", 2, 3), read("a", 4, 5)],
        [write("a", 0, 1, None), write("b", 0, 1, None)],
        [read("a", 0, 1), write("a", 2, 3)],
        [write("a", 5), read("a", 0, 1)],
        [write("a", 0, 1), write("b", 2), read("b", 3, 4), read("a", 5, 6)],
        [write("a", 0, 9), write("b", 0, 9), read("a", 1, 2), read("b", 3, 4), read("a", 5, 6)],
    ],
)
def test_histories_that_cannot_have_happened(history: list[Operation]) -> None:
    assert not is_linearizable(history)
