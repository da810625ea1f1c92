"""Pictures with their places, and a sample as it is asked for.

Shape letters: C channels, H and W height and width in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from engine.data.buckets import Placement, Size
from engine.data.colour import Colour, random_background
from engine.data.pixels import Loaded, load_pixels
from engine.data.shifts import NO_SHIFT, Shift
from engine.data.survey import Item


@dataclass(frozen=True, slots=True)
class Draw:
    """One sample as it is asked for."""

    index: int
    flipped: bool
    crop: Size
    step: int
    sample: int
    shift: Shift = NO_SHIFT


@dataclass(frozen=True, slots=True)
class Pictures:
    """Pictures and their places, with what turns them into pixels."""

    items: Sequence[Item]
    placements: Sequence[Placement]
    background: Colour | None = (255, 255, 255)
    """Behind transparent pixels; None draws one for each picture, or each draw without a cache."""
    seed: int = 0
    max_megapixels: float = 100.0

    def colour(self, item: Item, *place: int) -> Colour:
        """Background of a picture, or of one draw where `place` is (step, sample)."""
        if self.background is not None:
            return self.background
        # By content, not by number: a picture more in the folder changes no other picture's colour.
        return random_background(self.seed, *(place or (int(item.image.sha256[:12], 16),)))

    def load(self, index: int, crop: Size, flipped: bool, colour: Colour) -> Loaded:
        """Pixels of one picture, and its mask."""
        return load_pixels(
            self.items[index],
            self.placements[index],
            crop=crop,
            flipped=flipped,
            background=colour,
            max_megapixels=self.max_megapixels,
        )
