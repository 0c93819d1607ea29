"""What every tier shares: ``tests/support`` is importable as ``support``, the lab's API client as ``lab.api``."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent / "deploy")]
