"""Colour augmentation: a little of the hue or of the brightness curve is moved in a third of the draws.

Shape letters: C channels, H and W height and width in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.draws import rng

CHANCE = 0.33
MOST_HUE = 8 / 180
"""Largest turn of the colour circle (1 is the whole circle): 16 degrees."""
GAMMAS = (0.95, 1.05)


@dataclass(frozen=True, slots=True)
class Shift:
    """What one draw does to the colours."""

    hue: float = 0.0
    """Turn of the colour circle, 1 being the whole."""
    gamma: float = 1.0
    """Exponent on values of 0..1."""

    def __bool__(self) -> bool:
        return self != Shift()


NO_SHIFT = Shift()


def draw_shift(*, seed: int, step: int, sample: int) -> Shift:
    """With a chance of 0.33 a hue or a gamma, each half of the times."""
    draw = rng(seed, "colour", step, sample)
    if draw.random() >= CHANCE:
        return NO_SHIFT
    if draw.random() < 0.5:
        return Shift(hue=draw.uniform(-MOST_HUE, MOST_HUE))
    return Shift(gamma=draw.uniform(*GAMMAS))


def shifted(pixels_CHW: Tensor, shift: Shift) -> Tensor:
    """Pixels (3, H, W) in -1..1 with the shift, in -1..1; values are worked on as 0..1."""
    if not shift:
        return pixels_CHW
    values_CHW = (pixels_CHW + 1) / 2
    if shift.hue:
        values_CHW = _turned(values_CHW, shift.hue)
    if shift.gamma != 1:
        values_CHW = values_CHW**shift.gamma
    return values_CHW * 2 - 1


def _turned(values_CHW: Tensor, turn: float) -> Tensor:
    """The hue of the HSV model turned; saturation and value stay."""
    red, green, blue = values_CHW
    value, top = values_CHW.max(dim=0)
    chroma = value - values_CHW.min(dim=0).values
    span = torch.where(chroma > 0, chroma, 1)
    # Sixths of the circle from red, by which channel is the largest.
    sixths = torch.stack([(green - blue) / span, (blue - red) / span + 2, (red - green) / span + 4])
    hue = sixths.gather(0, top.unsqueeze(0))[0] + 6 * turn
    # A channel falls from the value by the chroma, as far as the hue is from it.
    away = torch.stack([torch.remainder(offset + hue, 6) for offset in (5, 3, 1)])
    fall = torch.minimum(away, 4 - away).clamp(0, 1)
    return value - chroma * fall
