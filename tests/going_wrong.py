"""Faults that a test puts into the steps of a run, and a run without a session to put them into."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from engine import gradients, step
from engine.assemble import Training, assemble
from engine.batch_loss import SampleLosses
from engine.checkpoint.resume import restore
from engine.checkpoint.state import Identity, Place, State, list_states, write_state
from engine.control import Control
from engine.events import Event
from engine.rollback import Rollback
from engine.runs import RunFolder
from engine.trainer import train
from tests.small_run import small_recipe

IDENTITY = Identity("recipe", "data", "base", 1)
NAN = float("nan")


def in_losses(
    patch: pytest.MonkeyPatch, change: Callable[[int, SampleLosses], SampleLosses]
) -> None:
    """Change what each pass gives, told the number of its step."""
    whole = gradients.batch_loss

    def changed(training: Training, batch: Any, number: int, first: int) -> SampleLosses:
        return change(number, whole(training, batch, number, first))

    patch.setattr(gradients, "batch_loss", changed)


@dataclass(slots=True)
class Fault:
    """Something that goes wrong in these steps, each so often."""

    steps: tuple[int, ...]
    times: int = 1
    met: list[int] = field(default_factory=list)
    """Steps in which it happened."""

    def due(self, number: int) -> bool:
        """Whether it happens now; counted."""
        happens = number in self.steps and self.met.count(number) < self.times
        if happens:
            self.met.append(number)
        return happens


def nan_in_loss(patch: pytest.MonkeyPatch, fault: Fault) -> None:
    """The loss of a step is not a number."""

    def change(number: int, found: SampleLosses) -> SampleLosses:
        return replace(found, weighted_B=found.weighted_B * (NAN if fault.due(number) else 1.0))

    in_losses(patch, change)


def nan_in_gradient(patch: pytest.MonkeyPatch, fault: Fault) -> None:
    """The loss is sound, and its gradient is not."""

    def change(number: int, found: SampleLosses) -> SampleLosses:
        if fault.due(number):
            found.weighted_B.register_hook(lambda gradient: gradient * NAN)
        return found

    in_losses(patch, change)


def nan_in_weights(patch: pytest.MonkeyPatch, fault: Fault) -> None:
    """An update leaves weights that are not numbers."""
    whole = step._limit_and_average

    def spoils(training: Training, number: int) -> Any:
        if fault.due(number):
            training.weights.pairs[0].live.flat.detach()[:3] = NAN
        return whole(training, number)

    patch.setattr(step, "_limit_and_average", spoils)


def spike(patch: pytest.MonkeyPatch, fault: Fault, times: float = 100.0) -> None:
    """The loss of a step is so many times what it is."""

    def change(number: int, found: SampleLosses) -> SampleLosses:
        factor = times if fault.due(number) else 1.0
        return replace(found, weighted_B=found.weighted_B * factor, plain_B=found.plain_B * factor)

    in_losses(patch, change)


def no_memory_in_update(patch: pytest.MonkeyPatch, fault: Fault) -> None:
    """Memory runs out in the middle of an update: the weights have moved, the averages have not."""
    whole = step._limit_and_average

    def fails(training: Training, number: int) -> Any:
        if fault.due(number):
            training.weights.pairs[0].live.flat.detach().mul_(2.0)
            raise torch.OutOfMemoryError("out of memory by a test")
        return whole(training, number)

    patch.setattr(step, "_limit_and_average", fails)


def no_memory_beyond(patch: pytest.MonkeyPatch, rows: int, *, steps: tuple[int, ...]) -> list[int]:
    """Passes of more samples than that find no memory in these steps; gives the sizes that were tried."""
    whole, tried = gradients.batch_loss, []

    def limited(training: Training, batch: Any, number: int, first: int) -> SampleLosses:
        if number in steps:
            tried.append(len(batch.items))
            if len(batch.items) > rows:
                raise torch.OutOfMemoryError("out of memory by a test")
        return whole(training, batch, number, first)

    patch.setattr(gradients, "batch_loss", limited)
    return tried


@dataclass(slots=True)
class Kept:
    """In place of `engine.outputs.Outputs`: states of some steps, and files as plain tensors."""

    training: Training
    folder: RunFolder
    states: tuple[int, ...]
    saved_states: set[int] = field(default_factory=set)
    files: dict[str, dict[str, torch.Tensor]] = field(default_factory=dict)

    def due(self, place: Place, **_: bool) -> bool:
        """Whether a state of the step is wanted."""
        return place.step in self.states

    def write_due(self, place: Place, **_: bool) -> None:
        """The state."""
        self.write_state(place)

    def write_state(self, place: Place) -> None:
        """As a run writes it."""
        training = self.training
        state = State(
            place=place,
            identity=IDENTITY,
            network=training.network.training_state(),
            optimizer=training.optimizer.state_dict(),
            scaler=training.scaler.state_dict(),
            session={"seconds": 0.0, "lineage": []},
            averaged=training.averages.state(),
            guard=training.guard.state(),
        )
        write_state(self.folder.states, state, keep=9)
        self.saved_states.add(place.step)

    def write_network(self, place: Place, stem: str) -> bool:
        """In memory."""
        self.files[stem] = self.training.network.tensors()
        return True

    def sample_if_missing(self, place: Place) -> None:
        """No pictures here."""


@dataclass(slots=True)
class Run:
    """A run that begins at a place, and what has come of it."""

    training: Training
    outputs: Kept
    place: Place
    events: list[Event] = field(default_factory=list)

    def go(self) -> Run:
        """To the end, whatever that is; nothing that it saved may hold a number that is none."""
        kept: Any = self.outputs
        try:
            rollback = Rollback(self.training, kept, kept.folder, self.events.append, self.place)
            train(self.training, kept, Control(), self.events.append, self.place, rollback)
        finally:
            self.training.loader.close()
            all_finite(kept.folder)
        return self

    def of(self, kind: type[Event]) -> list[Any]:
        """Its events of a kind."""
        return [event for event in self.events if isinstance(event, kind)]

    def tensors(self) -> dict[str, torch.Tensor]:
        """Everything that a file or a state would hold of the weights."""
        training = self.training
        found = training.network.training_state()
        found |= {f"average {name}": one for name, one in training.averages.state().items()}
        with training.averages.shown():
            shown = training.network.training_state()
        return found | {f"shown {name}": tensor for name, tensor in shown.items()}


def assembled(root: Path, **sections: dict[str, Any]) -> Training:
    """The training of a small recipe."""
    return assemble(small_recipe(root, **sections), root / "cache", lambda *_: None)


def prepared(
    root: Path,
    folder: RunFolder,
    *,
    states: tuple[int, ...] = (),
    resume: int | None = None,
    **sections: dict[str, Any],
) -> Run:
    """A run before its start, or put back to a state of `folder`."""
    folder.path.mkdir(exist_ok=True)
    training, place = assembled(root, **sections), Place()
    if resume is not None:
        place, _ = restore(folder, training, IDENTITY, from_step=resume)
    return Run(training, Kept(training, folder, states), place)


def all_finite(folder: RunFolder) -> None:
    """No state that was written holds a number that is none."""
    for state in list_states(folder.states):
        json.loads((state / "state.json").read_text("utf-8"))
        for file in state.glob("*.safetensors"):
            for name, tensor in load_file(file).items():
                assert torch.isfinite(tensor.float()).all(), f"{state.name}: {name}"


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Whether all tensors have the same bytes."""
    assert a.keys() == b.keys()
    return all(torch.equal(a[name], b[name]) for name in a)
