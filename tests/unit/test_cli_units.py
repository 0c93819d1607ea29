"""Sizes, durations, CPUs, ages: read and shown as Docker does."""

import re
from datetime import UTC, datetime, timedelta

import pytest

from pyswarm.cli import units

SECOND = 10**9


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("64m", 64 << 20),
        ("64M", 64 << 20),
        ("64mb", 64 << 20),
        ("64MiB", 64 << 20),
        ("1g", 1 << 30),
        ("1.5g", 3 << 29),
        ("512k", 512 << 10),
        ("100", 100),
        ("100b", 100),
        ("0", 0),
    ],
)
def test_sizes(text: str, expected: int) -> None:
    assert units.parse_size(text) == expected


@pytest.mark.parametrize("text", ["", "x", "64q", "-1m", "1m2", "m", "1e3", "99999999999p"])
def test_wrong_sizes_are_named(text: str) -> None:
    with pytest.raises(ValueError, match=f"invalid size: '{re.escape(text)}'"):
        units.parse_size(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("5s", 5 * SECOND),
        ("1m30s", 90 * SECOND),
        ("1.5h", 5400 * SECOND),
        ("100ms", SECOND // 10),
        ("250us", 250_000),
        ("7ns", 7),
        ("0", 0),
        ("-2s", -2 * SECOND),
    ],
)
def test_durations(text: str, expected: int) -> None:
    assert units.parse_duration(text) == expected


@pytest.mark.parametrize("text", ["", "5", "s", "5x", "5s3", "1 m", "--1s"])
def test_wrong_durations_are_named(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        units.parse_duration(text)


def test_cpus() -> None:
    assert units.parse_cpus("0.5") == 500_000_000
    assert units.parse_cpus("2") == 2 * SECOND
    assert units.parse_cpus(".25") == 250_000_000
    for text in ("x", "-1", "", "0.0000000001", "1/2"):
        with pytest.raises(ValueError, match=r".+"):
            units.parse_cpus(text)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.4, "Less than a second"),
        (1, "1 second"),
        (59, "59 seconds"),
        (60, "About a minute"),
        (150, "2 minutes"),
        (3600, "About an hour"),
        (3 * 3600, "3 hours"),
        (3 * 86400, "3 days"),
        (21 * 86400, "3 weeks"),
        (90 * 86400, "3 months"),
        (800 * 86400, "2 years"),
    ],
)
def test_ages(seconds: float, expected: str) -> None:
    assert units.human_duration(seconds) == expected


def test_times_of_the_api() -> None:
    now = datetime(2024, 1, 1, tzinfo=UTC)
    assert units.parse_time("2023-12-31T23:59:55.123456789Z") == now - timedelta(seconds=4, microseconds=876544)
    assert units.ago("2023-12-31T23:59:55Z", now) == "5 seconds ago"
    assert units.parse_time("").year == 1


def test_shown_sizes_and_durations() -> None:
    assert units.human_bytes(64 << 20) == "64MiB"
    assert units.human_bytes(1536) == "1.5KiB"
    assert [units.go_duration(n * SECOND) for n in (0, 5, 90, 3600)] == ["0s", "5s", "1m30s", "1h0m0s"]
    assert units.go_duration(SECOND // 10) == "100ms"


@pytest.mark.parametrize(
    "text",
    [
        "2024-01-01T00:00:00",
        "",
        "banana",
        "9999-99-99T00:00:00Z",
        "0001-01-01T00:00:00+05:00",
        "9999-12-31T23:59:59Z",
    ],
)
def test_an_odd_time_is_shown_somehow(text: str) -> None:
    assert units.ago(text, datetime(2026, 1, 1, tzinfo=UTC)).endswith(" ago")


def test_a_time_without_a_zone_is_in_utc() -> None:
    assert units.ago("2025-12-31T23:00:00", datetime(2026, 1, 1, tzinfo=UTC)) == "About an hour ago"
