"""What every tier shares: ``tests/support`` is importable as ``support``, the lab's API client as ``lab.api``."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyswarm.common.clock import Clock
from pyswarm.manager.state import Store

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent / "deploy")]


@pytest.fixture(autouse=True)
def _every_store_is_valid(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """After every test the invariants of each store it made hold."""
    made: list[Store] = []
    make = Store.__init__

    def remember(store: Store, clock: Clock) -> None:
        make(store, clock)
        made.append(store)

    monkeypatch.setattr(Store, "__init__", remember)
    yield
    for store in made:
        store.validate()
