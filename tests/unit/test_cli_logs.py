"""Points in time on the command line, and lines of service logs taken apart."""

import itertools
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyswarm.cli.errors import CliError
from pyswarm.cli.moments import parse_moment
from pyswarm.cli.service_logs import _Lines
from pyswarm.common.logframes import STDERR, STDOUT, SYSTEM, frame


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1700000000", "1700000000"),
        ("1700000000.5", "1700000000.5"),
        ("10", "10"),
        ("10m", "1699999400.000000000"),
        ("1h30m", "1699994600.000000000"),
        ("0s", "1700000000.000000000"),
        ("-1m", "1700000060.000000000"),
        ("2023-11-14T22:13:20Z", "1700000000.000000000"),
        ("2023-11-14T22:13:20.250+00:00", "1700000000.250000000"),
        ("2023-11-15T00:13+02:00", "1699999980.000000000"),
    ],
)
def test_points_in_time(text: str, expected: str) -> None:
    assert parse_moment(text, 1_700_000_000) == expected


def test_a_time_without_a_zone_is_local(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    try:
        assert parse_moment("2023-11-14T23:13:20", 0) == "1700000000.000000000"
        assert parse_moment("2023-11-14", 0) == "1699916400.000000000"
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize("text", ["yesterday", "", "2023-13-01", "5 minutes", "1e9", "2023-11-14Tx"])
def test_what_is_no_point_in_time(text: str) -> None:
    with pytest.raises(ValueError, match="failed to parse value as time or duration"):
        parse_moment(text, 0)


@given(st.lists(st.integers(0, 1000), max_size=8))
def test_frames_may_arrive_in_any_pieces(cuts: list[int]) -> None:
    data = frame(STDOUT, b"one\n") + frame(STDERR, b"two\n") + frame(STDOUT, b"") + frame(STDOUT, b"three\n")
    edges = [0, *sorted(c % (len(data) + 1) for c in cuts), len(data)]
    lines = _Lines(None, timestamps=False, details=False)
    parts = [lines.of(data[a:b]) for a, b in itertools.pairwise(edges)]
    assert b"".join(out for out, _ in parts) == b"one\nthree\n"
    assert b"".join(err for _, err in parts) == b"two\n"


def test_an_error_within_the_stream_ends_the_command() -> None:
    lines = _Lines(None, timestamps=False, details=False)
    with pytest.raises(CliError, match="from the daemon: the node was removed"):
        lines.of(frame(SYSTEM, b"Error grabbing logs: the node was removed\n"))
