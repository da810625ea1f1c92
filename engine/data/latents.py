"""Latents of pictures: mean and deviation of the VAE's distribution, encoded once or at each draw.

Pictures are encoded one at a time: the last bits of a VAE's output depend on the batch it ran in, and
what is cached must not depend on what was cached before.
Shape letters: B pictures, C channels, H and W height and width (of pixels or latents).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from engine.data.buckets import Placement, Size
from engine.data.colour import Colour, random_background
from engine.data.findings import shown
from engine.data.pixels import load_pixels, resize_filter
from engine.data.store import Store, content_key
from engine.data.survey import Item, Progress
from engine.errors import DataError, Problem

Mode = Literal["disk", "ram", "off"]
Moments = tuple[Tensor, Tensor]
Encode = Callable[[Tensor], Moments]
"""Pixels (1, 3, H, W) in -1..1 to mean and deviation (1, C, H, W), unscaled."""

KEY_VERSION = 1


@dataclass(frozen=True, slots=True)
class Encoder:
    """The VAE as the cache sees it."""

    encode: Encode
    vae_hash: str
    precision: str
    """What its numbers depend on besides the weights: precision and kind of device ("fp32 cpu")."""
    encode_fp32: Encode | None = None
    """Second try for a picture whose latents are not finite."""

    def moments(self, item: Item, pixels_CHW: Tensor) -> Moments:
        """Mean and deviation (C, H, W) on the CPU in fp32; never NaN, Inf or silent zeros."""
        for encode in (self.encode, self.encode_fp32):
            if encode is None:
                continue
            with torch.no_grad():
                mean_BCHW, std_BCHW = encode(pixels_CHW.unsqueeze(0))
            mean_CHW, std_CHW = (part[0].float().cpu() for part in (mean_BCHW, std_BCHW))
            if bool(torch.isfinite(mean_CHW).all() & torch.isfinite(std_CHW).all()):
                return mean_CHW.clone(), std_CHW.clone()
        raise DataError(
            Problem(
                "The VAE gives no finite latents for this picture, in fp32 neither.",
                where=shown(item.image.path),
                remedy="Choose another VAE with model.vae, or leave the picture out.",
            )
        )


@dataclass(frozen=True, slots=True)
class Pictures:
    """Pictures and their places, with what turns them into pixels."""

    items: Sequence[Item]
    placements: Sequence[Placement]
    background: Colour | None = (255, 255, 255)
    """Behind transparent pixels; None draws one for each picture, or each draw without a cache."""
    seed: int = 0
    max_megapixels: float = 100.0

    def colour(self, item: Item, *place: int) -> Colour:
        """Background of a picture, or of one draw where `place` is (step, sample)."""
        if self.background is not None:
            return self.background
        # By content, not by number: a picture more in the folder changes no other picture's colour.
        return random_background(self.seed, *(place or (int(item.image.sha256[:12], 16),)))

    def pixels(self, index: int, crop: Size, flipped: bool, colour: Colour) -> Tensor:
        """Pixels of one picture, shape (3, H, W)."""
        return load_pixels(
            self.items[index],
            self.placements[index],
            crop=crop,
            flipped=flipped,
            background=colour,
            max_megapixels=self.max_megapixels,
        )


@dataclass(frozen=True, slots=True)
class Draw:
    """One sample as it is asked for."""

    index: int
    flipped: bool
    crop: Size
    step: int
    sample: int


class LatentSource(Protocol):
    """Where the loader gets latents from: `prepare` in any thread, `finish` in the asking one."""

    def prepare(self, draw: Draw) -> Moments | Tensor | None:
        """What can be done ahead: moments, pixels, or nothing."""
        ...

    def finish(self, draw: Draw, prepared: Moments | Tensor | None) -> Moments:
        """Mean and deviation, shapes (C, H, W)."""
        ...


class LiveLatents:
    """No cache: every draw is encoded anew, with its own crop."""

    def __init__(self, pictures: Pictures, encoder: Encoder) -> None:
        self._pictures = pictures
        self._encoder = encoder

    def prepare(self, draw: Draw) -> Tensor:
        """Pixels of the draw."""
        item = self._pictures.items[draw.index]
        colour = self._pictures.colour(item, draw.step, draw.sample)
        return self._pictures.pixels(draw.index, draw.crop, draw.flipped, colour)

    def finish(self, draw: Draw, prepared: Moments | Tensor | None) -> Moments:
        """Encode the pixels."""
        pixels_CHW = prepared if isinstance(prepared, Tensor) else self.prepare(draw)
        return self._encoder.moments(self._pictures.items[draw.index], pixels_CHW)


class LatentCache:
    """Moments of each picture, both mirrored ways where mirroring is on; on disk or in memory."""

    def __init__(self, pictures: Pictures, encoder: Encoder, store: Store | None) -> None:
        self._pictures = pictures
        self._encoder = encoder
        self._store = store
        self._kept: dict[tuple[int, bool], Moments] = {}
        self._encoding = threading.Lock()
        self.notices: list[str] = []

    def fill(self, progress: Progress | None = None) -> None:
        """Encode what is missing. `progress(done, total)` may raise to stop; what is done stays."""
        wanted = list(self._wanted())
        keys: set[str] = set()
        for done, (index, flipped) in enumerate(wanted, start=1):
            if self._store is not None:
                keys.add(self.key(index, flipped))
            if self._look_up(index, flipped) is None:
                self._make(index, flipped)
            if progress is not None:
                progress(done, len(wanted))
        if self._store is not None:
            left = self._store.trim(frozenset(keys))
            if left > self._store.limit_bytes:
                self.notices.append(
                    f"This data set alone needs {left / 1e9:.1f} GB of cache, more than "
                    "data.cache_gigabytes allows; its entries are kept."
                )

    def _wanted(self) -> Iterator[tuple[int, bool]]:
        for index, item in enumerate(self._pictures.items):
            yield index, False
            if item.flip:
                yield index, True

    def key(self, index: int, flipped: bool) -> str:
        """Key of an entry: everything its numbers depend on."""
        item, placement = self._pictures.items[index], self._pictures.placements[index]
        # Where nothing is transparent the background changes nothing.
        colour = list(self._pictures.colour(item)) if item.image.alpha else None
        return content_key(
            version=KEY_VERSION,
            image=item.image.sha256,
            vae=self._encoder.vae_hash,
            precision=self._encoder.precision,
            bucket=list(placement.bucket),
            resized=list(placement.resized),
            crop=list(placement.crop),
            filter=resize_filter(placement).name,
            flip=flipped,
            background=colour,
        )

    def _look_up(self, index: int, flipped: bool) -> Moments | None:
        kept = self._kept.get((index, flipped))
        if kept is not None or self._store is None:
            return kept
        entry = self._store.get(self.key(index, flipped))
        if entry is None or entry.keys() != {"mean", "std"}:
            return None
        return entry["mean"], entry["std"]

    def _make(self, index: int, flipped: bool) -> Moments:
        pictures = self._pictures
        item, placement = pictures.items[index], pictures.placements[index]
        colour = pictures.colour(item)
        pixels_CHW = pictures.pixels(index, placement.crop, flipped, colour)
        with self._encoding:
            moments = self._encoder.moments(item, pixels_CHW)
        if self._store is None:
            self._kept[index, flipped] = moments
            return moments
        try:
            self._store.put(self.key(index, flipped), {"mean": moments[0], "std": moments[1]})
        except OSError as error:
            self._kept[index, flipped] = moments
            if not self.notices:
                reason = error.strerror or "it cannot be written"
                folder = shown(self._store.folder)
                self.notices.append(f"Latents stay in memory: {folder}: {reason}.")
        return moments

    def prepare(self, draw: Draw) -> Moments | None:
        """Read an entry; None where it is gone or damaged."""
        return self._look_up(draw.index, draw.flipped)

    def finish(self, draw: Draw, prepared: Moments | Tensor | None) -> Moments:
        """The entry, made again where it was gone."""
        return prepared if isinstance(prepared, tuple) else self._make(draw.index, draw.flipped)


def encode_latents(
    pictures: Pictures,
    encoder: Encoder,
    *,
    mode: Mode = "disk",
    store: Store | None = None,
    progress: Progress | None = None,
) -> LatentCache | LiveLatents:
    """Encode every picture once and keep the result (disk, ram), or at each draw (off)."""
    if mode == "off":
        return LiveLatents(pictures, encoder)
    if mode == "disk" and store is None:
        raise ValueError("the disk cache needs a store")
    cache = LatentCache(pictures, encoder, store if mode == "disk" else None)
    cache.fill(progress)
    return cache
