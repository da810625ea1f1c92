"""Steps as events; on a GPU several at once, so that the host seldom waits for numbers."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from engine.assemble import Training
from engine.events import Event, StepDone, Warned
from engine.step import PendingStep

Emit = Callable[[Event], None]

FLUSH_SECONDS = 0.25
"""On a GPU the host waits for losses at most this often, since each wait stalls the queue of kernels."""


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
        skipped = self._training.guard.skipped_steps
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
