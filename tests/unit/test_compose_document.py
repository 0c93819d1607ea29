"""YAML of stack files: what plain text means, where values stand, and what is refused with file and line."""

import math
from typing import Any

import pytest

from pyswarm.cli.compose.document import MAX_FILE_BYTES, parse
from pyswarm.cli.compose.scalars import as_text, resolve
from pyswarm.cli.compose.shapes import plain
from pyswarm.cli.errors import CliError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None), ("~", None), ("null", None), ("true", True), ("False", False), ("yes", "yes"), ("on", "on"),
        ("12", 12), ("+12", 12), ("-3", -3), ("0777", 511), ("0o17", 15), ("0x1F", 31), ("0b101", 5),
        ("1_000", 1000), ("08", 8.0), ("1.50", 1.5), ("1e3", 1000.0), (".5", 0.5), ("1.", 1.0), (".inf", math.inf),
        ("-.INF", -math.inf), ("12:30", "12:30"), ("22:22:22", "22:22:22"), ("2020-01-01", "2020-01-01"),
        ("1.2.3", "1.2.3"), ("0x", "0x"), ("-", "-"), ("_1", "_1"), ("1a", "1a"), ("0b", "0b"), (".", "."),
    ],
)  # fmt: skip
def test_plain_text_means_what_it_means_to_docker(text: str, value: Any) -> None:
    assert resolve(text) == value
    assert type(resolve(text)) is type(value)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.5, "1.5"), (1000.0, "1000"), (1e21, "1e+21"), (1e20, "100000000000000000000"), (1e-5, "1e-05"),
        (0.0001, "0.0001"), (1.2345e30, "1.2345e+30"), (math.inf, "+Inf"), (True, "true"), (7, "7"), ("a", "a"),
    ],
)  # fmt: skip
def test_numbers_are_written_as_go_writes_them(value: Any, text: str) -> None:
    assert as_text(value) == text


def test_values_know_their_line() -> None:
    file = parse(b"a:\n  b:\n    - x\n    - y: 1\n\n  c: >\n    long\n    text\n", "f.yml")

    def line(*keys: str) -> int:
        found = file.get(*keys)
        assert found is not None
        return found.line

    assert [line("a"), line("a", "b"), line("a", "c")] == [1, 2, 6]
    items = file.get("a", "b")
    assert items is not None
    assert [item.line for item in items.data] == [3, 4]


def test_carriage_returns_and_a_byte_order_mark_are_no_content() -> None:
    file = parse(b"\xef\xbb\xbfa: 1\r\nb:\r\n  - x\r\n", "f.yml")

    assert plain(file) == {"a": 1, "b": ["x"]}
    b = file.get("b")
    assert b is not None
    assert b.line == 2


def test_anchors_aliases_and_merges() -> None:
    file = parse(
        b"base: &base {image: a, tty: true}\nother: &other {image: b, user: u}\n"
        b"one:\n  tty: false\n  <<: *base\ntwo:\n  <<: [*other, *base]\nthree: *base\nquoted: {'<<': 1}\n",
        "f.yml",
    )

    assert plain(file)["one"] == {"image": "a", "tty": False}
    assert plain(file)["two"] == {"image": "b", "user": "u", "tty": True}
    assert plain(file)["three"] == {"image": "a", "tty": True}
    assert plain(file)["quoted"] == {"<<": 1}


def test_explicit_tags() -> None:
    assert plain(parse(b"a: !!str 12\nb: !!int '12'\nc: !!float 1.5\nd: !!map {}\ne: '12'\n", "f")) == {
        "a": "12", "b": 12, "c": 1.5, "d": {}, "e": "12",
    }  # fmt: skip


_LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n" for before, name in ("ab", "bc", "cd", "de", "ef")
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "f.yml: the file is empty"),
        ("\n# only a comment\n", "f.yml: the file is empty"),
        ("null\n", "f.yml: the file is empty"),
        ("- a\n", "f.yml:1: the top level must be a mapping, such as services: {...}"),
        ("just text\n", "f.yml:1: the top level must be a mapping, such as services: {...}"),
        ("a: 1\nb: [1\nc: 2\n", "f.yml:3: this is not YAML: expected ',' or ']', but got ':'"),
        ("a: b: c\n", "f.yml:1: this is not YAML: mapping values are not allowed here"),
        ("a:\n\tb: 1\n", "f.yml:2: this is not YAML: a tab indents the line; use spaces"),
        ("a:\n  b: 1\n\tc: 2\n", "f.yml:3: this is not YAML: a tab indents the line; use spaces"),
        ("a: 1\nb: 2\na: 3\n", "f.yml:3: a: this key is given twice, first in line 1"),
        ("a:\n  b: 1\n  c: 2\n  b: 3\n", "f.yml:4: a.b: this key is given twice, first in line 2"),
        ("a: 1\n---\nb: 2\n", "f.yml:2: a second document begins here; a stack file is a single one"),
        ("a: *nope\n", "f.yml:1: this is not YAML: found undefined alias 'nope'"),
        ("a: &a\n  b: *a\n", "f.yml:2: a.b: an alias refers to what it stands in, which would never end"),
        ("a: &a\n  <<: *a\n", "f.yml:2: a.<<: an alias refers to what it stands in, which would never end"),
        ("a: &a [1, *a]\n", "f.yml:1: a.1: an alias refers to what it stands in, which would never end"),
        ("a:\n  <<: text\n", "f.yml:2: a.<<: only mappings can be merged"),
        ("a: !secret x\n", "f.yml:1: a: the tag !secret is not supported here"),
        ("a: !!int x\n", "f.yml:1: a: the tag !!int is not supported here"),
        ("a: !!python/object:os.system []\n", "f.yml:1: a: the tag !!python/object:os.system is not supported"),
        ("a: {1: x}\n", "f.yml:1: a.1: a key must be text: put it in quotes"),
        ("a: {[x]: y}\n", "f.yml:1: a: a key must be plain text"),
        ("a: 1\nb: \x01\n", "f.yml:2: this is not YAML: the character U+0001 is not allowed"),
        ("[" * 5000, "f.yml: this is nested too deeply"),
        (_LAUGHS, "f.yml: there are more than 200000 values, aliases followed"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(text: str, message: str) -> None:
    with pytest.raises(CliError) as caught:
        parse(text.encode(), "f.yml")
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_other_encodings_and_sizes_are_refused() -> None:
    with pytest.raises(CliError, match=r"^f.yml:2: this is not YAML: the text is not encoded in UTF-8$"):
        parse(b"a: 1\nb: \xff\n", "f.yml")
    with pytest.raises(CliError, match=r"^f.yml: the file has more than 4 MiB$"):
        parse(b"#" * (MAX_FILE_BYTES + 1), "f.yml")
