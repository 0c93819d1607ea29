"""What a test needs of the machine: missing on a laptop it skips, missing in CI it fails."""

import os
import shutil
import time
from collections.abc import Callable
from typing import TypeVar

import pytest

T = TypeVar("T")


def _absent(reason: str) -> None:
    if os.environ.get("CI"):
        pytest.fail(f"the test environment lacks something: {reason}")
    pytest.skip(reason)


def require_root() -> None:
    """The test makes namespaces, devices or engines."""
    if os.geteuid() != 0:
        _absent("needs root")


def require_binary(*names: str) -> None:
    """The test runs these programs."""
    for name in names:
        if shutil.which(name) is None:
            _absent(f"needs the program {name}")


def wait_until(probe: Callable[[], T], timeout_s: float, what: str, interval_s: float = 0.05) -> T:
    """Call ``probe`` until it returns something true; fail with ``what`` after ``timeout_s`` seconds."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = probe()
        if value:
            return value
        if time.monotonic() > deadline:
            pytest.fail(f"not within {timeout_s:g} s: {what}")
        time.sleep(interval_s)
