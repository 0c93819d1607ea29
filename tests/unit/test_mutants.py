"""The list of safeguards is up to date: each stands in the code, and its tests exist."""

import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent.parent
sys.path.insert(0, str(TESTS / "mutants"))

from catalogue import MUTANTS, Mutant  # noqa: E402
from run import mutated  # noqa: E402


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_the_safeguard_stands_in_the_code_and_its_tests_exist(mutant: Mutant) -> None:
    path = TESTS.parent / "manager" / mutant.file
    compile(mutated(path.read_text(), mutant), mutant.file, "exec")
    for test in mutant.tests:
        file, _, name = test.partition("::")
        assert not name or f"def {name}(" in (TESTS / file).read_text(), test


def test_names_are_unique() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)
