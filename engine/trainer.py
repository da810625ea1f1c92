"""The training loop: take a step plan, move the weights, measure, save what is due, obey requests."""

from __future__ import annotations

from collections.abc import Callable

from engine.assemble import Training
from engine.checkpoint.state import Place
from engine.control import Control
from engine.events import Acknowledged, Event, Phase
from engine.outputs import Outputs
from engine.step import train_step
from engine.step_report import StepReport
from engine.validation import validate

Emit = Callable[[Event], None]


class Stopped(Exception):
    """The user asked to stop; the state of `place` is saved."""

    def __init__(self, place: Place) -> None:
        super().__init__(f"stopped at step {place.step}")
        self.place = place


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
