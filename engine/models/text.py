"""Captions as chunks of tokens, and the encoders' answers joined again.

Shape letters: B captions, N chunks, T tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from engine.models.clip_tokenizer import MAX_TOKENS
from engine.models.weighted_text import parse_weighted

CHUNK = MAX_TOKENS - 2
"""Tokens of a caption that an encoder reads at once, between start and end."""
Words = list[tuple[int, float]]
"""Tokens of a caption, each with its weight."""


@dataclass(frozen=True, slots=True)
class Chunks:
    """Captions cut into as many chunks as the longest allowed one has."""

    ids_BNT: Tensor
    """Start, at most 75 tokens, end, padding: 77 of each chunk."""
    weights_BT: Tensor | None
    """Weight of each token of the joined text (75 n + 2); None where all are 1."""


def tokenize(
    tokenizer: Any, captions: Sequence[str], *, max_tokens: int = CHUNK, weighted: bool = False
) -> Chunks:
    """Cut captions into chunks of 75 tokens, each with a start, an end and padding of its own.

    Raises ValueError where `max_tokens` is no multiple of 75.
    """
    if max_tokens < CHUNK or max_tokens % CHUNK:
        raise ValueError(f"max_tokens is a multiple of {CHUNK}, not {max_tokens}")
    captions = list(captions)
    every = _weighted(tokenizer, captions) if weighted else _plain(tokenizer, captions, max_tokens)
    every = [words[:max_tokens] for words in every]
    rows = [_rows(tokenizer, [word for word, _ in words], max_tokens) for words in every]
    weights = [[1.0, *(weight for _, weight in words)] for words in every]
    if all(weight == 1 for row in weights for weight in row):
        return Chunks(torch.tensor(rows, dtype=torch.long), None)
    full = [row + [1.0] * (max_tokens + 2 - len(row)) for row in weights]
    return Chunks(torch.tensor(rows, dtype=torch.long), torch.tensor(full))


def _plain(tokenizer: Any, captions: list[str], max_tokens: int) -> list[Words]:
    if not captions:
        return []
    found = tokenizer(
        captions, add_special_tokens=False, truncation=True, max_length=max_tokens
    ).input_ids
    return [[(word, 1.0) for word in words] for words in found]


def _weighted(tokenizer: Any, captions: list[str]) -> list[Words]:
    """Pieces of one weight are tokenized by themselves, so that no token has two weights."""
    every: list[Words] = []
    for caption in captions:
        pieces = parse_weighted(caption)
        # Past the longest there is no use in a caption; the tokenizer would only complain of it.
        found = tokenizer(
            [text for text, _ in pieces], add_special_tokens=False, verbose=False
        ).input_ids
        words = zip(found, (weight for _, weight in pieces), strict=True)
        every.append([(word, weight) for own, weight in words for word in own])
    return every


def _rows(tokenizer: Any, words: list[int], max_tokens: int) -> list[list[int]]:
    """Chunks that are not full are closed by an end token of their own, then padded."""
    start, end, pad = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
    rows = []
    for first in range(0, max_tokens, CHUNK):
        own = words[first : first + CHUNK]
        rows.append([start, *own, end, *[pad] * (CHUNK - len(own))])
    return rows


def join_chunks(hidden_BNTD: Tensor) -> Tensor:
    """Start of the first chunk, the 75 between start and end of each, end of the last: 75 n + 2."""
    if hidden_BNTD.shape[1] == 1:
        return hidden_BNTD[:, 0]
    return torch.cat(
        [hidden_BNTD[:, 0, :1], hidden_BNTD[:, :, 1:-1].flatten(1, 2), hidden_BNTD[:, -1, -1:]],
        dim=1,
    )


def apply_weights(hidden_BTD: Tensor, weights_BT: Tensor | None) -> Tensor:
    """Each token's hidden state times its weight; the mean is left as it comes out."""
    if weights_BT is None:
        return hidden_BTD
    return hidden_BTD * weights_BT.to(hidden_BTD.device, hidden_BTD.dtype)[..., None]


def in_chunks(encode: Callable[[Tensor], Tensor], ids_BNT: Tensor) -> Tensor:
    """Encode each chunk alone: (B, N, T) tokens to (B, N, T, D) hidden states."""
    hidden_BTD = encode(ids_BNT.flatten(0, 1))
    return hidden_BTD.reshape(*ids_BNT.shape, hidden_BTD.shape[-1])


def clip_layers(encoder: Any) -> Any:
    """Layers of a CLIP text model, which lie one level deeper where a projection follows."""
    return getattr(encoder, "text_model", encoder).encoder.layers
