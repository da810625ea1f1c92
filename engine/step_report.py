"""Steps as events, and the look at whether their numbers are sound; on a GPU several steps at once.

Shape letters: S steps, N samples of all of them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from itertools import islice

import torch
from torch import Tensor

from engine.assemble import Training
from engine.events import Event, StepDone, Warned
from engine.guard import WentWrong
from engine.spikes import IN_A_ROW
from engine.step import PendingStep

Emit = Callable[[Event], None]

FLUSH_SECONDS = 0.25
"""On a GPU the host waits for losses at most this often, since each wait stalls the queue of kernels."""


class StepReport:
    """Turns steps into events; on a GPU several at once, so that the host seldom waits."""

    def __init__(self, training: Training, emit: Emit) -> None:
        self._training = training
        self._emit = emit
        self._rows = training.guard.rows
        self.begin_anew()

    def begin_anew(self) -> None:
        """Forget what was not told yet: the run goes on from an earlier place."""
        self._pending: list[PendingStep] = []
        self._skipped = self._training.guard.skipped_steps
        self._told: int | None = None
        self.restart_clock()

    def restart_clock(self) -> None:
        """Begin to time the next step now: what came between was no training."""
        self._since = time.perf_counter()

    def add(self, step: PendingStep) -> None:
        """Keep a step until the next flush."""
        self._pending.append(step)

    def due(self) -> bool:
        """On the CPU every step is told at once: there is no queue to stall."""
        elapsed = time.perf_counter() - self._since
        return self._training.device.type == "cpu" or elapsed >= FLUSH_SECONDS

    def check(self) -> None:
        """Tell all pending steps, then look at the weights themselves: before anything is made of them.

        Raises WentWrong.
        """
        self.flush()
        if self._told is not None and not finite_weights(self._training):
            raise WentWrong((self._told,), "The weights are not numbers any more")

    def flush(self) -> None:
        """Tell all pending steps; the only place of the loop where the host waits for numbers.

        Raises WentWrong at the first step that is not to be kept; those after it are not told.
        """
        pending, self._pending = self._pending, []
        if not pending:
            return
        losses_S = torch.stack([step.loss for step in pending]).tolist()
        norms_S = torch.stack([step.grad_norm for step in pending]).tolist()
        scaled_S = _counts([step.scaled for step in pending])
        all_plain = iter(torch.cat([step.plain_N for step in pending]).tolist())
        all_timesteps = iter(torch.cat([step.timesteps_N for step in pending]).tolist())
        seconds = (time.perf_counter() - self._since) / len(pending)
        used, peak = self._training.memory()
        for step, loss, norm, scaled in zip(pending, losses_S, norms_S, scaled_S, strict=True):
            plain_N = list(islice(all_plain, step.samples))
            timesteps_N = list(islice(all_timesteps, step.samples))
            self._refuse(step, loss, norm, plain_N)
            self._warn(step)
            self._emit(
                StepDone(
                    step=step.step,
                    epoch=step.epoch,
                    loss=loss,
                    lr=step.lr,
                    grad_norm=norm,
                    seconds=seconds,
                    samples=step.samples,
                    vram_bytes=used,
                    vram_peak_bytes=peak,
                    scaled_layers=scaled,
                    skipped=step.skipped,
                    rows=step.rows,
                )
            )
            self._told = step.step
            self._refuse_spike(step, plain_N, timesteps_N)
        self.restart_clock()

    def _refuse(
        self, step: PendingStep, loss: float, norm: float, plain_N: Sequence[float]
    ) -> None:
        if not math.isfinite(loss):
            raise WentWrong(
                (step.step,),
                f"The loss of step {step.step} is not a number",
                samples=[n for n, one in enumerate(plain_N) if not math.isfinite(one)],
            )
        if not math.isfinite(norm) and not self._training.scaler.is_enabled():
            raise WentWrong((step.step,), f"The gradient of step {step.step} is not a number")
        if step.scaler_lost:
            raise WentWrong(
                (step.step,),
                f"The fp16 loss scaler left out {step.backoffs} updates one after the other, to step "
                f"{step.step}",
                "train.precision",
            )

    def _refuse_spike(
        self, step: PendingStep, losses: Sequence[float], timesteps: Sequence[int]
    ) -> None:
        limit = self._training.spike_limit
        if self._training.guard.spikes.add(losses, timesteps, limit):
            steps = range(max(1, step.step - IN_A_ROW + 1), step.step + 1)
            raise WentWrong(
                steps,
                f"The loss of the steps {steps[0]} to {steps[-1]} was more than {limit:g} times the "
                "usual one of their timesteps",
                "train.spike_limit",
            )

    def _warn(self, step: PendingStep) -> None:
        """Of memory that ran short, once for each size; of skipped updates at 1, 2, 4, 8, ..."""
        if step.rows is not None and step.rows != self._rows:
            self._emit(
                Warned(
                    f"Memory ran short in step {step.step}: batches of "
                    f"{self._training.order.batch_size} are computed in passes of {step.rows} from "
                    "now on. The result is the same to rounding."
                )
            )
            self._rows = step.rows
        skipped = step.skipped or 0
        if skipped > self._skipped and skipped.bit_count() == 1:
            updates = "1 update was" if skipped == 1 else f"{skipped} updates were"
            self._emit(
                Warned(f"{updates} left out by the fp16 loss scaler so far; a few are normal.")
            )
        self._skipped = max(self._skipped, skipped)


@torch.no_grad()
def finite_weights(training: Training) -> bool:
    """Whether all trained numbers, and the averages that are shown of them, are finite."""
    trained = (pair.live.flat for pair in training.weights.pairs)
    numbers = [*trained, *training.averages.values().values()]
    # Lowest and highest need no second copy, and either is NaN where one number is.
    ends = [end for one in numbers for end in torch.aminmax(one)]
    return bool(torch.isfinite(torch.stack([end.float() for end in ends])).all())


def _counts(scaled_S: Sequence[Tensor | None]) -> list[int | None]:
    """Numbers of several steps in one wait; a run has them in all of its steps or in none."""
    known = [count for count in scaled_S if count is not None]
    if len(known) < len(scaled_S):
        return [None] * len(scaled_S)
    return [int(count) for count in torch.stack(known).tolist()]
