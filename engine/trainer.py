"""The training loop: take a step plan, move the weights, measure, save what is due, obey requests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from engine.assemble import Training
from engine.checkpoint.state import Place
from engine.control import Control, Request
from engine.errors import DataError, OutOfMemory
from engine.events import Acknowledged, Event, Phase
from engine.guard import UpdateCutShort, WentWrong
from engine.outputs import Outputs
from engine.rollback import Rollback
from engine.step import PendingStep, train_step
from engine.step_report import StepReport
from engine.validation import validate

Emit = Callable[[Event], None]


class Stopped(Exception):
    """The user asked to stop; the state of `place` is saved."""

    def __init__(self, place: Place) -> None:
        super().__init__(f"stopped at step {place.step}")
        self.place = place


def train(
    training: Training,
    outputs: Outputs,
    control: Control,
    emit: Emit,
    place: Place,
    rollback: Rollback,
) -> Place:
    """Train from `place` to the end. Raises Stopped after a saved stop; gives the last place.

    Where numbers go wrong, `rollback` says from where to go on, or that there is no more hope.
    """
    report = StepReport(training, emit)
    loop = Loop(training, outputs, control, emit, report, rollback)
    training.network.train()
    if place.step == 0 or place.epoch_step == training.steps_per_epoch[place.epoch - 1]:
        outputs.sample_if_missing(place)
    if place.step == training.total_steps:
        outputs.write_final_if_missing(place)
    if place.step == 0:
        _validate(loop, place, ends_epoch=False, last=False)
    while True:
        try:
            return _train_on(loop, place)
        except (WentWrong, UpdateCutShort) as found:
            # Without its traceback, which would hold all that the step had made.
            cause = found.with_traceback(None)
        place = rollback.undo(cause)
        report.begin_anew()


@dataclass(frozen=True, slots=True)
class Loop:
    """What the loop works with."""

    training: Training
    outputs: Outputs
    control: Control
    emit: Emit
    report: StepReport
    rollback: Rollback


def _train_on(loop: Loop, place: Place) -> Place:
    training, outputs, report = loop.training, loop.outputs, loop.report
    while place.step < training.total_steps:
        before, place = place, _next_place(training, place)
        report.add(_step(loop, place, before))
        if report.due():
            report.flush()
        ends_epoch = place.epoch_step == training.steps_per_epoch[place.epoch - 1]
        last = place.step == training.total_steps
        _validate(loop, place, ends_epoch=ends_epoch, last=last)
        if outputs.due(place, ends_epoch=ends_epoch, last=last):
            report.check()
            outputs.write_due(place, ends_epoch=ends_epoch, last=last)
            loop.rollback.saved()
            report.restart_clock()
        _obey(loop, place, last)
    return place


def _step(loop: Loop, place: Place, before: Place) -> PendingStep:
    """A step; where it cannot be done, the state of the step before is saved first.

    Not one picture fits into memory, or one is needed that is not there any more.
    """
    training, outputs = loop.training, loop.outputs
    plan = training.order.epoch(place.epoch)[place.epoch_step - 1]
    try:
        return train_step(training, plan, place)
    except (OutOfMemory, DataError):
        loop.report.check()
        if before.step > 0 and before.step not in outputs.saved_states:
            outputs.write_state(before)
        raise


def _next_place(training: Training, place: Place) -> Place:
    if place.epoch_step < training.steps_per_epoch[place.epoch - 1]:
        return Place(place.step + 1, place.epoch, place.epoch_step + 1)
    return Place(place.step + 1, place.epoch + 1, 1)


def _validate(loop: Loop, place: Place, *, ends_epoch: bool, last: bool) -> None:
    """Measure with fixed noise, where it is due.

    Before the state is written: whatever state a run goes on from, its value has been told.
    """
    validation, control = loop.training.validation, loop.control
    if validation is None or not validation.due(place, ends_epoch=ends_epoch, last=last):
        return
    loop.report.check()
    validate(loop.training, validation, place, loop.emit, stop_asked=lambda: control.asked("stop"))
    loop.report.restart_clock()


def _obey(loop: Loop, place: Place, last: bool) -> None:
    """Answer the requests that wait at this step's end."""
    control, outputs, report, emit = loop.control, loop.outputs, loop.report, loop.emit
    paused = False
    while True:
        for request in _taken(loop):
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
            loop.rollback.saved()
            report.restart_clock()
        if not paused:
            return
        control.wait(1.0)
        report.restart_clock()


def _taken(loop: Loop) -> tuple[Request, ...]:
    """The requests that wait, once the steps so far are known to be good; else they go on waiting."""
    requests = loop.control.take()
    if requests:
        try:
            loop.report.check()
        except WentWrong:
            loop.control.give_back(requests)
            raise
    return requests
