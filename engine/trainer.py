"""The training loop: take a step plan, add noise, predict, compare, move the weights, save what is due.

Shape letters: B samples, C latent channels, H and W latent height and width.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from engine.assemble import Training
from engine.batch_loss import batch_loss
from engine.checkpoint.state import Place
from engine.control import Control
from engine.errors import Problem, TrainingError
from engine.events import Acknowledged, Event, Phase, StepDone, Warned
from engine.optim.optimizers import set_rates, told_rates
from engine.outputs import Outputs
from engine.validation import validate

if TYPE_CHECKING:
    from engine.data.order import BatchPlan, StepPlan

Emit = Callable[[Event], None]

FLUSH_SECONDS = 0.25
"""On a GPU the host waits for losses at most this often, since each wait stalls the queue of kernels."""


class Stopped(Exception):
    """The user asked to stop; the state of `place` is saved."""

    def __init__(self, place: Place) -> None:
        super().__init__(f"stopped at step {place.step}")
        self.place = place


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


def train(
    training: Training, outputs: Outputs, control: Control, emit: Emit, place: Place
) -> Place:
    """Train from `place` to the end. Raises Stopped after a saved stop; gives the last place."""
    report = StepReport(training, emit)
    training.network.train()
    if place.step == 0 or place.epoch_step == training.steps_per_epoch[place.epoch - 1]:
        outputs.sample_if_missing(place)
    if place.step == 0:
        _validate(training, report, control, emit, place, ends_epoch=False, last=False)
    while place.step < training.total_steps:
        place = _next_place(training, place)
        plan = training.order.epoch(place.epoch)[place.epoch_step - 1]
        report.add(train_step(training, plan, place))
        if report.due():
            report.flush()
        ends_epoch = place.epoch_step == training.steps_per_epoch[place.epoch - 1]
        last = place.step == training.total_steps
        _validate(training, report, control, emit, place, ends_epoch=ends_epoch, last=last)
        if outputs.due(place, ends_epoch=ends_epoch, last=last):
            report.flush()
            outputs.write_due(place, ends_epoch=ends_epoch, last=last)
            report.restart_clock()
        _obey(control, outputs, report, emit, place, last)
    return place


def _next_place(training: Training, place: Place) -> Place:
    if place.epoch_step < training.steps_per_epoch[place.epoch - 1]:
        return Place(place.step + 1, place.epoch, place.epoch_step + 1)
    return Place(place.step + 1, place.epoch + 1, 1)


def _validate(
    training: Training,
    report: StepReport,
    control: Control,
    emit: Emit,
    place: Place,
    *,
    ends_epoch: bool,
    last: bool,
) -> None:
    """Measure with fixed noise, where it is due.

    Before the state is written: whatever state a run goes on from, its value has been told.
    """
    validation = training.validation
    if validation is None or not validation.due(place, ends_epoch=ends_epoch, last=last):
        return
    report.flush()
    validate(training, validation, place, emit, stop_asked=lambda: control.asked("stop"))
    report.restart_clock()


def train_step(training: Training, plan: StepPlan, place: Place) -> PendingStep:
    """One optimizer step: the loss is the mean over all samples of all its batches."""
    samples = sum(len(batch_plan.items) for batch_plan in plan.batches)
    training.reach(place.step)
    due = {
        part: rate * training.curve.factor(place.step - 1, rate)
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
        training.skipped_steps += 1
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


class StepReport:
    """Turns steps into events; on a GPU several at once, so that the host seldom waits."""

    def __init__(self, training: Training, emit: Emit) -> None:
        self._training = training
        self._emit = emit
        self._pending: list[PendingStep] = []
        self._skipped = 0
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

    def flush(self) -> None:
        """Tell all pending steps; the only place of the loop where the host waits for numbers."""
        if not self._pending:
            return
        losses_S = torch.stack([step.loss for step in self._pending]).tolist()
        norms_S = torch.stack([step.grad_norm for step in self._pending]).tolist()
        scaled_S = _counts([step.scaled for step in self._pending])
        seconds = (time.perf_counter() - self._since) / len(self._pending)
        used, peak = self._training.memory()
        told = zip(self._pending, losses_S, norms_S, scaled_S, strict=True)
        for step, loss, norm, scaled in told:
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
                )
            )
        self._pending.clear()
        self._tell_skipped()
        self.restart_clock()

    def _tell_skipped(self) -> None:
        skipped = self._training.skipped_steps
        if skipped > self._skipped:
            self._emit(
                Warned(
                    f"{skipped} steps so far were skipped by the fp16 loss scaler; a few are normal."
                )
            )
            self._skipped = skipped


def _counts(scaled_S: Sequence[Tensor | None]) -> list[int | None]:
    """Numbers of several steps in one wait; a run has them in all of its steps or in none."""
    known = [count for count in scaled_S if count is not None]
    if len(known) < len(scaled_S):
        return [None] * len(scaled_S)
    return [int(count) for count in torch.stack(known).tolist()]


def _obey(
    control: Control,
    outputs: Outputs,
    report: StepReport,
    emit: Emit,
    place: Place,
    last: bool,
) -> None:
    """Answer the requests that wait at this step's end."""
    paused = False
    while True:
        for request in control.take():
            report.flush()
            emit(Acknowledged(request, place.step))
            match request:
                case "save":
                    outputs.write_now(place)
                case "sample":
                    outputs.sample(place)
                case "pause":
                    paused = True
                    emit(Phase("paused"))
                case "continue":
                    paused = False
                case "stop":
                    if not last:
                        outputs.write_now(place)
                    raise Stopped(place)
            report.restart_clock()
        if not paused:
            return
        control.wait(1.0)
        report.restart_clock()
