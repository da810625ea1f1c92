"""Repeats proposed for several concepts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from engine.data.balance import balance, proposed_repeats


def test_the_example_of_guide_001() -> None:
    # 51 x 10 = 510; 43 images -> 12; 32 -> 16; halved while all are even.
    assert proposed_repeats([51, 43, 32], [10, 1, 1]) == (5, 6, 8)


def test_at_least_one_and_nothing_for_nothing() -> None:
    assert proposed_repeats([100, 300], [1, 1]) == (3, 1)
    assert proposed_repeats([], []) == ()


@given(st.lists(st.tuples(st.integers(1, 500), st.integers(0, 50)), min_size=1, max_size=8))
def test_proposals_are_positive_and_not_all_even(concepts: list[tuple[int, int]]) -> None:
    found = proposed_repeats([count for count, _ in concepts], [uses for _, uses in concepts])
    assert all(number >= 1 for number in found)
    assert any(number % 2 for number in found)


def test_shares_before_and_after_and_the_note_on_few_pictures() -> None:
    rows = balance([("a", 51, 10), ("b", 43, 10), ("c", 20, 10)])
    assert [row.proposed for row in rows] == [5, 6, 13]
    assert abs(sum(row.share for row in rows) - 1) < 1e-9
    spread = [row.proposed_share for row in rows]
    assert max(spread) - min(spread) < 0.01
    assert [row.small for row in rows] == [False, False, True]
