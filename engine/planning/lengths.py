"""How long captions are for the text encoders, by their own tokenizer. No torch."""

from __future__ import annotations

from dataclasses import replace

from engine.data.findings import merged
from engine.data.lengths import Read, cut_captions
from engine.data.survey import Survey
from engine.models.weighted_text import parse_weighted
from engine.planning.rules import caption_rules
from engine.settings import Recipe

Spans = list[tuple[int, int]]


def caption_reader(*, weighted: bool = False) -> Read:
    """CLIP's tokenizer as the doctor uses it; all families split texts the same."""

    def plain(text: str) -> tuple[str, Spans]:
        return text, _spans(text)

    def with_weights(text: str) -> tuple[str, Spans]:
        whole, found = "", Spans()
        for piece, _ in parse_weighted(text):
            found += [(len(whole) + first, len(whole) + last) for first, last in _spans(piece)]
            whole += piece
        return whole, found

    return with_weights if weighted else plain


def _spans(text: str) -> Spans:
    # Not before a long caption is met: loading it takes a second.
    from engine.models.clip_tokenizer import clip_tokenizer

    # The backend itself: the wrapper would tell of every text above 77 tokens on its own.
    backend = clip_tokenizer().backend_tokenizer
    return list(backend.encode(text, add_special_tokens=False).offsets)


def with_cut_captions(found: Survey, recipe: Recipe) -> Survey:
    """The survey with a finding for every caption that is longer than the text encoder reads."""
    model = recipe.model
    read = caption_reader(weighted=model.weighted_prompts)
    cut = cut_captions(found.items, caption_rules(recipe.data), read, model.max_tokens)
    return replace(found, findings=merged(found.findings, cut)) if cut else found
