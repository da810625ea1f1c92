"""Where a run goes back to when its numbers go wrong, and how it ends when that helps no more."""

from __future__ import annotations

import copy
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import TYPE_CHECKING

import torch

from engine.assemble import Training
from engine.checkpoint.resume import put_back
from engine.checkpoint.state import Identity, Place, State, list_states, read_newest
from engine.errors import OutOfMemory, Problem, RunError, TrainingError
from engine.events import Event, RolledBack
from engine.guard import UpdateCutShort, WentWrong
from engine.inert import inert
from engine.memory import free_memory
from engine.outputs import Outputs
from engine.runs import RunFolder

if TYPE_CHECKING:
    from engine.data.order import BatchPlan

Emit = Callable[[Event], None]

LOWER = 0.5
"""What every learning rate is multiplied by at a rollback."""
SHOWN = 8
"""Pictures that a message names; the event names all."""


class Rollback:
    """Puts the newest good state of this run back, so often as the run may."""

    def __init__(
        self, training: Training, outputs: Outputs, folder: RunFolder, emit: Emit, place: Place
    ) -> None:
        """`place` is where this process begins to train, with the state of it in `training`."""
        self._training = training
        self._outputs = outputs
        self._folder = folder
        self._emit = emit
        self._from = place
        self._short: set[int] = set()
        """Steps whose update ran out of memory."""
        saved = any(path.name.endswith(f"-{place.step:08d}") for path in list_states(folder.states))
        self._start = None if saved else _state_now(training, place)

    def saved(self) -> None:
        """Outputs were written: once a state lies on the disk, that of the start is not kept."""
        if self._outputs.saved_states:
            self._start = None

    def undo(self, cause: WentWrong | UpdateCutShort) -> Place:
        """Go back; gives the place to go on from.

        Raises TrainingError where the run was rolled back as often as it may, with the last good state
        put back and written as a network file; OutOfMemory where memory runs short a second time.
        """
        if isinstance(cause, UpdateCutShort):
            return self._once_more(cause.step)
        guard, most = self._training.guard, self._training.rollbacks
        count, factor, rows = guard.rollbacks, guard.rate_factor, guard.rows
        pictures = self._pictures(cause.steps)
        place = self._go_back()
        guard.rows = rows
        guard.rollbacks, guard.rate_factor = count, factor
        if count >= most:
            raise TrainingError(self._used_up(cause, pictures, place))
        guard.rollbacks, guard.rate_factor = count + 1, factor * LOWER
        self._tell(cause.steps[-1], place, cause.reason, pictures)
        # With what was just learnt: killed now, the run would go on at the old rate.
        self._outputs.write_state(place)
        self.saved()
        return place

    def _once_more(self, step: int) -> Place:
        """The same steps at the same rate, after memory ran short while the weights were changed."""
        free_memory(self._training.device)
        if step in self._short:
            place = self._go_back()
            raise OutOfMemory(_no_room_to_update(step, place))
        self._short.add(step)
        guard = self._training.guard
        kept = guard.rollbacks, guard.rate_factor, guard.rows
        place = self._go_back()
        guard.rollbacks, guard.rate_factor, guard.rows = kept
        reason = f"Memory ran short while step {step} changed the weights"
        self._tell(step, place, reason, ())
        return place

    def _tell(self, step: int, place: Place, reason: str, pictures: tuple[str, ...]) -> None:
        guard = self._training.guard
        self._emit(
            RolledBack(
                step=step,
                to_step=place.step,
                reason=f"{reason}.",
                pictures=pictures,
                rate_factor=guard.rate_factor,
                count=guard.rollbacks,
                most=self._training.rollbacks,
            )
        )

    def _go_back(self) -> Place:
        state = self._newest()
        self._training.begin_anew()
        put_back(self._training, state)
        self._training.network.train()
        # Of a way that is left now, should the newest ones have been unreadable.
        self._outputs.saved_states.intersection_update(range(state.place.step + 1))
        return state.place

    def _newest(self) -> State:
        """Of the states of this very run: a resume from an early one leaves later ones in the folder."""
        for step in sorted({*self._outputs.saved_states, self._from.step}, reverse=True):
            try:
                return read_newest(self._folder.states, step=step)[0]
            except RunError:  # damaged, or removed since
                continue
        if self._start is None:
            raise TrainingError(
                Problem(
                    "The numbers of this run went wrong, and no saved state of it can be read.",
                    where=str(self._folder.states),
                    remedy="Check the disk; the network files on the way are listed in manifest.json.",
                )
            )
        return replace(self._start, optimizer=copy.deepcopy(self._start.optimizer))

    def _pictures(self, steps: Sequence[int]) -> tuple[str, ...]:
        """Names of all pictures of these steps, in their order and each once."""
        found = (
            inert(self._training.picture_name(item))
            for step in steps
            for batch in self._plan(step)
            for item in batch.items
        )
        return tuple(dict.fromkeys(found))

    def _plan(self, step: int) -> tuple[BatchPlan, ...]:
        """Batches of a step of this run."""
        ends = list(accumulate(self._training.steps_per_epoch))
        epoch = bisect_left(ends, step) + 1
        before = ends[epoch - 2] if epoch > 1 else 0
        return self._training.order.epoch(epoch)[step - before - 1].batches

    def _used_up(self, wrong: WentWrong, pictures: Sequence[str], place: Place) -> Problem:
        """Write the healthy file and say what happened, where, and what to do."""
        done = self._training.guard.rollbacks
        times = {0: "", 1: " The run was rolled back once before."}.get(
            done, f" The run was rolled back {done} times before."
        )
        shown = ", ".join(pictures[:SHOWN])
        more = f" and {len(pictures) - SHOWN} more" if len(pictures) > SHOWN else ""
        return Problem(
            f"{wrong.reason}; nothing of it was kept.{times}",
            where=f"{shown}{more}",
            remedy=f"{self._healthy_file(place)} {self._advice(wrong)}",
            path=wrong.path,
        )

    def _advice(self, wrong: WentWrong) -> str:
        advice = "Look at these pictures: if it is the same ones each time, mend or remove them."
        lower = "Else start again with a lower optim.lr"
        if self._training.precision == torch.float16:
            lower += ", or with train.precision bf16 or no"
        off = " Where such losses are right, resume with train.spike_limit=0."
        return f"{advice} {lower}.{off if wrong.path == 'train.spike_limit' else ''}"

    def _healthy_file(self, place: Place) -> str:
        if place.step == 0:
            return "Nothing had been learnt before it."
        stem = f"{self._folder.name}-step{place.step:08d}"
        if not self._outputs.write_network(place, stem):  # no memory for it
            return f"The state of step {place.step} is sound."
        return f"{stem}.safetensors holds the network of step {place.step}, which is sound."


def _state_now(training: Training, place: Place) -> State:
    """A copy of everything, in memory: for a run that has no state on the disk yet."""
    return State(
        place=place,
        identity=Identity("", "", "", 0),
        network=training.network.training_state(),
        optimizer=copy.deepcopy(training.optimizer.state_dict()),
        scaler=training.scaler.state_dict(),
        session={},
        averaged={
            name: tensor.detach().cpu().clone()
            for name, tensor in training.averages.state().items()
        },
        guard=training.guard.state(),
    )


def _no_room_to_update(step: int, place: Place) -> Problem:
    saved = f"The state of step {place.step} is whole. " if place.step > 0 else ""
    return Problem(
        f"Memory ran out twice while step {step} changed the weights: the optimizer has no room.",
        remedy=f"{saved}Close other programs that use the same memory and resume; where nothing else"
        " uses it: set optim.optimizer to adamw8bit or lower network.rank, and start a new run.",
    )
