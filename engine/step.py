"""One optimizer step: the mean loss over all samples of its batches, clipped, into the weights.

Shape letters: N samples of the step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from engine.assemble import Training
from engine.checkpoint.state import Place
from engine.gradients import step_gradients
from engine.guard import LEAST_SCALE, MOST_BACKOFFS, UpdateCutShort
from engine.memory import is_out_of_memory
from engine.optim.optimizers import set_rates, told_rates

if TYPE_CHECKING:
    from engine.data.order import StepPlan


@dataclass(slots=True)
class PendingStep:
    """A step whose numbers may still be on the device.

    A loss or norm that is not finite is the flag that says so: nothing of it has reached the weights.
    """

    step: int
    epoch: int
    loss: Tensor
    grad_norm: Tensor
    lr: dict[str, float]
    samples: int
    plain_N: Tensor
    """Loss of each sample without any weight."""
    timesteps_N: Tensor
    scaled: Tensor | None = None
    """How many layers max-norm scaled back, on the device too."""
    skipped: int | None = None
    """Updates that the fp16 loss scaler has left out so far; None without one."""
    backoffs: int = 0
    """How many of them one after the other, this step the last."""
    scale: float | None = None
    """Of the fp16 loss scaler, where it has left this step's update out."""
    rows: int | None = None
    """Samples that a pass holds at most since memory ran short."""

    @property
    def scaler_lost(self) -> bool:
        """Whether the loss scaler has backed off further than is normal."""
        return self.scale is not None and (
            self.backoffs >= MOST_BACKOFFS or self.scale < LEAST_SCALE
        )


def train_step(training: Training, plan: StepPlan, place: Place) -> PendingStep:
    """One optimizer step: the loss is the mean over all samples of all its batches.

    Raises OutOfMemory where not even a single sample fits, with the weights as they were, and
    UpdateCutShort where memory ran short while they were changed.
    """
    training.reach(place.step)
    due = {
        part: rate * training.guard.rate_factor * training.curve.factor(place.step - 1, rate)
        for part, rate in training.rates.items()
    }
    scheduled = set_rates(training.optimizer, due)
    found = step_gradients(training, plan, place)
    try:
        grad_norm, scale = _update(training, found.loss, place)
        scaled = _limit_and_average(training, place.step)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    else:
        scaler_on = training.scaler.is_enabled()
        return PendingStep(
            place.step,
            place.epoch,
            found.loss,
            grad_norm,
            told_rates(training.optimizer, scheduled),
            plan.samples,
            found.plain_N,
            found.timesteps_N,
            scaled,
            skipped=training.guard.skipped_steps if scaler_on else None,
            backoffs=training.guard.backoffs,
            scale=scale,
            rows=training.guard.rows,
        )
    # Out here the error and all that its frames hold are gone.
    raise UpdateCutShort(place.step)


def _update(training: Training, loss: Tensor, place: Place) -> tuple[Tensor, float | None]:
    """Clip and step; gives the norm, and the loss scaler's scale where it left the update out.

    A loss or gradient that is not finite never reaches the weights. On a GPU the host does not wait to
    see it: zeros take the gradient's place, and what the step does without it (decay, momentum) goes
    when the run is rolled back. Where the host waits anyway, there is no step at all.
    """
    scaler, optimizer, weights = training.scaler, training.optimizer, training.weights
    weights.gather()
    scaler.unscale_(optimizer)
    limit = training.max_grad_norm if training.max_grad_norm > 0 else float("inf")
    grad_norm = torch.nn.utils.clip_grad_norm_(weights.parameters, limit)
    if scaler.is_enabled():
        if not bool(torch.isfinite(loss)):
            # Or the next step could not unscale: one more may come before anybody looks at this one.
            scaler.update()
            weights.release()
            return grad_norm, None
        scaler.step(optimizer)
        scaler.update()
    elif waits_for_numbers(training.device):
        if not bool(torch.isfinite(loss) & torch.isfinite(grad_norm)):
            weights.release()
            return grad_norm, None
        optimizer.step()
    else:
        wrong = ~(torch.isfinite(loss) & torch.isfinite(grad_norm))
        for parameter in weights.parameters:
            assert parameter.grad is not None
            parameter.grad.masked_fill_(wrong, 0.0)
        optimizer.step()
    weights.settle(training.seed, place.step)
    return grad_norm, _backed_off(training, grad_norm)


def waits_for_numbers(device: torch.device) -> bool:
    """Whether the numbers of a step are there as soon as it is computed."""
    return device.type == "cpu"


def _backed_off(training: Training, grad_norm: Tensor) -> float | None:
    """Count what the fp16 loss scaler left out: it has halved its scale, to begin with a normal thing."""
    scaler, guard = training.scaler, training.guard
    if not scaler.is_enabled():
        return None
    if bool(torch.isfinite(grad_norm)):
        guard.backoffs = 0
        return None
    guard.skipped_steps += 1
    guard.backoffs += 1
    return float(scaler.get_scale())


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
