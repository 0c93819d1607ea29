"""A short session on every change; ``make chaos`` runs longer ones."""

import pytest
from chaos.session import run_session
from support.lab import Lab

pytestmark = pytest.mark.e2e


@pytest.mark.timeout(240)
def test_nothing_acknowledged_is_lost_while_managers_die_freeze_and_are_cut_off() -> None:
    with Lab("cht") as lab:
        report = run_session(lab, seed=7, seconds=40.0, writers=8)
    assert report.wrong == []
    assert report.acknowledged > 500, report.answers
    assert len(report.incidents) >= 4
