"""Pictures that are held out: never trained, only measured."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

from engine.data.survey import Item
from engine.draws import rng


class Split(NamedTuple):
    """Numbers of pictures (`Item.index`); regularisation is in neither."""

    held_out: frozenset[int]
    trained: frozenset[int]


def held_out(items: Sequence[Item], share: float, seed: int) -> Split:
    """Which training pictures are measured and which are trained.

    Of n pictures the whole part of n x share is held out, at least one where the share is above 0,
    but never all. The draw has a seed of its own: the same pictures are held out whatever the run's.
    """
    pictures = [item.index for item in items if not item.is_reg and item.repeats > 0]
    count = 0
    if share > 0:
        # The share as the decimal that was written: 0.3 of 10 is 3, not a little less.
        count = min(max(1, int(Fraction(str(share)) * len(pictures))), len(pictures) - 1)
    chosen = frozenset(rng(seed, "validation").sample(pictures, max(0, count)))
    return Split(chosen, frozenset(pictures) - chosen)
