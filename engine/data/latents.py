"""Latents of pictures: encoded once and kept, or encoded at each draw.

The last bits of a VAE's output depend on the batch it ran in, and what is cached must not depend on
what was cached before: pictures are encoded one at a time, or in groups that the data alone decides
and that are part of the key.
Shape letters: C channels, H and W height and width (of pixels or latents).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, Protocol

from torch import Tensor

from engine.data.encoding import Encoded, Encoder, finite
from engine.data.facts import Progress
from engine.data.findings import shown
from engine.data.keeping import HostRoom
from engine.data.pictures import Draw, Pictures
from engine.data.pixels import Loaded, resize_filter
from engine.data.shifts import shifted
from engine.data.store import Store, content_key
from engine.data.vae_groups import Entry, groups_of, too_large_again
from engine.memory import free_memory, in_words, is_out_of_memory

Mode = Literal["disk", "ram", "off"]
Prepared = Encoded | Loaded | None
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
    """Moments of each picture, both mirrored ways where mirroring is on; on disk or in memory.

    `in_memory` keeps them on the host while there is `room`, later ones in the store. Where groups do
    not fit into memory `on_alone` hears of it, before anything else is encoded; who knows of it from
    before gives `batch` 1.
    """

    def __init__(
        self,
        pictures: Pictures,
        encoder: Encoder,
        store: Store | None,
        *,
        batch: int = 1,
        in_memory: bool = False,
        room: HostRoom | None = None,
        on_alone: Callable[[], None] = lambda: None,
    ) -> None:
        self._pictures = pictures
        self._encoder = encoder
        self._store = store
        self._in_memory = in_memory or store is None
        self._room = room or HostRoom()
        self._on_alone = on_alone
        self._kept: dict[Entry, Encoded] = {}
        self._on_disk: set[Entry] = set()
        """Entries that were written by this cache, where others are in memory."""
        self._encoding = threading.Lock()
        self.notices: list[str] = []
        self._batch = batch
        self._groups = groups_of(pictures, batch)

    def fill(self, progress: Progress | None = None) -> None:
        """Encode what is missing. `progress(done, total)` may raise to stop; what is done stays.

        Where a group does not fit into memory, every picture is encoded alone, also those that were
        encoded in groups: their last bits must not tell when memory went short.
        """
        if not self._filled(progress):
            self._go_alone()
            self._filled(progress)
        self._trim()
        if self._on_disk:
            told = self._room.told("latents", len(self._on_disk), len(self._groups))
            self.notices.append(told)

    def _filled(self, progress: Progress | None) -> bool:
        """Encode what is missing; False where a group of several does not fit into memory."""
        total = len(self._groups)
        for done, (entry, group) in enumerate(self._groups.items(), start=1):
            if self._look_up(entry) is None and not self._made_or_short(group):
                return False
            if progress is not None:
                progress(done, total)
        return True

    def _made_or_short(self, group: Sequence[Entry]) -> bool:
        try:
            self._make(group)
        except Exception as error:
            if len(group) == 1 or not is_out_of_memory(error):
                raise
            return False
        return True

    def _go_alone(self) -> None:
        free_memory()
        self._on_alone()
        self.notices.append(
            f"{self._batch} pictures at once do not fit into memory: every picture is encoded alone, "
            "in this run and when it is resumed. A run that began with groups goes on with other last "
            "bits."
        )
        self._batch = 1
        self._groups = groups_of(self._pictures, 1)
        self._kept.clear()
        self._on_disk.clear()

    def _trim(self) -> None:
        if self._store is None or (self._in_memory and not self._on_disk):
            return
        entries = self._on_disk if self._in_memory else self._groups
        left = self._store.trim(frozenset(self.key(*entry) for entry in entries))
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
        if self._in_memory and entry not in self._on_disk:
            return None
        found = self._store.get(self.key(*entry))
        masked = self._pictures.items[entry[0]].mask is not None
        if found is None or found.keys() != {"mean", "std", *(["mask"] if masked else [])}:
            return None
        encoded = Encoded(found["mean"], found["std"], found.get("mask"))
        # The checksum tells what was written, not that it was right.
        return encoded if finite((encoded.mean_CHW, encoded.std_CHW)) else None

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
        if self._store is None or (self._in_memory and not self._room.short()):
            self._kept[entry] = encoded
            return
        named = {"mean": encoded.mean_CHW, "std": encoded.std_CHW}
        if encoded.mask_1HW is not None:
            named["mask"] = encoded.mask_1HW
        try:
            self._store.put(self.key(*entry), named)
        except OSError as error:
            self._kept[entry] = encoded
            self._tell_refused(error, self._store.folder)
        else:
            if self._in_memory:
                self._on_disk.add(entry)

    def _tell_refused(self, error: OSError, folder: Path) -> None:
        reason = error.strerror or "it cannot be written"
        told = f"Latents stay in memory: {shown(folder)}: {reason}."
        if told not in self.notices:
            self.notices.append(told)

    def prepare(self, draw: Draw) -> Encoded | None:
        """Read an entry; None where it is gone or damaged."""
        return self._look_up((draw.index, draw.flipped))

    def finish(self, draw: Draw, prepared: Prepared) -> Encoded:
        """The entry, made again where it was gone."""
        if isinstance(prepared, Encoded):
            return prepared
        entry = (draw.index, draw.flipped)
        group = self._groups.get(entry, (entry,))
        return in_words(lambda: self._make(group), too_large_again(group))[group.index(entry)]

    def pixels(self, draw: Draw) -> Tensor:
        """The pixels that the entry was made from."""
        return self._loaded((draw.index, draw.flipped)).pixels_CHW


def encode_latents(
    pictures: Pictures,
    encoder: Encoder,
    *,
    mode: Mode = "disk",
    store: Store | None = None,
    batch: int = 1,
    progress: Progress | None = None,
    room: HostRoom | None = None,
    on_alone: Callable[[], None] = lambda: None,
) -> LatentCache | LiveLatents:
    """Encode every picture once and keep the result (disk, ram), or at each draw (off).

    `batch` pictures of one size go through the VAE together while the cache is filled. What does not
    fit into memory ("ram") goes to the store, where there is one.
    """
    if mode == "off":
        return LiveLatents(pictures, encoder)
    if mode == "disk" and store is None:
        raise ValueError("the disk cache needs a store")
    cache = LatentCache(
        pictures,
        encoder,
        store,
        batch=batch,
        in_memory=mode == "ram",
        room=room,
        on_alone=on_alone,
    )
    cache.fill(progress)
    return cache
