"""Bytes of the captions that are encoded once and kept. No torch."""

from __future__ import annotations

from engine.planning.base import BaseSize
from engine.planning.facts import Facts
from engine.settings import Recipe

CHUNK_TOKENS = 75
BOTH_ENDS = 2
"""A start and an end token around all chunks together."""


def text_tokens(longest: int) -> int:
    """Tokens of an encoded caption of which so many are read: whole chunks, one start and one end."""
    return longest // CHUNK_TOKENS * CHUNK_TOKENS + BOTH_ENDS


def text_cache_bytes(recipe: Recipe, facts: Facts, base: BaseSize) -> int:
    """Hidden states of every different caption and of the empty one, with a pooled vector where the
    base has one; 0 where none are kept."""
    if not recipe.data.cache_text or facts.survey is None:
        return 0
    captions = {item.caption_raw for item in facts.survey.items} | {""}
    second = base.sizes.text_encoder_2
    numbers = text_tokens(recipe.model.max_tokens) * int(base.sizes.unet["cross_attention_dim"])
    numbers += 0 if second is None else int(second["projection_dim"])
    number_bytes = 2 if recipe.train.precision in ("fp16", "bf16") else 4
    return len(captions) * numbers * number_bytes
