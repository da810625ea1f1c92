"""The gradient of a step: batch by batch as planned, or in smaller passes where memory is short.

Shape letters: B samples of a pass, N samples of the step.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from engine.assemble import Training
from engine.batch_loss import batch_loss
from engine.checkpoint.state import Place
from engine.data.loader import Batch
from engine.errors import OutOfMemory, Problem
from engine.memory import free_memory, is_out_of_memory

if TYPE_CHECKING:
    from engine.data.order import StepPlan

OF_THE_BATCH = frozenset({"target_size"})
"""What a batch has once and not for each of its samples."""


@dataclass(frozen=True, slots=True)
class Computed:
    """What a step has found; its gradients lie in the weights."""

    loss: Tensor
    """Weighted mean over all samples."""
    plain_N: Tensor
    """Loss of each sample without any weight."""
    timesteps_N: Tensor


def step_gradients(training: Training, plan: StepPlan, place: Place) -> Computed:
    """The step's gradient: once more as a whole where memory ran short, then in ever smaller passes.

    All draws are keyed by planned batch and sample, so passes change nothing but the rounding. How small
    they had to be is kept in the guard. Raises OutOfMemory where not even one sample fits; a resume then
    begins with passes as large as they were before.
    """
    guard, before = training.guard, training.guard.rows
    largest = max(len(batch.items) for batch in plan.batches)
    again = True
    while True:
        found = _tried(training, plan, place, guard.rows or largest)
        if found is not None:
            return found
        # Nothing of the failed attempt is held any more: memory in small pieces may be whole again.
        training.weights.zero_grad()
        free_memory(training.device)
        if again:
            again = False
            continue
        rows = min(guard.rows or largest, largest)
        if rows == 1:
            guard.rows = before
            raise OutOfMemory(_one_is_too_much(training, place))
        guard.rows = rows // 2


def _tried(training: Training, plan: StepPlan, place: Place, rows: int) -> Computed | None:
    """All passes, or None where memory ran short; what they held is free once this has returned."""
    try:
        return _passes(training, plan, place, rows)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    return None


def _passes(training: Training, plan: StepPlan, place: Place, rows: int) -> Computed:
    """Forward and backward of every batch, at most so many rows at once."""
    training.weights.zero_grad()
    total = torch.zeros((), device=training.device)
    plain, timesteps = [], []
    first = 0
    for number, planned in enumerate(plan.batches):
        batch = training.loader.batch(
            planned, epoch=place.epoch, step=place.step, first_sample=first
        )
        for start, part in in_passes(batch, rows):
            training.network.begin(
                step=place.step, batch=number, first_sample=first + start, samples=len(part.items)
            )
            found = batch_loss(training, part, place.step, first + start)
            loss = found.weighted_B.sum() / plan.samples
            # What an algorithm asks of its factors counts once a step, however many passes it has.
            asked = training.network.penalty() if number == 0 and start == 0 else None
            whole = loss if asked is None else loss + asked
            training.scaler.scale(whole).backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
            plain.append(found.plain_B.detach())
            timesteps.append(found.timesteps_B)
        first += len(planned.items)
    # Not before backward, which may repeat the pass; what comes next stands at other timesteps.
    training.network.at_timesteps(None)
    return Computed(total, torch.cat(plain), torch.cat(timesteps))


def in_passes(batch: Batch, rows: int) -> Iterator[tuple[int, Batch]]:
    """The batch in parts of at most so many samples, each with the number of its first one."""
    count = len(batch.items)
    if count <= rows:
        yield 0, batch
        return
    for start in range(0, count, rows):
        yield start, _cut(batch, slice(start, start + rows))


def _cut(batch: Batch, rows: slice) -> Batch:
    values = {one.name: getattr(batch, one.name) for one in fields(batch)}
    cut = {
        name: value[rows]
        for name, value in values.items()
        if value is not None and name not in OF_THE_BATCH
    }
    return replace(batch, **cut)


def _one_is_too_much(training: Training, place: Place) -> Problem:
    steps = [] if training.checkpointing else ["switch train.checkpointing on"]
    steps.append("lower data.resolution")
    done = place.step - 1
    saved = f"What was learnt until step {done} is saved. " if done > 0 else ""
    return Problem(
        f"Memory ran out in step {place.step}, with a single picture at a time.",
        remedy=f"{saved}Close other programs that use the same memory and resume; where nothing else"
        f" uses it: {', or '.join(steps)}, and start a new run.",
    )
