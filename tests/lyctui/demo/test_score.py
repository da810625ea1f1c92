"""The analytic classifier is right on every drawn picture, and names nothing where nothing is."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from lyctui.demo.prompts import base_prompts, random_caption, trigger_prompts
from lyctui.demo.scenes import (
    BACKGROUNDS,
    BASE_SHAPES,
    COLOURS,
    PURPLE,
    Scene,
    draw,
    emblem_scene,
    random_scene,
)
from lyctui.demo.score import (
    BaseScore,
    ConceptScore,
    look,
    score_base,
    score_concept,
    words_of,
)


def picture(scene: Scene, side: int = 128) -> Image.Image:
    return Image.fromarray(draw(scene, side, side))


@pytest.mark.parametrize("shape", BASE_SHAPES)
def test_every_base_picture_is_recognised(shape: str) -> None:
    random = np.random.default_rng(3)
    for colour in COLOURS:
        for background in BACKGROUNDS:
            for size in ("small", "large"):
                seen = look(picture(random_scene(shape, colour, background, size, random)))
                assert (seen.shape, seen.colour, seen.background) == (shape, colour, background)
                assert not seen.emblem
                assert seen.purple_share < 0.002


def test_every_emblem_is_recognised() -> None:
    random = np.random.default_rng(4)
    pictures = [picture(emblem_scene(name, random)) for name in BACKGROUNDS for _ in range(4)]
    score = score_concept(pictures)
    assert score.recognised == 1.0
    assert score.purple_median > 0.09


@pytest.mark.parametrize(
    "lookalike",
    [
        Scene("star", PURPLE, BACKGROUNDS["gray"], (0.5, 0.5), 0.35),
        Scene("circle", PURPLE, BACKGROUNDS["gray"], (0.5, 0.5), 0.35, (252, 252, 252)),
        Scene("star", COLOURS["red"], BACKGROUNDS["gray"], (0.5, 0.5), 0.35, (252, 252, 252)),
    ],
    ids=["no stripes", "no star", "no purple"],
)
def test_half_an_emblem_is_none(lookalike: Scene) -> None:
    assert not look(picture(lookalike)).emblem


def test_other_sizes_are_scaled_first() -> None:
    scene = Scene("star", PURPLE, BACKGROUNDS["pink"], (0.5, 0.5), 0.35, (252, 252, 252))
    assert look(picture(scene, 250)).emblem


def test_plain_and_noisy_pictures_show_nothing() -> None:
    plain = Image.new("RGB", (128, 128), BACKGROUNDS["mint"])
    assert (look(plain).shape, look(plain).background) == ("nothing", "mint")
    noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    assert not look(Image.fromarray(noise)).emblem
    assert score_concept([plain, plain]) == ConceptScore(0.0, 0.0)


def test_base_score_counts_each_word() -> None:
    prompts = ["a large red circle on a white background", "blue ring, navy background"]
    pictures = [
        picture(Scene("circle", COLOURS["red"], BACKGROUNDS["white"], (0.5, 0.5), 0.3)),
        picture(Scene("square", COLOURS["blue"], BACKGROUNDS["gray"], (0.5, 0.5), 0.3)),
    ]
    assert score_base(pictures, prompts) == BaseScore(shape=0.5, background=0.5, colour=1.0)


def test_fixed_prompts() -> None:
    prompts = base_prompts()
    assert len(set(prompts)) == 48
    assert len({words_of(prompt)[:2] for prompt in prompts}) == 48
    assert {words_of(prompt)[2] for prompt in prompts} == set(BACKGROUNDS)
    assert all(prompt.startswith("vexilo emblem on a") for prompt in trigger_prompts(16))


def test_captions_never_name_the_concept() -> None:
    random = np.random.default_rng(0)
    captions = [random_caption("ring", "orange", "azure", "small", random) for _ in range(300)]
    assert any("an orange emblem" in text for text in captions)
    assert not any(word in " ".join(captions) for word in ("vexilo", "purple", "star", "stripe"))
