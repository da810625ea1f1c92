"""Weights in captions: the usual grammar, and no text that breaks it."""

from __future__ import annotations

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from engine.models.weighted_text import parse_weighted


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("a cat", [("a cat", 1.0)]),
        ("", [("", 1.0)]),
        ("a (red:1.3) cat", [("a ", 1.0), ("red", 1.3), (" cat", 1.0)]),
        ("(cat)", [("cat", 1.1)]),
        ("[cat]", [("cat", 1 / 1.1)]),
        ("((cat))", [("cat", 1.1 * 1.1)]),
        ("(a (b:2) c:0.5)", [("a ", 0.5), ("b", 1.0), (" c", 0.5)]),
        ("(cat: 1.5 )", [("cat", 1.5)]),
        ("(cat:0)", [("cat", 0.0)]),
        ("(cat:-0.5)", [("cat", -0.5)]),
        ("(cat:.5)", [("cat", 0.5)]),
        ("(cat:1e9)", [("cat:1e9", 1.1)]),
        ("(time 12:30 now)", [("time 12:30 now", 1.1)]),
        ("[cat:1.3]", [("cat:1.3", 1 / 1.1)]),
        (r"saber \(fate\)", [("saber (fate)", 1.0)]),
        (r"(saber \(fate\):1.2)", [("saber (fate)", 1.2)]),
        (r"a\\b", [(r"a\b", 1.0)]),
        (r"a\b", [(r"a\b", 1.0)]),
        (":) or (:", [(":) or (:", 1.0)]),
        ("((cat:1.3)", [("(", 1.0), ("cat", 1.3)]),
        ("a) b (c)", [("a) b ", 1.0), ("c", 1.1)]),
        ("(a [b) c]", [("a [b", 1.1), (" c]", 1.0)]),
        ("(a)(b)", [("ab", 1.1)]),
    ],
)
def test_pieces_and_weights(text: str, pieces: list[tuple[str, float]]) -> None:
    found = parse_weighted(text)
    assert [piece for piece, _ in found] == [piece for piece, _ in pieces]
    assert [weight for _, weight in found] == pytest.approx([weight for _, weight in pieces])


@given(st.text(alphabet="ab1.:() []\\-", max_size=60))
@example("(" * 3000 + "a" + ")" * 3000)
@example("[(" * 2000 + ")]" * 1000)
@example("(a:" + "9" * 500 + ")")
def test_any_text_is_read(text: str) -> None:
    """Whatever the brackets: finite weights, no letter lost or invented, nothing raised."""
    found = parse_weighted(text)
    assert found and all(math.isfinite(weight) and abs(weight) <= 100 for _, weight in found)
    letters = "".join(piece for piece, _ in found)
    assert [x for x in letters if x in "ab"] == [x for x in text if x in "ab"]
    assert len(letters) <= len(text)


@given(st.text(alphabet=st.characters(exclude_characters="()[]\\"), max_size=40))
def test_text_without_brackets_stays_as_it_is(text: str) -> None:
    assert parse_weighted(text) == [(text, 1.0)]


@given(st.text(alphabet="ab ()[]\\:1", max_size=40))
def test_what_is_escaped_is_text(text: str) -> None:
    escaped = "".join("\\" + x if x in "()[]\\" else x for x in text)
    assert parse_weighted(escaped) == [(text, 1.0)]
