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
from engine.data.findings import shown
from engine.data.keeping import HostRoom
from engine.data.store import Store, content_key
from engine.data.survey import Item
from engine.errors import DataError, Problem
from engine.memory import in_words, tried_again

MOST_SHOWN = 60
"""Letters of a caption that an error shows."""
EncodeText = Callable[[Sequence[str]], Any]


class TextSource(Protocol):
    """Where the loop gets conditioning from."""

    @property
    def notices(self) -> Sequence[str]:
        """What should be known of how it is kept."""
        ...

    def encode(self, captions: Sequence[str]) -> Any:
        """Conditioning of a batch of captions."""
        ...


class LiveText:
    """No cache: captions go through the text encoder at each use, with gradients if it has any."""

    notices: Sequence[str] = ()

    def __init__(self, encode: EncodeText) -> None:
        self._encode = encode

    def encode(self, captions: Sequence[str]) -> Any:
        """Conditioning of a batch of captions."""
        return self._encode(captions)


class TextCache:
    """Captions encoded once, one at a time, for a text encoder that is not trained.

    `length` is how many tokens are read, `weighted` whether "(word:1.3)" is read as a weight.

    `join` makes one conditioning of several; `place` moves one to the training device and `rest`
    to where entries are kept. With a store, `pack` and `unpack` turn an entry into tensors and back,
    and while there is no `room` in memory entries are read from it at each use.
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
        room: HostRoom | None = None,
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
        self._room = room or HostRoom()
        self._full = False
        """Whether the disk took no more: what is on it is still read."""
        self._kept: dict[str, Any] = {}
        self.notices: list[str] = []

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
        left = len(wanted) - len(self._kept)
        if left > 0:
            self.notices.append(self._room.told("captions", left, len(wanted)))

    def encode(self, captions: Sequence[str]) -> Any:
        """Conditioning of a batch of captions, on the training device."""
        return self._place(self._join([self._entry(caption) for caption in captions]))

    def _entry(self, caption: str) -> Any:
        kept = self._kept.get(caption)
        if kept is not None:
            return kept
        entry, on_disk = self._read(caption), True
        if entry is None:
            entry, on_disk = self._made(caption)
        if not on_disk or not self._room.short():
            self._kept[caption] = entry
        return entry

    def _read(self, caption: str) -> Any:
        if self._store is None or self._unpack is None:
            return None
        tensors = self._store.get(self.key(caption))
        # The checksum tells what was written, not that it was right.
        return None if tensors is None or not _finite(tensors) else self._unpack(tensors)

    def _made(self, caption: str) -> tuple[Any, bool]:
        """The entry, and whether it is on the disk."""
        where = shown(caption[:MOST_SHOWN])
        problem = Problem(
            "There is not enough memory to encode a caption.",
            where=where,
            remedy="Close other programs, or lower model.max_tokens. What is encoded so far is kept.",
        )
        with torch.no_grad():
            entry = in_words(
                lambda: tried_again(lambda: self._rest(self._encode([caption]))), problem
            )
        if self._store is None or self._pack is None or self._full:
            return entry, False
        tensors = self._pack(entry)
        if not _finite(tensors):
            what = "The text encoder gives no finite numbers for this caption."
            remedy = "Set train.precision to bf16 or no, or change the caption."
            raise DataError(Problem(what, where, remedy, "train.precision"))
        try:
            self._store.put(self.key(caption), tensors)
        except OSError:  # A full disk costs speed next time, nothing else.
            self._full = True
            return entry, False
        return entry, True


def _finite(tensors: Mapping[str, Tensor]) -> bool:
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values())


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
