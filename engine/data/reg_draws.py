"""Which regularisation picture is drawn when, and at which resolution.

One endless row of shuffled passes over all pictures, so that each is used before any comes again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from math import gcd

from engine.draws import rng


class RegDraws:
    """The row of draws. Placements are numbers; a picture has one for each of its resolutions."""

    def __init__(
        self,
        places: Sequence[tuple[int, int, int, int]],
        train_samples: Mapping[int, int],
        seed: int,
    ) -> None:
        """`places` are (placement, picture, resolution, repeats) of what may be drawn.

        `train_samples` counts the training samples of an epoch at each resolution, numbered from
        the smallest: the draws are spread over them in the same proportion.
        """
        self._seed = seed
        self._at: dict[int, dict[int, int]] = {}
        uses: dict[int, int] = {}
        for placement, picture, resolution, repeats in places:
            self._at.setdefault(picture, {})[resolution] = placement
            uses[picture] = repeats
        # Equal repeats are equal weights: each picture once before any comes again.
        common = gcd(*uses.values()) or 1
        self._pass = tuple(picture for picture, each in uses.items() for _ in range(each // common))
        self._cycle = spread(train_samples)
        self._shuffled = lru_cache(maxsize=4)(self._shuffled_pass)

    @property
    def pictures(self) -> frozenset[int]:
        """Pictures that may be drawn."""
        return frozenset(self._at)

    def drawn(self, start: int, stop: int) -> tuple[tuple[int, int], ...]:
        """The draws `start` to `stop` of the row as (picture, placement)."""
        length = len(self._pass)
        if not length or stop <= start:
            return ()
        pictures: list[int] = []
        for number in range(start // length, (stop - 1) // length + 1):
            first = number * length
            pictures += self._shuffled(number)[max(0, start - first) : stop - first]
        return tuple(
            (picture, self._placement(picture, self._cycle[place % len(self._cycle)]))
            for place, picture in enumerate(pictures, start)
        )

    def _placement(self, picture: int, resolution: int) -> int:
        """At the resolution; where the picture is too small for it, at its largest below."""
        places = self._at[picture]
        below = [each for each in places if each <= resolution]
        return places[max(below) if below else min(places)]

    def _shuffled_pass(self, number: int) -> tuple[int, ...]:
        order = list(self._pass)
        rng(self._seed, "reg", number).shuffle(order)
        return tuple(order)


def spread(counts: Mapping[int, int]) -> tuple[int, ...]:
    """A cycle in which each key comes in proportion to its count, as evenly as can be."""
    wanted = {key: count for key, count in counts.items() if count > 0}
    common = gcd(*wanted.values()) or 1
    places = [
        ((2 * turn + 1) * common / (2 * count), key)
        for key, count in wanted.items()
        for turn in range(count // common)
    ]
    return tuple(key for _, key in sorted(places))
