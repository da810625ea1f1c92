"""Conditioning of captions: encoded at each use, or once and kept.

What a text encoder gives is the family's own kind of value; here it is only kept, moved and joined.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from engine.data.captions import CaptionRules, caption_variants
from engine.data.facts import Progress
from engine.data.store import Store, content_key
from engine.data.survey import Item

EncodeText = Callable[[Sequence[str]], Any]


class TextSource(Protocol):
    """Where the loop gets conditioning from."""

    def encode(self, captions: Sequence[str]) -> Any:
        """Conditioning of a batch of captions."""
        ...


class LiveText:
    """No cache: captions go through the text encoder at each use, with gradients if it has any."""

    def __init__(self, encode: EncodeText) -> None:
        self._encode = encode

    def encode(self, captions: Sequence[str]) -> Any:
        """Conditioning of a batch of captions."""
        return self._encode(captions)


class TextCache:
    """Captions encoded once, one at a time, for a text encoder that is not trained.

    `length` is how many tokens are read, `weighted` whether "(word:1.3)" is read as a weight.

    `join` makes one conditioning of several; `place` moves one to the training device and `rest`
    to where entries are kept. With a store, `pack` and `unpack` turn an entry into tensors and back.
    """

    def __init__(
        self,
        encode: EncodeText,
        *,
        te_hash: str,
        clip_skip: int,
        length: int,
        precision: str,
        weighted: bool = False,
        join: Callable[[Sequence[Any]], Any],
        place: Callable[[Any], Any],
        rest: Callable[[Any], Any],
        store: Store | None = None,
        pack: Callable[[Any], Mapping[str, Tensor]] | None = None,
        unpack: Callable[[Mapping[str, Tensor]], Any] | None = None,
    ) -> None:
        self._encode = encode
        self._facts = (te_hash, clip_skip, length, precision)
        self._weighted = weighted
        self._join = join
        self._place = place
        self._rest = rest
        self._store = store if pack is not None and unpack is not None else None
        self._pack = pack
        self._unpack = unpack
        self._kept: dict[str, Any] = {}

    def key(self, caption: str) -> str:
        """Key of a caption: an edited caption or another encoder misses the cache."""
        te_hash, clip_skip, length, precision = self._facts
        parts: dict[str, str | int] = {
            "caption": caption,
            "te": te_hash,
            "clip_skip": clip_skip,
            "length": length,
            "precision": precision,
        }
        if self._weighted:
            parts["weighted"] = 1
        return content_key(**parts)

    def fill(self, captions: Iterable[str], progress: Progress | None = None) -> None:
        """Encode every caption, and the empty one, which dropout and sampling use."""
        wanted = list(dict.fromkeys([*captions, ""]))
        for done, caption in enumerate(wanted, start=1):
            self._entry(caption)
            if progress is not None:
                progress(done, len(wanted))

    def encode(self, captions: Sequence[str]) -> Any:
        """Conditioning of a batch of captions, on the training device."""
        return self._place(self._join([self._entry(caption) for caption in captions]))

    def _entry(self, caption: str) -> Any:
        kept = self._kept.get(caption)
        if kept is None:
            kept = self._read(caption)
            if kept is None:
                kept = self._made(caption)
            self._kept[caption] = kept
        return kept

    def _read(self, caption: str) -> Any:
        if self._store is None or self._unpack is None:
            return None
        tensors = self._store.get(self.key(caption))
        return None if tensors is None else self._unpack(tensors)

    def _made(self, caption: str) -> Any:
        with torch.no_grad():
            entry = self._rest(self._encode([caption]))
        if self._store is not None and self._pack is not None:
            try:
                self._store.put(self.key(caption), self._pack(entry))
            except OSError:  # A full disk costs speed next time, nothing else.
                self._store = None
        return entry


def all_captions(
    items: Iterable[Item], rules: CaptionRules, *, limit: int = 24
) -> tuple[str, ...] | None:
    """Every text that training can ask for, or None where a picture has too many variants."""
    texts: dict[str, None] = {}
    for item in items:
        own = rules.for_reg() if item.is_reg else rules
        variants = caption_variants(item.caption_raw, own, limit)
        if variants is None:
            return None
        texts.update(dict.fromkeys(variants))
    return tuple(texts)
