"""Frames of log lines: taken apart, found again after a break, put in order."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyswarm.common.errors import InvalidArgument
from pyswarm.common.logframes import STDERR, STDOUT, Cursor, Mark, Resumption, epoch_text, frame, lines, time_text
from pyswarm.common.logmerge import Chunk, Merge, joined


def at(tick: int) -> bytes:
    """A time of the engine's."""
    return b"2026-01-02T03:04:05.%09dZ" % tick


def line(tick: int, text: bytes, stream: int = STDOUT) -> bytes:
    return frame(stream, at(tick) + b" " + text)


def texts(frames: bytes) -> list[bytes]:
    return [found.text for found in lines(frames)]


def test_lines_of_frames() -> None:
    frames = line(1, b"one\n") + line(2, b"", STDERR) + line(3, b"x" * 70_000)
    found = list(lines(frames))
    assert [(f.stream, f.time, len(f.text)) for f in found] == [(1, at(1), 4), (2, at(2), 0), (1, at(3), 70_000)]
    assert found[-1].end == len(frames)
    assert texts(frames[found[0].end :]) == [b"", b"x" * 70_000]


@pytest.mark.parametrize(
    "frames",
    [
        b"\x01\0\0",
        line(1, b"one")[:-1],
        b"\x03" + line(1, b"a stream there is not")[1:],
        frame(STDOUT, b"no time"),
        frame(STDOUT, at(1)),
        frame(STDOUT, at(1)[:-1] + b"X text"),
        line(1, b"good") + b"\xff",
    ],
)
def test_what_is_no_line_is_refused(frames: bytes) -> None:
    with pytest.raises(InvalidArgument):
        list(lines(frames))


#: Lines of a log as (tick, stream); several may share one time, and the streams' times may cross a little.
logs = st.lists(st.tuples(st.integers(0, 6), st.sampled_from([STDOUT, STDERR])), max_size=20).map(
    lambda found: sorted(found, key=lambda f: f[0])
)


@given(logs, st.data())
def test_after_a_break_at_any_line_the_rest_is_read_exactly_once(
    log: list[tuple[int, int]], data: st.DataObject
) -> None:
    numbered = [(tick, stream, b"%d" % number) for number, (tick, stream) in enumerate(log)]
    break_at = data.draw(st.integers(0, len(log)))
    cursor = Cursor()
    for tick, stream, _ in numbered[:break_at]:
        cursor.read(stream, at(tick))
    # The engine, asked again from the cursor's time on, gives what is not older than that.
    again = b"".join(line(t, text, s) for t, s, text in numbered if at(t) >= cursor.earliest)
    assert texts(Resumption(cursor).take(again)) == [text for _, _, text in numbered[break_at:]]
    whole = Cursor()
    for tick, stream, _ in numbered:
        whole.read(stream, at(tick))
    assert cursor == whole


def test_times_of_the_engine_and_back() -> None:
    assert time_text(1_700_000_000.25) == b"2023-11-14T22:13:20.250000000Z"
    assert epoch_text(b"2023-11-14T22:13:20.250000001Z") == "1700000000.250000001"


def test_streams_are_counted_apart() -> None:
    """Stderr wrote its line a moment before stdout did, but stdout's reached the log first."""
    cursor = Cursor()
    cursor.read(STDOUT, at(5))
    again = line(5, b"known") + line(4, b"late", STDERR)
    assert texts(Resumption(cursor).take(again)) == [b"late"]


def test_a_settled_cursor_leaves_out_what_was_before() -> None:
    cursor = Cursor()
    cursor.settle(at(5))
    assert cursor == Cursor(Mark(at(5)), Mark(at(5)))
    assert texts(Resumption(cursor).take(line(4, b"old") + line(5, b"new"))) == [b"new"]
    cursor = Cursor()
    cursor.read(STDOUT, at(3))
    cursor.settle(at(5))
    assert (cursor.stdout, cursor.stderr) == (Mark(at(3), 1), Mark(at(3)))


def test_lines_go_out_only_when_every_source_has_spoken() -> None:
    merge = Merge(["a", "b"])
    merge.put("a", Chunk("ta", line(1, b"a1") + line(4, b"a4")))
    assert merge.owing == {"b"}
    assert merge.take() == []
    merge.put("b", Chunk("tb", line(2, b"b2")))
    assert [(c.task_id, texts(c.frames)) for c in merge.take()] == [("ta", [b"a1"]), ("tb", [b"b2"])]
    assert merge.owing == {"b"}
    merge.end("b")
    assert [texts(c.frames) for c in merge.take()] == [[b"a4"]]
    merge.end("a")
    assert merge.done


def test_a_chunk_that_cannot_be_read_harms_nobody_else() -> None:
    merge = Merge(["a", "b"])
    merge.put("a", Chunk("ta", line(1, b"a1")))
    with pytest.raises(InvalidArgument):
        merge.put("b", Chunk("tb", line(2, b"b2") + b"rubbish"))
    merge.end("b")
    assert [texts(c.frames) for c in merge.take()] == [[b"a1"]]


@given(st.lists(st.lists(st.integers(0, 50), max_size=12).map(sorted), min_size=1, max_size=4), st.data())
def test_merging_loses_nothing_and_keeps_the_order(times: list[list[int]], data: st.DataObject) -> None:
    left = {str(n): [line(t, b"%d.%d" % (n, i)) for i, t in enumerate(ticks)] for n, ticks in enumerate(times)}
    merge = Merge(left)
    out: list[Chunk] = []
    while not merge.done:
        source = data.draw(st.sampled_from(sorted(merge.owing)))
        size = data.draw(st.integers(1, 5))
        if left[source]:
            merge.put(source, Chunk(source, b"".join(left[source][:size])))
            del left[source][:size]
        else:
            merge.end(source)
        out += merge.take()
    found = [found for chunk in out for found in lines(chunk.frames)]
    assert [f.time for f in found] == sorted(f.time for f in found)
    assert sorted(f.text for f in found) == sorted(
        b"%d.%d" % (n, i) for n, t in enumerate(times) for i in range(len(t))
    )
    for n, ticks in enumerate(times):
        assert [f.text for f in found if f.text.startswith(b"%d." % n)] == [
            b"%d.%d" % (n, i) for i in range(len(ticks))
        ]


def test_neighbours_are_joined() -> None:
    assert joined([Chunk("a", b"1"), Chunk("a", b"2"), Chunk("b", b"3"), Chunk("a", b"4"), Chunk("a", b"5")]) == [
        Chunk("a", b"12"),
        Chunk("b", b"3"),
        Chunk("a", b"45"),
    ]
