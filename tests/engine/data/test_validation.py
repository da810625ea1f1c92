"""Held-out pictures: how many, which, and that no epoch trains one."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.data.images import ImageFact
from engine.data.survey import Item
from engine.data.validation import held_out


def items_of(count: int, reg: int = 0, repeats: int = 1) -> list[Item]:
    image = ImageFact(Path("a.png"), 64, 64, 1)
    return [
        Item(n, image, "x", False, "x", "c", repeats, n >= count, False) for n in range(count + reg)
    ]


@pytest.mark.parametrize(
    ("count", "share", "held"),
    [(10, 0.3, 3), (10, 0.29, 2), (7, 0.1, 1), (50, 0.1, 5), (3, 0.5, 1), (10, 0, 0), (1, 0.5, 0)],
)
def test_the_whole_part_of_n_times_share_and_at_least_one(count, share, held) -> None:
    split = held_out(items_of(count, reg=4), share, seed=0)
    assert len(split.held_out) == held
    assert split.held_out | split.trained == set(range(count))  # Regularisation is in neither.
    assert not split.held_out & split.trained


def test_the_seed_chooses_and_nothing_else() -> None:
    chosen = {held_out(items_of(30), 0.2, seed).held_out for seed in range(5)}
    assert len(chosen) == 5
    assert held_out(items_of(30), 0.2, 3) == held_out(items_of(30, reg=9), 0.2, 3)


def test_folders_that_are_switched_off_are_not_held_out() -> None:
    off = items_of(10, repeats=0)
    assert held_out(off, 0.5, 1) == (frozenset(), frozenset())
