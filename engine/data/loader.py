"""From a batch plan to a batch: latents and captions of each sample, drawn by step and sample.

Worker threads only read ahead; every draw is keyed by (seed, purpose, step, sample), so their number
changes nothing.
Shape letters: B samples, C latent channels, H and W latent height and width.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from engine.data.buckets import Placement, Size
from engine.data.captions import CaptionRules, draw_caption
from engine.data.encoding import Encoded
from engine.data.holes import Blanked, Hole, Holes
from engine.data.latents import LatentCache, LatentSource, Prepared
from engine.data.order import BatchPlan, Order
from engine.data.pictures import Draw
from engine.data.pixels import draw_crop, draw_flip, true_crop
from engine.data.shifts import NO_SHIFT, Shift, draw_shift
from engine.data.survey import Item
from engine.draws import generator

AHEAD = 2
"""Batches read ahead."""

Place = tuple[int, int, int]
"""Epoch, step and first sample of a batch."""


@dataclass(frozen=True, slots=True)
class Batch:
    """One batch. Sizes are (width, height), crops (left, top), in pixels."""

    latents_BCHW: Tensor
    """Sampled, unscaled, fp32, on the CPU."""
    captions: tuple[str, ...]
    is_reg_B: Tensor
    original_sizes: tuple[Size, ...]
    """After EXIF rotation, before resizing."""
    crops: tuple[Size, ...]
    """True offset in the resized picture, mirrored with it."""
    target_size: Size
    items: tuple[int, ...]
    """Numbers of the placements, as the batch plan has them."""
    loss_mask_B1HW: Tensor | None = None
    """Where the loss counts, 0 to 1, at latent size; None is everywhere."""
    hole_mask_B1HW: Tensor | None = None
    """1 where an inpainting base is to paint, at latent size."""
    hole_latents_BCHW: Tensor | None = None
    """Unscaled latents of the picture with the hole blanked."""


class _Part(NamedTuple):
    """One sample as far as it can be read ahead."""

    latent: Prepared
    hole: Blanked | None


@dataclass(frozen=True, slots=True)
class _Ahead:
    """A batch that is being read."""

    plan: BatchPlan
    parts: tuple[Future[_Part], ...]


class Loader:
    """Makes batches. With `order` and workers the next batches are read while the model runs."""

    def __init__(
        self,
        items: Sequence[Item],
        placements: Sequence[Placement],
        latents: LatentSource,
        captions: CaptionRules,
        *,
        seed: int,
        random_crop: bool = False,
        colour: bool = False,
        holes: Holes | None = None,
        workers: int = 0,
        order: Order | None = None,
    ) -> None:
        """`items` and `placements` are parallel: a picture comes once for each of its resolutions.

        `colour` shifts the colours of some draws; `holes` hides a part of each, for inpainting.
        """
        if random_crop and isinstance(latents, LatentCache):
            raise ValueError("random crops need latents that are encoded at each draw")
        if colour and isinstance(latents, LatentCache):
            raise ValueError("shifted colours need latents that are encoded at each draw")
        self._items = items
        self._placements = placements
        self._latents = latents
        self._captions = captions
        self._reg_captions = captions.for_reg()
        self._seed = seed
        self._random_crop = random_crop
        self._colour = colour
        self._holes = holes
        self._masked = any(item.mask is not None for item in items)
        self._order = order
        self._pool = ThreadPoolExecutor(workers, "loader") if workers > 0 else None
        self._ahead: dict[Place, _Ahead] = {}
        self._steps_before = lru_cache(maxsize=4)(self._counted_steps_before)

    def close(self) -> None:
        """Stop the workers."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        self._ahead.clear()

    def batch(self, plan: BatchPlan, *, epoch: int, step: int, first_sample: int) -> Batch:
        """The batch of a plan; `first_sample` is the sample index of its first item in the step."""
        draws = self._draws(plan, step, first_sample)
        if self._pool is None:
            prepared = [self._prepare(draw) for draw in draws]
        else:
            place = (epoch, step, first_sample)
            coming = self._ahead.pop(place, None)
            if coming is None or coming.plan != plan:
                coming = self._submit(self._pool, plan, draws)
            self._read_ahead(self._pool, place, plan)
            prepared = [part.result() for part in coming.parts]
        return self._made(plan, draws, prepared, epoch)

    def _prepare(self, draw: Draw) -> _Part:
        hole = None if self._holes is None else self._holes.prepare(draw)
        return _Part(self._latents.prepare(draw), hole)

    def _made(
        self, plan: BatchPlan, draws: Sequence[Draw], parts: Sequence[_Part], epoch: int
    ) -> Batch:
        encoded = [
            self._latents.finish(draw, part.latent) for draw, part in zip(draws, parts, strict=True)
        ]
        latents = [self._latent(draw, one) for draw, one in zip(draws, encoded, strict=True)]
        holes = self._hidden(draws, parts)
        chosen = [self._items[draw.index] for draw in draws]
        return Batch(
            latents_BCHW=torch.stack(latents),
            captions=tuple(
                self._caption(item, draw, epoch) for item, draw in zip(chosen, draws, strict=True)
            ),
            is_reg_B=torch.tensor([item.is_reg for item in chosen]),
            original_sizes=tuple((item.image.width, item.image.height) for item in chosen),
            crops=tuple(
                true_crop(self._placements[draw.index], draw.crop, flipped=draw.flipped)
                for draw in draws
            ),
            target_size=plan.bucket,
            items=plan.items,
            loss_mask_B1HW=_stacked_masks(encoded) if self._masked else None,
            hole_mask_B1HW=torch.stack([hole.mask_1HW for hole in holes]) if holes else None,
            hole_latents_BCHW=torch.stack([hole.latents_CHW for hole in holes]) if holes else None,
        )

    def _hidden(self, draws: Sequence[Draw], parts: Sequence[_Part]) -> list[Hole]:
        """The hole of each sample; empty where the base paints none."""
        if self._holes is None:
            return []
        return [
            self._holes.finish(draw, part.hole or self._holes.prepare(draw))
            for draw, part in zip(draws, parts, strict=True)
        ]

    def _draws(self, plan: BatchPlan, step: int, first_sample: int) -> tuple[Draw, ...]:
        return tuple(
            Draw(
                index=index,
                flipped=draw_flip(self._items[index], seed=self._seed, step=step, sample=sample),
                crop=self._crop(index, step, sample),
                step=step,
                sample=sample,
                shift=self._shift(step, sample),
            )
            for sample, index in enumerate(plan.items, start=first_sample)
        )

    def _crop(self, index: int, step: int, sample: int) -> Size:
        placement = self._placements[index]
        if not self._random_crop:
            return placement.crop
        return draw_crop(placement, seed=self._seed, step=step, sample=sample)

    def _shift(self, step: int, sample: int) -> Shift:
        if not self._colour:
            return NO_SHIFT
        return draw_shift(seed=self._seed, step=step, sample=sample)

    def _latent(self, draw: Draw, encoded: Encoded) -> Tensor:
        """A latent drawn from the VAE's normal distribution of the picture."""
        mean_CHW = encoded.mean_CHW
        source = generator(self._seed, "latent", draw.step, draw.sample)
        return mean_CHW + encoded.std_CHW * torch.randn(mean_CHW.shape, generator=source)

    def _caption(self, item: Item, draw: Draw, epoch: int) -> str:
        return draw_caption(
            item.caption_raw,
            self._reg_captions if item.is_reg else self._captions,
            seed=self._seed,
            step=draw.step,
            sample=draw.sample,
            epoch=epoch,
        )

    # Reading ahead ------------------------------------------------------------------------

    def _submit(self, pool: ThreadPoolExecutor, plan: BatchPlan, draws: tuple[Draw, ...]) -> _Ahead:
        parts = tuple(pool.submit(self._prepare, draw) for draw in draws)
        return _Ahead(plan, parts)

    def _read_ahead(self, pool: ThreadPoolExecutor, place: Place, plan: BatchPlan) -> None:
        waiting: dict[Place, _Ahead] = {}
        for _ in range(AHEAD):
            following = self._following(place, plan)
            if following is None:
                break
            place, plan = following
            coming = self._ahead.get(place)
            if coming is None:
                coming = self._submit(pool, plan, self._draws(plan, place[1], place[2]))
            waiting[place] = coming
        # What is not ahead of this place any more (after a rollback, say) is dropped.
        self._ahead = waiting

    def _following(self, place: Place, plan: BatchPlan) -> tuple[Place, BatchPlan] | None:
        """The batch after one, or None where the order does not know the place."""
        if self._order is None:
            return None
        epoch, step, first_sample = place
        steps = self._order.epoch(epoch)
        index = step - self._steps_before(epoch) - 1
        if not 0 <= index < len(steps):
            return None
        after = first_sample + len(plan.items)
        start = 0
        for batch in steps[index].batches:
            if start == after:
                return (epoch, step, after), batch
            start += len(batch.items)
        if start != after:
            return None
        if index + 1 < len(steps):
            return (epoch, step + 1, 0), steps[index + 1].batches[0]
        return (epoch + 1, step + 1, 0), self._order.epoch(epoch + 1)[0].batches[0]

    def _counted_steps_before(self, epoch: int) -> int:
        return sum(self._order.steps_per_epoch(epoch - 1)) if self._order is not None else 0


def _stacked_masks(encoded: Sequence[Encoded]) -> Tensor:
    """The masks of a batch, shape (B, 1, H, W): all of the picture where one has none."""
    return torch.stack(
        [
            torch.ones_like(each.mean_CHW[:1]) if each.mask_1HW is None else each.mask_1HW
            for each in encoded
        ]
    )
