"""How samples become figures, the same for everybody who is measured."""

import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def log(text: str) -> None:
    """Progress, beside the JSON."""
    print(text, file=sys.stderr, flush=True)


def summary(took_s: Sequence[float], elapsed_s: float) -> dict[str, float]:
    """Of operations that took so long each, and together."""
    ordered = sorted(took_s)
    return {
        "ops_per_s": round(len(ordered) / elapsed_s),
        "p50_ms": round(ordered[len(ordered) // 2] * 1e3, 2),
        "p99_ms": round(ordered[len(ordered) * 99 // 100] * 1e3, 2),
    }


def medians(rounds: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Figure by figure, over the rounds of one run."""
    return {name: round(statistics.median(r[name] for r in rounds), 2) for name in rounds[0]}


def cpu_s(pid: int) -> float:
    """Processor time a process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100.0


def rss_mib(pid: int) -> float:
    """Memory of a process."""
    fields = Path(f"/proc/{pid}/status").read_text().splitlines()
    kib = next(int(line.split()[1]) for line in fields if line.startswith("VmRSS:"))
    return round(kib / 1024, 1)
