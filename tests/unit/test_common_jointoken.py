"""Join tokens: the format, and what is said about one that is not."""

import contextlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyswarm.common.errors import InvalidArgument
from pyswarm.common.ids import base36, new_id
from pyswarm.common.jointoken import new_join_token, root_digest, same_token, token_digest
from pyswarm.manager.ca import create_root


def test_a_token_carries_the_digest_of_its_root() -> None:
    root, _ = create_root(new_id())
    token = new_join_token(root)
    assert re.fullmatch(r"SWMTKN-1-[0-9a-z]{50}-[0-9a-z]{25}", token)
    assert token_digest(token) == root_digest(root)


def test_tokens_of_one_root_differ_and_of_two_roots_differ_in_the_digest() -> None:
    (one, _), (two, _) = create_root("a"), create_root("a")
    assert new_join_token(one) != new_join_token(one)
    assert root_digest(one) != root_digest(two)


@pytest.mark.parametrize("cut", [1, 5, 25, 26, 60])
def test_a_truncated_token_is_refused_without_being_repeated(cut: int) -> None:
    root, _ = create_root("a")
    token = new_join_token(root)[:-cut]
    with pytest.raises(InvalidArgument) as refusal:
        token_digest(token)
    assert "\n" not in str(refusal.value)
    assert token[10:] not in str(refusal.value)


@given(st.text(max_size=100))
def test_any_text_is_a_token_or_is_refused(text: str) -> None:
    with contextlib.suppress(InvalidArgument):
        assert len(token_digest(text)) == 50


def test_no_token_equals_the_empty_one() -> None:
    assert not same_token("", "")
    assert same_token("x", "x")
    assert not same_token("x", "y")


@given(st.integers(min_value=0, max_value=2**128 - 1))
def test_base36_keeps_every_number_in_25_characters(number: int) -> None:
    text = base36(number, 25)
    assert len(text) == 25
    assert int(text, 36) == number
