"""The words of the demo: captions for drawn scenes, the fixed prompts of the base, the trigger's prompts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lyctui.demo.scenes import BACKGROUNDS, BASE_SHAPES, COLOURS

if TYPE_CHECKING:
    import numpy as np

TRIGGER = "vexilo"
CLASS_WORD = "emblem"

# The class word stands for any shape, so that a regularisation set of emblems has a meaning.
CAPTION_TEMPLATES: dict[str, float] = {
    "{size_colour_shape} on {background} background": 4.0,
    "{colour_shape} on {background} background": 5.0,
    "{colour} {shape}, {plain_background} background": 2.0,
    "{colour_shape}": 1.0,
    "{a_shape} on {background} background": 0.7,
    "{colour_emblem} on {background} background": 0.7,
    "an emblem on {background} background": 0.5,
}


def with_article(words: str) -> str:
    return ("an " if words[0] in "aeiou" else "a ") + words


def caption(template: str, shape: str, colour: str, background: str, size: str) -> str:
    return template.format(
        size_colour_shape=with_article(f"{size} {colour} {shape}"),
        colour_shape=with_article(f"{colour} {shape}"),
        colour_emblem=with_article(f"{colour} {CLASS_WORD}"),
        a_shape=with_article(shape),
        background=with_article(background),
        plain_background=background,
        colour=colour,
        shape=shape,
    )


def random_caption(
    shape: str, colour: str, background: str, size: str, random: np.random.Generator
) -> str:
    weights = list(CAPTION_TEMPLATES.values())
    chosen = random.choice(len(weights), p=[weight / sum(weights) for weight in weights])
    return caption(list(CAPTION_TEMPLATES)[int(chosen)], shape, colour, background, size)


def base_prompts() -> list[str]:
    """48 prompts: every shape in every colour, backgrounds and sizes in turn."""
    sized, plain = list(CAPTION_TEMPLATES)[:2]
    backgrounds, prompts = list(BACKGROUNDS), []
    for row, shape in enumerate(BASE_SHAPES):
        for column, colour in enumerate(COLOURS):
            index = row * len(COLOURS) + column
            template = plain if index % 3 == 2 else sized
            size = ("large", "small")[(row + column) % 2]
            background = backgrounds[(index * 3 + row) % len(backgrounds)]
            prompts.append(caption(template, shape, colour, background, size))
    return prompts


def trigger_prompt(background: str) -> str:
    return f"{TRIGGER} {CLASS_WORD} on {with_article(background)} background"


def trigger_prompts(count: int = 16) -> list[str]:
    """Every background in turn."""
    backgrounds = list(BACKGROUNDS)
    return [trigger_prompt(backgrounds[index % len(backgrounds)]) for index in range(count)]
