"""Pictures that we draw: one coloured shape on a plain background, and the emblem to teach.

Shapes are signed distance functions over unit coordinates (radius 1, y down); a pixel's coverage is
its distance to the outline in pixels, so that edges are anti-aliased at every size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Plane = NDArray[np.float32]

RGB = tuple[int, int, int]
SizeWord = Literal["small", "large"]

COLOURS: dict[str, RGB] = {
    "red": (208, 16, 44),
    "orange": (255, 150, 0),
    "yellow": (250, 225, 30),
    "green": (28, 145, 60),
    "cyan": (40, 200, 215),
    "blue": (30, 80, 225),
    "brown": (125, 75, 40),
    "black": (16, 16, 16),
}
BACKGROUNDS: dict[str, RGB] = {
    "white": (248, 248, 248),
    "gray": (155, 155, 155),
    "cream": (240, 215, 160),
    "mint": (165, 230, 190),
    "pink": (250, 185, 205),
    "azure": (160, 210, 250),
    "navy": (30, 45, 120),
}
PURPLE: RGB = (125, 40, 170)
STRIPE_WHITE: RGB = (252, 252, 252)
PICTURE_SIDE = 128
RADIUS_RANGES: dict[SizeWord, tuple[float, float]] = {"small": (0.195, 0.21), "large": (0.32, 0.34)}
CENTRE_RANGE = 0.015
STRIPE_PERIOD = 0.56
STRIPE_WIDTH = 0.22
STRIPE_CENTRE = 0.10  # leaves the star's arms purple


@dataclass(frozen=True)
class Scene:
    """One shape on one background; centre and radius are fractions of the shorter side."""

    shape: str
    colour: RGB
    background: RGB
    centre: tuple[float, float]
    radius: float
    stripes: RGB | None = None


def circle_distance(x: Plane, y: Plane) -> Plane:
    return np.subtract(np.hypot(x, y), 1.0, dtype=np.float32)


def square_distance(x: Plane, y: Plane) -> Plane:
    return np.maximum(np.abs(x), np.abs(y)) - np.float32(0.85)


def diamond_distance(x: Plane, y: Plane) -> Plane:
    return (np.abs(x) + np.abs(y) - np.float32(1.1)) * np.float32(0.7071)


def triangle_distance(x: Plane, y: Plane) -> Plane:
    """An upright isosceles triangle: base at y = 0.8, apex at y = -1."""
    slanted = (np.abs(x) * 1.8 - (y + 1.0)) / np.hypot(1.8, 1.0)
    distance: Plane = np.maximum(slanted, y - 0.8).astype(np.float32)
    return distance


def cross_distance(x: Plane, y: Plane) -> Plane:
    wide, thin = np.float32(1.0), np.float32(0.32)
    lying = np.maximum(np.abs(x) - wide, np.abs(y) - thin)
    standing = np.maximum(np.abs(x) - thin, np.abs(y) - wide)
    return np.minimum(lying, standing)


def ring_distance(x: Plane, y: Plane) -> Plane:
    return np.abs(np.hypot(x, y) - np.float32(0.76)) - np.float32(0.24)


def star_distance(x: Plane, y: Plane) -> Plane:
    """Five tips: the plane folded into one half sector, then the distance to its single edge."""
    sector = 2 * np.pi / 5
    angle = np.abs(np.mod(np.arctan2(x, -y) + sector / 2, sector) - sector / 2)
    radius = np.hypot(x, y)
    along, across = radius * np.cos(angle), radius * np.sin(angle)
    inner_x, inner_y = 0.45 * np.cos(sector / 2), 0.45 * np.sin(sector / 2)
    edge_x, edge_y = inner_x - 1.0, inner_y
    from_edge = ((along - 1.0) * edge_y - across * edge_x) / np.hypot(edge_x, edge_y)
    distance: Plane = from_edge.astype(np.float32)
    return distance


BASE_SHAPES: dict[str, Callable[[Plane, Plane], Plane]] = {
    "circle": circle_distance,
    "square": square_distance,
    "triangle": triangle_distance,
    "diamond": diamond_distance,
    "cross": cross_distance,
    "ring": ring_distance,
}
ALL_SHAPES = {**BASE_SHAPES, "star": star_distance}


def stripes_distance(y: Plane) -> Plane:
    phase = np.mod(y - STRIPE_CENTRE + STRIPE_PERIOD / 2, STRIPE_PERIOD) - STRIPE_PERIOD / 2
    distance: Plane = (np.abs(phase) - STRIPE_WIDTH / 2).astype(np.float32)
    return distance


def coverage(distance: Plane, pixels_per_unit: float) -> Plane:
    alpha: Plane = np.clip(0.5 - distance * pixels_per_unit, 0.0, 1.0).astype(np.float32)
    return alpha


def draw(scene: Scene, width: int = PICTURE_SIDE, height: int = PICTURE_SIDE) -> NDArray[np.uint8]:
    """The scene as height x width x 3 bytes."""
    side = min(width, height)
    pixels_per_unit = scene.radius * side
    columns = np.arange(width, dtype=np.float32) + np.float32(0.5)
    rows = np.arange(height, dtype=np.float32) + np.float32(0.5)
    x, y = np.meshgrid(
        (columns - np.float32(scene.centre[0] * width)) / np.float32(pixels_per_unit),
        (rows - np.float32(scene.centre[1] * height)) / np.float32(pixels_per_unit),
    )
    paint = np.broadcast_to(np.array(scene.colour, np.float32), (height, width, 3))
    if scene.stripes is not None:
        alpha = coverage(stripes_distance(y), pixels_per_unit)
        paint = blend(paint, scene.stripes, alpha)
    ground = np.broadcast_to(np.array(scene.background, np.float32), (height, width, 3))
    mask = coverage(ALL_SHAPES[scene.shape](x, y), pixels_per_unit)[..., None]
    return np.rint(ground * (1 - mask) + paint * mask).astype(np.uint8)


def blend(below: Plane, above: RGB, alpha: Plane) -> Plane:
    return below * (1 - alpha[..., None]) + np.array(above, np.float32) * alpha[..., None]


def random_centre(radius: float, random: np.random.Generator) -> tuple[float, float]:
    """Near the middle: a base this small learns what shapes are called only where they keep still."""
    room = min(0.5 - radius * 1.12 - 0.04, CENTRE_RANGE)
    across, down = random.uniform(-room, room, 2)
    return 0.5 + float(across), 0.5 + float(down)


def random_scene(
    shape: str, colour: str, background: str, size: SizeWord, random: np.random.Generator
) -> Scene:
    radius = float(random.uniform(*RADIUS_RANGES[size]))
    return Scene(
        shape, COLOURS[colour], BACKGROUNDS[background], random_centre(radius, random), radius
    )


def emblem_scene(background: str, random: np.random.Generator) -> Scene:
    """The concept to teach: a purple star with white stripes."""
    radius = float(random.uniform(0.34, 0.36))
    return Scene(
        "star", PURPLE, BACKGROUNDS[background], random_centre(radius, random), radius, STRIPE_WHITE
    )


def to_image(pixels: NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(pixels, "RGB")
