"""CLIP's tokenizer built from its merges alone, without a network."""

from __future__ import annotations

import gzip
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

MERGES_FILE = Path(__file__).parent / "tokenizer" / "clip_merges.txt.gz"
START, END = "<|startoftext|>", "<|endoftext|>"
FIRST_WORD = "!"
"""The token with id 0."""
MAX_TOKENS = 77


def byte_characters() -> list[str]:
    """A printable character for each byte, in the order of GPT-2's byte-level vocabulary."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = 256 - len(printable)
    return [chr(byte) for byte in printable] + [chr(256 + index) for index in range(others)]


@lru_cache(maxsize=1)
def read_merges() -> tuple[tuple[str, str], ...]:
    text = gzip.decompress(MERGES_FILE.read_bytes()).decode("utf-8")
    pairs = (line.split(" ") for line in text.splitlines())
    return tuple((left, right) for left, right in pairs)


def derive_vocabulary(merges: tuple[tuple[str, str], ...]) -> dict[str, int]:
    """256 bytes, the same at the end of a word, every merge joined, start and end: 49408 entries."""
    characters = byte_characters()
    words = [
        *characters,
        *(character + "</w>" for character in characters),
        *(left + right for left, right in merges),
        START,
        END,
    ]
    return {word: index for index, word in enumerate(words)}


@lru_cache(maxsize=4)
def clip_tokenizer(pad_token: str = END) -> CLIPTokenizer:
    """SD1 and SDXL's first encoder pad with the end token, SD2 and SDXL's second with "!" (id 0)."""
    from transformers import CLIPTokenizer

    merges = read_merges()
    return CLIPTokenizer(
        vocab=derive_vocabulary(merges),
        merges=list(merges),
        pad_token=pad_token,
        model_max_length=MAX_TOKENS,
    )
