"""``make chaos``: torment a lab of three managers while clients write; prints a report as JSON.

Exit code 1 when something that was acknowledged is missing, or a read showed less than what was known.
"""

import argparse
import random
import sys
from pathlib import Path

import msgspec

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "deploy")]

from chaos.session import run_session  # noqa: E402
from support.lab import Lab  # noqa: E402


def main() -> int:
    """Run one session."""
    parser = argparse.ArgumentParser(description="Torment a lab of three managers while clients write.")
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--writers", type=int, default=8)
    parser.add_argument("--seed", type=int, help="chooses the faults; timing is the machine's all the same")
    given = parser.parse_args()
    seed = given.seed if given.seed is not None else random.randrange(1_000_000)
    print(f"seed {seed}", file=sys.stderr)
    with Lab("cha") as lab:
        report = run_session(
            lab,
            seed=seed,
            seconds=given.seconds,
            writers=given.writers,
            say=lambda line: print(line, file=sys.stderr, flush=True),
        )
    print(msgspec.json.format(msgspec.json.encode(report), indent=2).decode())
    return 1 if report.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
