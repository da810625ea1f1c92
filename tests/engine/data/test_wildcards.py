"""Wildcards: groups, nesting, escapes, and what does not pair."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.data.wildcards import (
    MOST_NESTED,
    WildcardError,
    count_wildcards,
    draw_wildcards,
    every_wildcard,
    longest_wildcard,
    parse_wildcards,
    wildcard_parts,
)


def every(text: str) -> list[str]:
    return sorted(every_wildcard(parse_wildcards(text)))


@pytest.mark.parametrize(
    ("text", "texts"),
    [
        ("plain", ["plain"]),
        ("a {red|blue} dog", ["a blue dog", "a red dog"]),
        ("{a|b}{c|d}", ["ac", "ad", "bc", "bd"]),
        ("{a|{b|c} d}", ["a", "b d", "c d"]),
        ("{{a|b}|c}", ["a", "b", "c"]),
        ("{only}", ["only"]),
        ("dog{, running|}", ["dog", "dog, running"]),
        (r"\{a\|b\} {c\}|d}", ["{a|b} c}", "{a|b} d"]),
        ("a|b", ["a|b"]),
        (r"\(x\) \\", [r"\(x\) \\"]),
    ],
)
def test_every_text_of_a_caption(text: str, texts: list[str]) -> None:
    assert every(text) == texts
    assert count_wildcards(parse_wildcards(text)) == len(texts)


@pytest.mark.parametrize("text", ["{a|b", "a}", "{a|{b}", "x } {y|z}", "{" * (MOST_NESTED + 1)])
def test_braces_that_do_not_pair_are_told_and_taken_as_they_stand(text: str) -> None:
    with pytest.raises(WildcardError, match=r"character|more than"):
        parse_wildcards(text)
    assert draw_wildcards(wildcard_parts(text), random.Random(1)) == text


def test_a_huge_caption_of_braces_is_read_in_time() -> None:
    assert draw_wildcards(wildcard_parts("{" * 60_000), random.Random(1)) == "{" * 60_000
    assert count_wildcards(wildcard_parts("{a|b}" * 500)) == 2**500


def test_alternatives_are_equally_likely() -> None:
    parts = parse_wildcards("{a|b|c}")
    counts = Counter(draw_wildcards(parts, random.Random(n)) for n in range(3000))
    assert all(850 < counts[text] < 1150 for text in "abc")


def test_the_longest_text_is_made_of_the_longest_alternatives() -> None:
    assert longest_wildcard(parse_wildcards("{a|bbb {c|dd}} {e|}")) == "bbb dd e"


@given(st.text("{}|\\ab ", max_size=14), st.integers(0, 9))
def test_every_draw_is_among_the_texts(text: str, seed: int) -> None:
    parts = wildcard_parts(text)
    assert draw_wildcards(parts, random.Random(seed)) in set(every_wildcard(parts))
