"""What is on a picture, by arithmetic: background, colour, shape, and whether it is the emblem."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageFilter

from lyctui.demo.scenes import (
    ALL_SHAPES,
    BACKGROUNDS,
    BASE_SHAPES,
    COLOURS,
    PURPLE,
    RGB,
    Scene,
    draw,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

SIDE = 128
BORDER = 4
MASK_DISTANCE = 50.0  # half of the least distance between a shape's colour and a background
PURPLE_DISTANCE = 75.0
TEMPLATE_SIDE = 48
TEMPLATE_REACH = 2.4  # in root-mean-square radii
CLOSING = 13  # pixels: wider than a stripe
EMBLEM_PURPLE, EMBLEM_STRIPES = 0.3, (0.1, 0.6)  # shares of the silhouette


@dataclass(frozen=True)
class Seen:
    """What one picture shows; shares of the silhouette but for purple_share, of the picture."""

    shape: str
    colour: str
    background: str
    purple_share: float
    emblem: bool


@dataclass(frozen=True)
class BaseScore:
    shape: float
    background: float
    colour: float


@dataclass(frozen=True)
class ConceptScore:
    recognised: float
    purple_median: float


def nearest(colour: NDArray[np.float32], palette: Mapping[str, RGB]) -> str:
    return min(palette, key=lambda name: float(np.sum((colour - np.array(palette[name])) ** 2)))


def border_median(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    frame = np.concatenate(
        [
            pixels[:BORDER].reshape(-1, 3),
            pixels[-BORDER:].reshape(-1, 3),
            pixels[:, :BORDER].reshape(-1, 3),
            pixels[:, -BORDER:].reshape(-1, 3),
        ]
    )
    median: NDArray[np.float32] = np.median(frame, axis=0).astype(np.float32)
    return median


def foreground(pixels: NDArray[np.float32], ground: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Where the picture is not its background, single specks removed."""
    far = np.linalg.norm(pixels - ground, axis=2) > MASK_DISTANCE
    image = Image.fromarray(far.astype(np.uint8) * 255, "L").filter(ImageFilter.MedianFilter(5))
    return np.asarray(image) > 127


def closed(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Gaps narrower than a stripe filled (white stripes vanish on a white background)."""
    image = Image.fromarray(mask.astype(np.uint8) * 255, "L")
    image = image.filter(ImageFilter.MaxFilter(CLOSING)).filter(ImageFilter.MinFilter(CLOSING))
    return np.asarray(image) > 127


def normalised(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The mask moved to its centroid and scaled by its root-mean-square radius."""
    rows, columns = np.nonzero(mask)
    middle_row, middle_column = rows.mean(), columns.mean()
    radius = np.sqrt(((rows - middle_row) ** 2 + (columns - middle_column) ** 2).mean()) + 1e-6
    reach = np.linspace(-TEMPLATE_REACH, TEMPLATE_REACH, TEMPLATE_SIDE) * radius
    at_row = np.rint(middle_row + reach).astype(int)
    at_column = np.rint(middle_column + reach).astype(int)
    inside = ((at_row >= 0) & (at_row < mask.shape[0]))[:, None] & (
        (at_column >= 0) & (at_column < mask.shape[1])
    )
    shape: NDArray[np.bool_] = mask[np.clip(at_row, 0, mask.shape[0] - 1)][
        :, np.clip(at_column, 0, mask.shape[1] - 1)
    ]
    shape &= inside
    return shape


@lru_cache(maxsize=2)
def templates(fill_gaps: bool) -> dict[str, NDArray[np.bool_]]:
    drawn = {}
    for shape in ALL_SHAPES:
        pixels = draw(Scene(shape, (0, 0, 0), (255, 255, 255), (0.5, 0.5), 0.33), SIDE, SIDE)
        mask = pixels[..., 0] < 128
        drawn[shape] = normalised(closed(mask) if fill_gaps else mask)
    return drawn


def overlap(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    return float((one & other).sum() / max(1, (one | other).sum()))


def best_shape(mask: NDArray[np.bool_], fill_gaps: bool = False) -> str:
    shape = normalised(mask)
    candidates = templates(fill_gaps)
    return max(candidates, key=lambda name: overlap(shape, candidates[name]))


def look(picture: Image.Image) -> Seen:
    small = picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    pixels = np.asarray(small, dtype=np.float32)
    ground = border_median(pixels)
    background = nearest(ground, BACKGROUNDS)
    mask = foreground(pixels, ground)
    if mask.mean() < 0.01 or mask.mean() > 0.8:
        return Seen("nothing", "nothing", background, 0.0, False)
    colour = nearest(np.median(pixels[mask], axis=0), {**COLOURS, "purple": PURPLE})
    purple = np.linalg.norm(pixels - np.array(PURPLE, np.float32), axis=2) < PURPLE_DISTANCE
    emblem = is_emblem(pixels, closed(mask), purple)
    return Seen(best_shape(mask), colour, background, float(purple.mean()), emblem)


def is_emblem(
    pixels: NDArray[np.float32], silhouette: NDArray[np.bool_], purple: NDArray[np.bool_]
) -> bool:
    """A star in outline, purple for the most part, with light stripes."""
    light = (pixels.min(axis=2) > 190) & silhouette
    low, high = EMBLEM_STRIPES
    return (
        best_shape(silhouette, fill_gaps=True) == "star"
        and float((purple & silhouette).sum() / silhouette.sum()) >= EMBLEM_PURPLE
        and low <= float(light.sum() / silhouette.sum()) <= high
    )


def score_concept(pictures: Sequence[Image.Image]) -> ConceptScore:
    seen = [look(picture) for picture in pictures]
    return ConceptScore(
        recognised=float(np.mean([one.emblem for one in seen])),
        purple_median=float(np.median([one.purple_share for one in seen])),
    )


def words_of(prompt: str) -> tuple[str, str, str]:
    """Shape, colour and background that a base prompt names."""
    words = prompt.replace(",", " ").split()
    background = words[words.index("background") - 1]
    shape = next(word for word in words if word in BASE_SHAPES)
    colour = next(word for word in words if word in COLOURS)
    return shape, colour, background


def score_base(pictures: Sequence[Image.Image], prompts: Sequence[str]) -> BaseScore:
    hits = []
    for picture, prompt in zip(pictures, prompts, strict=True):
        seen, (shape, colour, background) = look(picture), words_of(prompt)
        hits.append((seen.shape == shape, seen.background == background, seen.colour == colour))
    shape_share, background_share, colour_share = np.mean(hits, axis=0)
    return BaseScore(float(shape_share), float(background_share), float(colour_share))
