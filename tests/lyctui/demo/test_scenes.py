"""Drawn scenes: the shapes lie where they should, edges are soft, sizes do not matter."""

from __future__ import annotations

import numpy as np
import pytest

from lyctui.demo.scenes import (
    ALL_SHAPES,
    BACKGROUNDS,
    COLOURS,
    PURPLE,
    STRIPE_WHITE,
    Scene,
    draw,
    emblem_scene,
    random_scene,
)

BLACK, WHITE = (0, 0, 0), (255, 255, 255)


@pytest.mark.parametrize("shape", ALL_SHAPES)
def test_shape_fills_part_of_its_circle(shape: str) -> None:
    pixels = draw(Scene(shape, BLACK, WHITE, (0.5, 0.5), 0.4), 200, 200)
    dark = pixels[..., 0] < 128
    assert 0.2 < dark.sum() / (np.pi * 80**2) <= 1.01
    rows, columns = np.nonzero(dark)
    assert np.hypot(rows - 99.5, columns - 99.5).max() < 80 * 1.3


@pytest.mark.parametrize("shape", ALL_SHAPES)
def test_edges_are_soft_and_no_wider_than_two_pixels(shape: str) -> None:
    pixels = draw(Scene(shape, BLACK, WHITE, (0.5, 0.5), 0.4), 128, 128)
    between = ((pixels > 10) & (pixels < 245)).any(axis=2).sum()
    assert 50 < between < 1200


def test_same_scene_in_other_sizes() -> None:
    scene = Scene("circle", BLACK, WHITE, (0.5, 0.5), 0.3)
    for width, height in ((128, 128), (300, 200), (160, 256)):
        pixels = draw(scene, width, height)
        assert pixels.shape == (height, width, 3)
        area = (255 - pixels[..., 0].astype(float)).sum() / 255
        assert area == pytest.approx(np.pi * (0.3 * min(width, height)) ** 2, rel=0.01)


def test_emblem_is_purple_with_white_stripes() -> None:
    pixels = draw(emblem_scene("mint", np.random.default_rng(0)))
    colours = {tuple(int(value) for value in colour) for colour in pixels.reshape(-1, 3)}
    assert {PURPLE, STRIPE_WHITE, BACKGROUNDS["mint"]} <= colours


def test_border_is_background_alone() -> None:
    random = np.random.default_rng(1)
    for shape in ("circle", "square", "diamond", "ring", "cross", "triangle"):
        for size in ("small", "large"):
            pixels = draw(random_scene(shape, "red", "navy", size, random))
            border = np.concatenate([pixels[:4].reshape(-1, 3), pixels[:, :4].reshape(-1, 3)])
            assert (border == BACKGROUNDS["navy"]).all()


def test_every_colour_stands_out_from_every_background() -> None:
    for colour in (*COLOURS.values(), PURPLE):
        for background in BACKGROUNDS.values():
            assert np.linalg.norm(np.subtract(colour, background)) > 100


def test_drawing_is_a_function_of_the_random_state() -> None:
    one, other = (
        draw(random_scene("ring", "blue", "gray", "small", np.random.default_rng(5)))
        for _ in range(2)
    )
    assert (one == other).all()
