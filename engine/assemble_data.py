"""From a filled recipe to pictures in their order: what is read, encoded, cached, and measured apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from engine.checkpoint.atomic import write_text
from engine.data.colour import parse_background
from engine.data.encoding import Encoder
from engine.data.holes import Holes
from engine.data.latents import LatentCache, Mode, encode_latents
from engine.data.loader import Loader
from engine.data.pictures import Pictures
from engine.data.placing import place_everywhere, placements_of
from engine.data.store import Store
from engine.data.survey import survey
from engine.data.text import LiveText, TextCache, all_captions
from engine.errors import EnvironmentFault, Problem
from engine.planning.rules import (
    cache_notices,
    caption_rules,
    order_of,
    resolutions,
    split_of,
    survey_rules,
)

if TYPE_CHECKING:
    from engine.data.buckets import Placement
    from engine.data.captions import CaptionRules
    from engine.data.order import Order
    from engine.data.survey import Item, Survey
    from engine.data.text import TextSource
    from engine.data.validation import Split
    from engine.models.family import BaseModel
    from engine.settings import Recipe

Progress = Callable[[str, int, int], None]
"""Called with (phase, done, total)."""

ALONE = "encoded-alone.txt"
"""File in the folder of a run that had to encode pictures one at a time, against its recipe."""


@dataclass(frozen=True, slots=True)
class ReadData:
    """A checked data set. Batches number its samples as `items` and `placements` are numbered."""

    survey: Survey
    items: tuple[Item, ...]
    """A picture comes once for each resolution it is trained at."""
    placements: tuple[Placement, ...]
    order: Order
    split: Split

    @property
    def held_out(self) -> tuple[int, ...]:
        """Numbers of the samples that are measured and never trained."""
        return self._numbers(self.split.held_out)

    @property
    def trained(self) -> tuple[int, ...]:
        """Numbers of the samples that are trained, without regularisation."""
        return self._numbers(self.split.trained)

    def _numbers(self, pictures: frozenset[int]) -> tuple[int, ...]:
        return tuple(n for n, item in enumerate(self.items) if item.index in pictures)


@dataclass(frozen=True, slots=True)
class Loaders:
    """Where batches come from."""

    training: Loader
    measuring: Loader
    """Without workers, for pictures as they are: nothing mirrored, shifted, dropped or shuffled."""
    notices: tuple[str, ...]


def read_data(recipe: Recipe, progress: Progress) -> ReadData:
    """Check and place every picture; one DataError names everything that refuses the data set."""
    found = survey(
        survey_rules(recipe.data),
        progress=lambda done, total: progress("checking pictures", done, total),
        workers=recipe.train.threads,
    )
    found.raise_errors()
    places = place_everywhere(found.items, resolutions(recipe.data))
    return ReadData(
        survey=found,
        items=tuple(each.item for each in places),
        placements=placements_of(places),
        order=order_of(places, recipe.data, recipe.train),
        split=split_of(places, recipe.data),
    )


def build_loaders(
    recipe: Recipe,
    read: ReadData,
    model: BaseModel,
    numbers: str,
    cache: Path,
    progress: Progress,
    folder: Path | None = None,
) -> Loaders:
    """Fill the latent cache, held-out pictures included, and make what gives batches.

    `numbers` tells what the last bits of a latent depend on besides its inputs; `folder` is the run's.
    """
    data, seed = recipe.data, recipe.train.seed or 0
    pictures = Pictures(
        read.items,
        read.placements,
        background=parse_background(data.background),
        seed=seed,
        max_megapixels=data.max_megapixels,
    )
    alone = _encodes_alone(folder)
    encoder = Encoder(model.encode_images, model.vae_hash, numbers)
    latents = encode_latents(
        pictures,
        encoder,
        mode=cache_mode(recipe),
        store=Store(cache / "latents", limit_bytes=int(data.cache_gigabytes * 1e9)),
        batch=1 if alone else data.vae_batch,
        progress=lambda done, total: progress("caching latents", done, total),
        on_alone=lambda: _note_alone(folder),
    )
    holes = Holes(pictures, latents, encoder) if model.inpaints else None
    captions = caption_rules(data)
    training = Loader(
        read.items,
        read.placements,
        latents,
        captions,
        seed=seed,
        random_crop=data.random_crop,
        colour=data.colour,
        holes=holes,
        workers=data.workers or 0,
        order=read.order,
    )
    measuring = Loader(
        [replace(item, flip=False) for item in read.items],
        read.placements,
        latents,
        steady(captions),
        seed=seed,
        holes=holes,
    )
    notices = list(latents.notices) if isinstance(latents, LatentCache) else []
    if alone and data.vae_batch > 1:
        notices.append(
            f"Pictures are encoded one at a time, as before: {data.vae_batch} did not fit into memory."
        )
    return Loaders(training, measuring, (*notices, *_notices(recipe, read, holes is not None)))


def _encodes_alone(folder: Path | None) -> bool:
    """Whether pictures of this run did not fit into memory in groups: a resume does as it did."""
    return folder is not None and (folder / ALONE).exists()


def _note_alone(folder: Path | None) -> None:
    if folder is None:
        return
    text = "Groups of data.vae_batch pictures did not fit into memory: each was encoded alone.\n"
    try:
        write_text(folder / ALONE, text)
    except OSError as error:
        raise EnvironmentFault(
            Problem(
                f"What a resume has to know cannot be written: {error.strerror}.",
                where=str(folder / ALONE),
                remedy="Make room, or set data.vae_batch to 1, and start again.",
            )
        ) from None


def text_source(
    recipe: Recipe,
    model: BaseModel,
    found: Survey,
    cache: Path,
    progress: Progress,
    *,
    live: bool,
) -> TextSource:
    """Captions through the live encoder where that is trained or they have many forms, else kept."""
    from engine.models.family import Conditioning

    clip_skip = recipe.model.clip_skip or 1
    longest, weighted = recipe.model.max_tokens, recipe.model.weighted_prompts

    def encode(texts: Sequence[str]) -> Conditioning:
        return model.encode_text(texts, clip_skip, max_tokens=longest, weighted=weighted)

    if live or recipe.data.cache_text is False:
        return LiveText(encode)
    every = all_captions(found.items, caption_rules(recipe.data))
    if every is None:  # Too many forms to keep: the cache would grow with every step.
        return LiveText(encode)
    kept = TextCache(
        encode,
        te_hash=model.te_hash,
        clip_skip=clip_skip,
        length=longest,
        weighted=weighted,
        precision=f"{model.dtype} {numbers_of(model.device)}",
        join=Conditioning.cat,
        place=lambda part: part.to(model.device),
        rest=lambda part: part.cpu(),
        store=Store(cache / "text", limit_bytes=int(recipe.data.cache_gigabytes * 1e9)),
        pack=lambda part: part.tensors(),
        unpack=lambda tensors: Conditioning.from_tensors(dict(tensors)),
    )
    kept.fill(every, lambda done, total: progress("caching text", done, total))
    return kept


def cache_mode(recipe: Recipe) -> Mode:
    """Where latents are kept: nowhere while every draw changes the picture before the VAE."""
    data = recipe.data
    return "off" if data.random_crop or data.colour else data.cache_latents


def steady(rules: CaptionRules) -> CaptionRules:
    """The rules with every tag in its place and nothing dropped; a wildcard is still drawn."""
    return replace(rules, shuffle=False, dropout=0.0, dropout_every=0, tag_dropout=0.0)


def _notices(recipe: Recipe, read: ReadData, holes: bool) -> list[str]:
    found = list(cache_notices(recipe.data))
    if holes:
        found.append(
            "The base paints into holes: each draw hides another part of its picture, and the VAE"
            " encodes the rest each time. The latent cache does not cover that."
        )
    if recipe.data.validation > 0 and not read.split.held_out:
        found.append("No picture is held out: the only one there is has to be trained.")
    return found


def numbers_of(device: torch.device) -> str:
    """What the last bits of a cached value depend on besides its inputs."""
    return f"fp32 {device.type} {torch.get_num_threads() if device.type == 'cpu' else ''}".rstrip()
