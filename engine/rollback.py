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
from engine.checkpoint.folders import step_of
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
        self._blamed: tuple[str, ...] = ()
        """Pictures that were there each time that numbers went wrong."""
        self._times = 0
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
        pictures = self._blame(cause)
        place = self._go_back(calm=True)
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

    def _go_back(self, *, calm: bool = False) -> Place:
        state = self._newest(calm=calm)
        self._training.begin_anew()
        put_back(self._training, state)
        self._training.network.train()
        # Of a way that is left now, should the newest ones have been unreadable.
        self._outputs.saved_states.intersection_update(range(state.place.step + 1))
        if state.place.step < self._from.step:
            self._from = state.place
        return state.place

    def _newest(self, *, calm: bool) -> State:
        """The newest state of this very run; where `calm`, of those that no spike had begun before.

        Such a one is only taken where there is no other.
        """
        spiking = None
        for step in self._steps():
            try:
                state, _ = read_newest(self._folder.states, step=step)
            except RunError:  # damaged, or removed since
                continue
            if not calm or not state.guard.get("spikes", {}).get("running"):
                return state
            spiking = spiking or state
        if spiking is not None:
            return spiking
        if self._start is None:
            raise TrainingError(
                Problem(
                    "The numbers of this run went wrong, and no saved state of it can be read.",
                    where=str(self._folder.states),
                    remedy="Check the disk; the network files on the way are listed in manifest.json.",
                )
            )
        return replace(self._start, optimizer=copy.deepcopy(self._start.optimizer))

    def _steps(self) -> list[int]:
        """Steps that may have a state of this very run, the newest first.

        What was there when it began is its past; a resume from an early state leaves later ones of
        another way in the folder.
        """
        past = (step_of(path) for path in list_states(self._folder.states))
        saved = self._outputs.saved_states
        return sorted({*saved, *(at for at in past if at <= self._from.step)}, reverse=True)

    def _blame(self, cause: WentWrong) -> tuple[str, ...]:
        """Names of the pictures of a cause; also kept are those that were there each time."""
        pictures = self._pictures(cause)
        self._times += 1
        before = pictures if self._times == 1 else self._blamed
        self._blamed = tuple(name for name in pictures if name in before)
        return pictures

    def _pictures(self, cause: WentWrong) -> tuple[str, ...]:
        """Names of all pictures of these steps, in their order and each once."""
        items = [item for step in cause.steps for batch in self._plan(step) for item in batch.items]
        if cause.samples:
            items = [items[sample] for sample in cause.samples]
        return tuple(dict.fromkeys(inert(self._training.picture_name(item)) for item in items))

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
        return Problem(
            f"{wrong.reason}; nothing of it was kept.{times}",
            where=_listed(pictures),
            remedy=self._remedy(wrong, place),
            path=wrong.path,
        )

    def _remedy(self, wrong: WentWrong, place: Place) -> str:
        begin = "start again"
        stem = f"{self._folder.name}-step{place.step:08d}"
        if place.step == 0:
            kept = "Nothing had been learnt before it."
        elif not self._outputs.write_network(place, stem):  # no memory for it
            kept = f"The state of step {place.step} is sound."
        else:
            kept = f"{stem}.safetensors holds the network of step {place.step}, which is sound."
            begin = "start a new run from that file with `lyctui resume FILE`"
        first = "Look at these pictures"
        if self._times > 1 and self._blamed:
            first = f"{_listed(self._blamed)}: there each time. Look at these first"
        lower = "Where nothing is wrong with them, start again with a lower optim.lr"
        if self._training.precision == torch.float16:
            lower += ", or with train.precision bf16 or no"
        off = " Where such losses are right, resume with train.spike_limit=0."
        return (
            f"{kept} {first}: mend or remove what is wrong and {begin}."
            f" {lower}.{off if wrong.path == 'train.spike_limit' else ''}"
        )


def _listed(pictures: Sequence[str]) -> str:
    more = f" and {len(pictures) - SHOWN} more" if len(pictures) > SHOWN else ""
    return f"{', '.join(pictures[:SHOWN])}{more}"


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
