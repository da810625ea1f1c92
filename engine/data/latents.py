"""Latents of pictures: encoded once and kept, or encoded at each draw.

The last bits of a VAE's output depend on the batch it ran in, and what is cached must not depend on
what was cached before: pictures are encoded one at a time, or in groups that the data alone decides
and that are part of the key.
Shape letters: C channels, H and W height and width (of pixels or latents).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Literal, Protocol

from torch import Tensor

from engine.data.encoding import Encoded, Encoder
from engine.data.facts import Progress
from engine.data.findings import shown
from engine.data.pictures import Draw, Pictures
from engine.data.pixels import Loaded, resize_filter
from engine.data.shifts import shifted
from engine.data.store import Store, content_key

Mode = Literal["disk", "ram", "off"]
Prepared = Encoded | Loaded | None
Entry = tuple[int, bool]
"""A picture by its number, and whether it is mirrored."""

KEY_VERSION = 1


class LatentSource(Protocol):
    """Where the loader gets latents from: `prepare` in any thread, `finish` in the asking one."""

    def prepare(self, draw: Draw) -> Prepared:
        """What can be done ahead: moments, pixels, or nothing."""
        ...

    def finish(self, draw: Draw, prepared: Prepared) -> Encoded:
        """Mean, deviation and mask."""
        ...

    def pixels(self, draw: Draw) -> Tensor:
        """The pixels that the latents of this draw are made from, shape (3, H, W)."""
        ...


class LiveLatents:
    """No cache: every draw is encoded anew, with its own crop and colours."""

    def __init__(self, pictures: Pictures, encoder: Encoder) -> None:
        self._pictures = pictures
        self._encoder = encoder

    def prepare(self, draw: Draw) -> Loaded:
        """Pixels of the draw."""
        item = self._pictures.items[draw.index]
        colour = self._pictures.colour(item, draw.step, draw.sample)
        loaded = self._pictures.load(draw.index, draw.crop, draw.flipped, colour)
        return loaded._replace(pixels_CHW=shifted(loaded.pixels_CHW, draw.shift))

    def finish(self, draw: Draw, prepared: Prepared) -> Encoded:
        """Encode the pixels."""
        loaded = prepared if isinstance(prepared, Loaded) else self.prepare(draw)
        return self._encoder.encoded([self._pictures.items[draw.index]], [loaded])[0]

    def pixels(self, draw: Draw) -> Tensor:
        """The pixels of the draw."""
        return self.prepare(draw).pixels_CHW


class LatentCache:
    """Moments of each picture, both mirrored ways where mirroring is on; on disk or in memory."""

    def __init__(
        self, pictures: Pictures, encoder: Encoder, store: Store | None, *, batch: int = 1
    ) -> None:
        self._pictures = pictures
        self._encoder = encoder
        self._store = store
        self._batch = batch
        self._groups = _groups(pictures, batch)
        self._kept: dict[Entry, Encoded] = {}
        self._encoding = threading.Lock()
        self.notices: list[str] = []

    def fill(self, progress: Progress | None = None) -> None:
        """Encode what is missing. `progress(done, total)` may raise to stop; what is done stays."""
        keys: set[str] = set()
        total = len(self._groups)
        for done, (entry, group) in enumerate(self._groups.items(), start=1):
            if self._store is not None:
                keys.add(self.key(*entry))
            if self._look_up(entry) is None:
                self._make(group)
            if progress is not None:
                progress(done, total)
        if self._store is not None:
            left = self._store.trim(frozenset(keys))
            if left > self._store.limit_bytes:
                self.notices.append(
                    f"This data set alone needs {left / 1e9:.1f} GB of cache, more than "
                    "data.cache_gigabytes allows; its entries are kept."
                )

    def key(self, index: int, flipped: bool) -> str:
        """Key of an entry: everything its numbers depend on, the group it is encoded in included."""
        own = self._own_key((index, flipped))
        if self._batch == 1:
            return own
        group = self._groups[index, flipped]
        return content_key(
            own=own,
            vae_batch=self._batch,
            place=group.index((index, flipped)),
            group=" ".join(self._own_key(each) for each in group),
        )

    def _own_key(self, entry: Entry) -> str:
        index, flipped = entry
        item, placement = self._pictures.items[index], self._pictures.placements[index]
        # Where nothing is transparent, or nothing is put behind it, the background changes nothing.
        composited = item.image.alpha and (item.mask is None or item.mask.path is not None)
        parts: dict[str, str | int | list[int] | None] = {
            "version": KEY_VERSION,
            "image": item.image.sha256,
            "vae": self._encoder.vae_hash,
            "precision": self._encoder.precision,
            "bucket": list(placement.bucket),
            "resized": list(placement.resized),
            "crop": list(placement.crop),
            "filter": resize_filter(placement).name,
            "flip": flipped,
            "background": list(self._pictures.colour(item)) if composited else None,
        }
        if item.mask is not None:
            parts["mask"] = item.mask.content
        return content_key(**parts)

    def _look_up(self, entry: Entry) -> Encoded | None:
        kept = self._kept.get(entry)
        if kept is not None or self._store is None:
            return kept
        found = self._store.get(self.key(*entry))
        masked = self._pictures.items[entry[0]].mask is not None
        if found is None or found.keys() != {"mean", "std", *(["mask"] if masked else [])}:
            return None
        return Encoded(found["mean"], found["std"], found.get("mask"))

    def _make(self, group: Sequence[Entry]) -> list[Encoded]:
        """Encode a group together and keep all of it."""
        items = [self._pictures.items[index] for index, _ in group]
        with self._encoding:
            made = self._encoder.encoded(items, [self._loaded(entry) for entry in group])
        for entry, encoded in zip(group, made, strict=True):
            self._keep(entry, encoded)
        return made

    def _loaded(self, entry: Entry) -> Loaded:
        index, flipped = entry
        pictures = self._pictures
        colour = pictures.colour(pictures.items[index])
        return pictures.load(index, pictures.placements[index].crop, flipped, colour)

    def _keep(self, entry: Entry, encoded: Encoded) -> None:
        if self._store is None:
            self._kept[entry] = encoded
            return
        named = {"mean": encoded.mean_CHW, "std": encoded.std_CHW}
        if encoded.mask_1HW is not None:
            named["mask"] = encoded.mask_1HW
        try:
            self._store.put(self.key(*entry), named)
        except OSError as error:
            self._kept[entry] = encoded
            if not self.notices:
                reason = error.strerror or "it cannot be written"
                folder = shown(self._store.folder)
                self.notices.append(f"Latents stay in memory: {folder}: {reason}.")

    def prepare(self, draw: Draw) -> Encoded | None:
        """Read an entry; None where it is gone or damaged."""
        return self._look_up((draw.index, draw.flipped))

    def finish(self, draw: Draw, prepared: Prepared) -> Encoded:
        """The entry, made again where it was gone."""
        if isinstance(prepared, Encoded):
            return prepared
        entry = (draw.index, draw.flipped)
        group = self._groups.get(entry, (entry,))
        return self._make(group)[group.index(entry)]

    def pixels(self, draw: Draw) -> Tensor:
        """The pixels that the entry was made from."""
        return self._loaded((draw.index, draw.flipped)).pixels_CHW


def _groups(pictures: Pictures, batch: int) -> dict[Entry, tuple[Entry, ...]]:
    """The entries in the order of the data, each with those it is encoded with: of one size."""
    wanted = list(_wanted(pictures))
    open_groups: dict[tuple[int, int], list[Entry]] = {}
    lists: dict[Entry, list[Entry]] = {}
    for entry in wanted:
        size = pictures.placements[entry[0]].bucket
        if len(open_groups.setdefault(size, [])) == batch:
            open_groups[size] = []
        open_groups[size].append(entry)
        lists[entry] = open_groups[size]
    return {entry: tuple(group) for entry, group in lists.items()}


def _wanted(pictures: Pictures) -> Iterator[Entry]:
    for index, item in enumerate(pictures.items):
        yield index, False
        if item.flip:
            yield index, True


def encode_latents(
    pictures: Pictures,
    encoder: Encoder,
    *,
    mode: Mode = "disk",
    store: Store | None = None,
    batch: int = 1,
    progress: Progress | None = None,
) -> LatentCache | LiveLatents:
    """Encode every picture once and keep the result (disk, ram), or at each draw (off).

    `batch` pictures of one size go through the VAE together while the cache is filled.
    """
    if mode == "off":
        return LiveLatents(pictures, encoder)
    if mode == "disk" and store is None:
        raise ValueError("the disk cache needs a store")
    cache = LatentCache(pictures, encoder, store if mode == "disk" else None, batch=batch)
    cache.fill(progress)
    return cache
