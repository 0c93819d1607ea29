"""What the engine gives as a log, whatever pieces it comes in, becomes frames of whole lines with times in UTC."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyswarm.agent.engine import EngineError
from pyswarm.agent.engine.logs import PART_BYTES, FrameParser, TtyParser
from pyswarm.common.logframes import STDERR, STDOUT, SYSTEM, frame, lines


def at(tick: int) -> bytes:
    return b"2026-01-02T03:04:05.%09dZ" % tick


def in_pieces(parser: FrameParser | TtyParser, data: bytes, cuts: list[int]) -> list[tuple[int, bytes, bytes]]:
    edges = [0, *sorted(c % (len(data) + 1) for c in cuts), len(data)]
    out = b"".join(parser.feed(data[a:b]) for a, b in itertools.pairwise(edges))
    return [(f.stream, f.time, f.text) for f in lines(out + parser.end())]


@given(st.lists(st.integers(0, 10_000), max_size=12))
def test_frames_come_whole(cuts: list[int]) -> None:
    data = frame(STDOUT, at(1) + b" one\n") + frame(STDERR, at(2) + b" \n") + frame(STDOUT, at(3) + b" two\r\n")
    assert in_pieces(FrameParser(), data, cuts) == [
        (STDOUT, at(1), b"one\n"),
        (STDERR, at(2), b"\n"),
        (STDOUT, at(3), b"two\r\n"),
    ]


def test_a_frame_cut_short_by_the_engine_is_left_out() -> None:
    whole = frame(STDOUT, at(1) + b" one\n")
    assert in_pieces(FrameParser(), whole + whole[:20], []) == [(STDOUT, at(1), b"one\n")]


def test_times_become_utc() -> None:
    """One log driver gives its host's time."""
    data = frame(STDOUT, b"2026-01-01T00:30:00.000000001+02:00 late\n") + frame(STDOUT, b"more\n")
    assert in_pieces(FrameParser(), data, []) == [
        (STDOUT, b"2025-12-31T22:30:00.000000001Z", b"late\n"),
        (STDOUT, b"2025-12-31T22:30:00.000000001Z", b"more\n"),
    ]


def test_what_the_engine_says_of_itself_is_an_error() -> None:
    data = frame(STDOUT, at(1) + b" one\n") + frame(SYSTEM, b"Error grabbing logs: invalid character\n")
    with pytest.raises(EngineError, match="Error grabbing logs: invalid character"):
        FrameParser().feed(data)


def test_a_frame_of_absurd_length_is_refused() -> None:
    with pytest.raises(EngineError, match="at most"):
        FrameParser().feed(b"\x01\0\0\0\xff\0\0\0")


@given(st.lists(st.integers(0, 60_000), max_size=12))
def test_lines_of_a_terminal(cuts: list[int]) -> None:
    """A long line comes in parts of equal size, and only there a time is one."""
    fake = b"I am " + at(9) + b" no time"
    long = [b"x" * PART_BYTES, b"y" * PART_BYTES, b"z\r\n"]
    data = at(1) + b" " + fake + b"\r\n" + b"".join(at(2) + b" " + part for part in long) + at(3) + b" $ "
    assert in_pieces(TtyParser(), data, cuts) == [
        (STDOUT, at(1), fake + b"\r\n"),
        *((STDOUT, at(2), part) for part in long),
        (STDOUT, at(3), b"$ "),
    ]
