"""The loss at fixed timesteps with fixed noise: of pictures held out, and of some that are trained.

A step's own loss jumps with its timesteps and pictures; this one is comparable from one measurement
to the next. It is the plain mean square of the error at four timesteps, whatever loss and weights are
trained with; only a loss mask counts here too, since nobody learns what is outside it. Every draw is
keyed by seed and picture under purposes of its own, so measuring changes no draw of training, and two
runs that measure and do not measure end in the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from engine import draws
from engine.batch_loss import mask_of, predict, to_device
from engine.data.order import BatchPlan
from engine.errors import DataError, OutOfMemory, Problem
from engine.events import Event, Phase, Validated, Warned
from engine.memory import in_words, tried_again
from engine.objective.loss import l2_loss, masked_mean, target
from engine.objective.noise import add_noise
from engine.optim.averaged import averaged_weights

if TYPE_CHECKING:
    from engine.assemble import Training
    from engine.checkpoint.state import Place
    from engine.data.buckets import Size
    from engine.data.loader import Batch, Loader

TIMESTEPS = (200, 400, 600, 800)
FEWEST_TRAINED = 4
"""Trained pictures that are measured at least: one held-out picture is compared with more than one."""


class _Interrupted(Exception):
    """The user waits for the run to stop."""


@dataclass(frozen=True, slots=True)
class Validation:
    """What is measured and when."""

    loader: Loader
    """Without workers, for pictures as they are: nothing mirrored, no caption dropped or shuffled."""
    buckets: Sequence[Size]
    """Bucket of each item."""
    held_out: tuple[int, ...]
    trained: tuple[int, ...]
    every_epochs: int
    every_steps: int
    rows: int = len(TIMESTEPS)
    """Timesteps that go through the model at once."""

    def due(self, place: Place, *, ends_epoch: bool, last: bool) -> bool:
        """Whether to measure after this step; step 0 is the base before any training."""
        by_epoch = ends_epoch and _every(place.epoch, self.every_epochs)
        by_step = _every(place.step, self.every_steps)
        wanted = self.every_epochs > 0 or self.every_steps > 0
        return by_epoch or by_step or (wanted and (last or place.step == 0))


def _every(number: int, interval: int) -> bool:
    return interval > 0 and number > 0 and number % interval == 0


def plan_validation(
    loader: Loader,
    buckets: Sequence[Size],
    *,
    held_out: Collection[int],
    trained: Collection[int],
    every_epochs: int,
    every_steps: int,
    seed: int,
    rows: int,
) -> Validation | None:
    """What is measured, or None where nothing is: no picture held out, or never asked for.

    Of the trained pictures as many are chosen by `seed` as are held out, at least a few.
    """
    if not held_out or (every_epochs == 0 and every_steps == 0):
        return None
    count = min(len(trained), max(FEWEST_TRAINED, len(held_out)))
    chosen = draws.rng(seed, "validation trained").sample(sorted(trained), count)
    return Validation(
        loader=loader,
        buckets=buckets,
        held_out=tuple(sorted(held_out)),
        trained=tuple(sorted(chosen)),
        every_epochs=every_epochs,
        every_steps=every_steps,
        rows=min(rows, len(TIMESTEPS)),
    )


def validate(
    training: Training,
    validation: Validation,
    place: Place,
    emit: Callable[[Event], None],
    stop_asked: Callable[[], bool] = lambda: False,
) -> None:
    """Measure both curves and emit `Validated`; a stop that waits ends it without one."""
    total, done = len(validation.held_out) + len(validation.trained), 0

    def measured() -> None:
        nonlocal done
        done += 1
        emit(Phase("measuring", done, total))
        if stop_asked():
            raise _Interrupted

    emit(Phase("measuring", 0, total))
    try:
        held_out, trained = (
            validation_loss(training, validation, items, measured)
            for items in (validation.held_out, validation.trained)
        )
    except _Interrupted:
        emit(Warned(f"Step {place.step} was not measured to the end: stop was asked."))
    except (DataError, OutOfMemory) as error:
        # The weights have moved: the run cannot go back to before this step, and loses only a number.
        emit(Warned(f"Step {place.step} was not measured: {error}"))
    else:
        if math.isfinite(held_out) and math.isfinite(trained):
            emit(Validated(place.step, place.epoch, held_out, trained))
        else:
            emit(Warned(f"The loss measured after step {place.step} is not a number."))
    emit(Phase("training"))


_TOO_LARGE = Problem(
    "There is not enough memory to measure a picture.",
    remedy="Lower train.batch_size or data.resolution, or set train.validate_every_epochs to 0.",
)


def validation_loss(
    training: Training,
    validation: Validation,
    items: Sequence[int],
    measured: Callable[[], None] = lambda: None,
) -> float:
    """Mean of the fixed-noise loss over pictures, with the averaged weights where there are any."""
    network = training.network
    network.eval()
    try:
        with torch.no_grad(), averaged_weights(training):
            losses = []
            for item in items:
                one = partial(_picture_loss, training, validation, item)
                losses.append(in_words(partial(tried_again, one), _TOO_LARGE))
                measured()
            return float(torch.stack(losses).mean())
    finally:
        network.at_timesteps(None)
        network.train()


def _picture_loss(training: Training, validation: Validation, item: int) -> Tensor:
    """Mean square error of one picture over all timesteps, on the device."""
    plan = BatchPlan(validation.buckets[item], (item,))
    # No step of training is step 0, so the loader's own draws are the picture's alone.
    batch = validation.loader.batch(plan, epoch=1, step=0, first_sample=item)
    parts = [
        _losses_at(training, batch, item, TIMESTEPS[start : start + validation.rows])
        for start in range(0, len(TIMESTEPS), validation.rows)
    ]
    return torch.cat(parts).mean()


def _losses_at(training: Training, batch: Batch, item: int, timesteps: Sequence[int]) -> Tensor:
    """Loss of a picture at each of the timesteps, shape (B,)."""
    rows = _repeated(batch, len(timesteps))
    device, model = training.device, training.model
    latents_BCHW = to_device(rows.latents_BCHW * model.latent_scale, device)
    noise_BCHW = to_device(_fixed_noise(rows.latents_BCHW, training.seed, item, timesteps), device)
    timesteps_B = to_device(torch.tensor(timesteps), device)
    alphas_B = training.alphas_cumprod[timesteps_B]
    noisy_BCHW = add_noise(latents_BCHW, noise_BCHW, alphas_B)
    training.network.at_timesteps(timesteps_B)
    with training.autocast():
        conditioning = training.text.encode(rows.captions)
        prediction_BCHW = predict(training, rows, noisy_BCHW, timesteps_B, conditioning)
    target_BCHW = target(model.prediction, latents_BCHW, noise_BCHW, alphas_B)
    return masked_mean(
        l2_loss(prediction_BCHW, target_BCHW), mask_of(training, rows), training.mask_mean
    )


def _fixed_noise(latents_BCHW: Tensor, seed: int, item: int, timesteps: Sequence[int]) -> Tensor:
    shape_CHW = latents_BCHW.shape[1:]
    return torch.stack(
        [
            torch.randn(
                shape_CHW, generator=draws.generator(seed, "validation noise", item, timestep)
            )
            for timestep in timesteps
        ]
    )


def _repeated(batch: Batch, count: int) -> Batch:
    """A batch of one picture, `count` times."""

    def tensor(rows: Tensor | None) -> Tensor | None:
        return None if rows is None else rows.repeat(count, *(1,) * (rows.dim() - 1))

    return replace(
        batch,
        latents_BCHW=batch.latents_BCHW.repeat(count, 1, 1, 1),
        captions=batch.captions * count,
        is_reg_B=batch.is_reg_B.repeat(count),
        original_sizes=batch.original_sizes * count,
        crops=batch.crops * count,
        items=batch.items * count,
        loss_mask_B1HW=tensor(batch.loss_mask_B1HW),
        hole_mask_B1HW=tensor(batch.hole_mask_B1HW),
        hole_latents_BCHW=tensor(batch.hole_latents_BCHW),
    )
