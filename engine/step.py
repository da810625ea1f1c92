"""One optimizer step: the mean loss over all samples of its batches, clipped, into the weights.

Shape letters: B samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from engine.assemble import Training
from engine.batch_loss import batch_loss
from engine.checkpoint.state import Place
from engine.errors import Problem, TrainingError
from engine.optim.optimizers import set_rates, told_rates

if TYPE_CHECKING:
    from engine.data.order import BatchPlan, StepPlan


@dataclass(slots=True)
class PendingStep:
    """A step whose loss may still be on the device."""

    step: int
    epoch: int
    loss: Tensor
    grad_norm: Tensor
    lr: dict[str, float]
    samples: int
    scaled: Tensor | None = None
    """How many layers max-norm scaled back, on the device too."""


def train_step(training: Training, plan: StepPlan, place: Place) -> PendingStep:
    """One optimizer step: the loss is the mean over all samples of all its batches."""
    samples = sum(len(batch_plan.items) for batch_plan in plan.batches)
    training.reach(place.step)
    due = {
        part: rate * training.guard.rate_factor * training.curve.factor(place.step - 1, rate)
        for part, rate in training.rates.items()
    }
    scheduled = set_rates(training.optimizer, due)
    training.weights.zero_grad()
    total = torch.zeros((), device=training.device)
    first = 0
    for number, batch_plan in enumerate(plan.batches):
        training.network.begin(
            step=place.step, batch=number, first_sample=first, samples=len(batch_plan.items)
        )
        batch = training.loader.batch(
            batch_plan, epoch=place.epoch, step=place.step, first_sample=first
        )
        loss_B = batch_loss(training, batch, place.step, first)
        loss = loss_B.sum() / samples
        # What an algorithm asks of its factors counts once a step, however many batches it has.
        asked = training.network.penalty() if number == 0 else None
        whole = loss if asked is None else loss + asked
        training.scaler.scale(whole).backward()  # type: ignore[no-untyped-call]
        total += loss.detach()
        first += len(batch_plan.items)
    # Not before backward, which may repeat the pass; what comes next stands at other timesteps.
    training.network.at_timesteps(None)
    grad_norm = _update(training, total, plan, place)
    scaled = _limit_and_average(training, place.step)
    lr = told_rates(training.optimizer, scheduled)
    return PendingStep(place.step, place.epoch, total, grad_norm, lr, samples, scaled)


def _update(training: Training, loss: Tensor, plan: StepPlan, place: Place) -> Tensor:
    """Clip and step. A loss or gradient that is not finite never reaches the weights."""
    scaler, optimizer, weights = training.scaler, training.optimizer, training.weights
    weights.gather()
    scaler.unscale_(optimizer)
    limit = training.max_grad_norm if training.max_grad_norm > 0 else float("inf")
    grad_norm = torch.nn.utils.clip_grad_norm_(weights.parameters, limit)
    finite = bool(torch.isfinite(grad_norm) & torch.isfinite(loss))
    if not finite and (not scaler.is_enabled() or not bool(torch.isfinite(loss))):
        weights.release()
        raise TrainingError(_not_finite(training, plan.batches, place))
    scaler.step(optimizer)
    scaler.update()
    weights.settle(training.seed, place.step)
    if not finite:
        # The fp16 scaler's normal back-off: it left the weights alone and halved its scale.
        training.guard.skipped_steps += 1
    return grad_norm


def _limit_and_average(training: Training, step: int) -> Tensor | None:
    """Max-norm, then the averages, which it holds for too; how many layers it scaled back."""
    limit, scaled = training.max_norm, None
    if limit > 0:
        scaled = training.network.apply_max_norm(limit).scaled
    training.averages.update(step)
    if limit > 0:
        # The average of a part that has stopped still moves towards what that part has become.
        training.averages.apply(lambda: training.network.apply_max_norm(limit, training.rates))
    return scaled


def _not_finite(training: Training, batches: Sequence[BatchPlan], place: Place) -> Problem:
    names = [training.picture_name(item) for batch in batches for item in batch.items]
    return Problem(
        f"The loss of step {place.step} is not a number; the weights were left as they were.",
        where=", ".join(names[:8]),
        remedy="Lower optim.lr, or set train.precision to bf16 or no, then resume.",
    )
