"""Holes for inpainting bases: what of a picture is hidden, and the picture with it blanked.

Shape letters: C channels, H and W height and width (of pixels or latents).
"""

from __future__ import annotations

import random
from typing import NamedTuple

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from engine.data.encoding import Encoder
from engine.data.latents import LatentSource
from engine.data.pictures import Draw, Pictures
from engine.data.pixels import Loaded
from engine.draws import generator, rng

WHOLE = 0.25
"""Share of draws that hide everything, as the inpainting bases were trained with."""
SHAPES = ("rectangles", "strokes")
MOST_SHAPES = 3
LEAST_SIDE, MOST_SIDE = 0.15, 0.7
"""Sides of rectangles, as shares of the picture's."""
LEAST_PEN, MOST_PEN = 0.06, 0.2
"""Thickness of strokes, as shares of the picture's shorter side."""
TURNS = (3, 8)
"""Corners of a stroke."""


class Hole(NamedTuple):
    """What is hidden of one sample."""

    mask_1HW: Tensor
    """1 is hidden, else 0; at latent size."""
    latents_CHW: Tensor
    """Of the picture with the hole blanked, unscaled."""


class Blanked(NamedTuple):
    """A picture with a hole, before the VAE."""

    pixels_CHW: Tensor
    mask_1HW: Tensor


def draw_hole(width: int, height: int, *, seed: int, step: int, sample: int) -> Tensor:
    """A hole in a picture of this size, shape (1, height, width): 1 is hidden, else 0."""
    draw = rng(seed, "hole", step, sample)
    if draw.random() < WHOLE:
        return torch.ones(1, height, width)
    image = Image.new("L", (width, height))
    shape = draw.choice(SHAPES)
    for _ in range(draw.randint(1, MOST_SHAPES)):
        if shape == "rectangles":
            _rectangle(image, draw)
        else:
            _stroke(image, draw)
    flat = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return flat.view(1, height, width).float().div(255)


def _rectangle(image: Image.Image, draw: random.Random) -> None:
    width, height = (
        max(8, round(side * draw.uniform(LEAST_SIDE, MOST_SIDE))) for side in image.size
    )
    left = draw.randint(0, max(0, image.width - width))
    top = draw.randint(0, max(0, image.height - height))
    ImageDraw.Draw(image).rectangle((left, top, left + width - 1, top + height - 1), fill=255)


def _stroke(image: Image.Image, draw: random.Random) -> None:
    """A line with corners anywhere in the picture, its ends and corners round."""
    pen = max(8, round(min(image.size) * draw.uniform(LEAST_PEN, MOST_PEN)))
    corners = [
        (draw.randrange(image.width), draw.randrange(image.height))
        for _ in range(draw.randint(*TURNS))
    ]
    brush = ImageDraw.Draw(image)
    brush.line(corners, fill=255, width=pen)
    for across, down in corners:
        half = pen // 2
        brush.ellipse((across - half, down - half, across + half, down + half), fill=255)


def blanked(pixels_CHW: Tensor, mask_1HW: Tensor) -> Tensor:
    """Pixels in -1..1 with the hole in middle grey, which is 0."""
    return pixels_CHW * (mask_1HW < 0.5)


class Holes:
    """Makes the holes of samples. The VAE runs at each draw: no two draws hide the same."""

    def __init__(self, pictures: Pictures, latents: LatentSource, encoder: Encoder) -> None:
        self._pictures = pictures
        self._latents = latents
        self._encoder = encoder

    def prepare(self, draw: Draw) -> Blanked:
        """What can be done ahead, in any thread: the pixels with the hole."""
        pixels_CHW = self._latents.pixels(draw)
        _, height, width = pixels_CHW.shape
        seed = self._pictures.seed
        mask_1HW = draw_hole(width, height, seed=seed, step=draw.step, sample=draw.sample)
        return Blanked(blanked(pixels_CHW, mask_1HW), mask_1HW)

    def finish(self, draw: Draw, prepared: Blanked) -> Hole:
        """Encode the pixels, and bring the mask to the size of the latents."""
        item = self._pictures.items[draw.index]
        encoded = self._encoder.encoded([item], [Loaded(prepared.pixels_CHW)])[0]
        source = generator(self._pictures.seed, "hole latent", draw.step, draw.sample)
        mean_CHW = encoded.mean_CHW
        latents_CHW = mean_CHW + encoded.std_CHW * torch.randn(mean_CHW.shape, generator=source)
        # The nearest pixel decides, as when such a base paints.
        mask_1HW = torch.nn.functional.interpolate(
            prepared.mask_1HW.unsqueeze(0), size=mean_CHW.shape[1:], mode="nearest"
        )[0]
        return Hole(mask_1HW, latents_CHW)
