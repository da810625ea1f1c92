"""The loss with fixed noise: the same at each look, and no trace of it in what is trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from engine.assemble import Training, assemble
from engine.checkpoint.state import Place
from engine.control import Control
from engine.data.loader import Batch, Loader
from engine.data.order import BatchPlan
from engine.events import Event, Phase, StepDone, Validated, Warned
from engine.optim.averaged import MovingAverage
from engine.session import Session, create_run
from engine.settings.objective import Objective
from engine.validation import (
    TIMESTEPS,
    Validation,
    plan_validation,
    validate,
    validation_loss,
)
from tests.faults.allocator import AllocatorLimit
from tests.small_run import small_recipe, tensor_bytes

Watch = Callable[[Event, Control], None]
NETWORK = {"algorithm": "lora", "rank": 4, "alpha": 2.0, "dropout": 0.1}
DATA = {"validation": 0.4, "shuffle_tags": True, "caption_dropout": 0.5, "flip": True}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("validation")


@pytest.fixture(scope="module")
def training(root: Path) -> Training:
    recipe = small_recipe(root, data=DATA, network=NETWORK)
    return assemble(recipe, root / "cache", lambda *_: None)


@pytest.fixture(scope="module")
def value(training: Training) -> float:
    return measured(training)


def validation_of(training: Training) -> Validation:
    assert training.validation is not None
    return training.validation


def measured(training: Training) -> float:
    """The held-out loss."""
    validation = validation_of(training)
    return validation_loss(training, validation, validation.held_out)


# What is measured, and when ---------------------------------------------------------------------


def planned(held_out: int = 2, trained: int = 20, *, epochs: int = 0, steps: int = 0) -> Any:
    """A plan of what is measured; nobody reads pictures here."""
    return plan_validation(
        cast("Loader", None),
        [],
        held_out=range(held_out),
        trained=range(held_out, held_out + trained),
        every_epochs=epochs,
        every_steps=steps,
        seed=1,
        rows=8,
    )


def test_nothing_is_measured_unless_pictures_are_held_out_and_it_is_asked_for() -> None:
    assert planned(held_out=0, epochs=1) is None
    assert planned() is None


def test_as_many_trained_pictures_are_measured_as_held_out_ones_but_a_few() -> None:
    few, many = planned(2, epochs=1), planned(9, epochs=1)
    assert (len(few.held_out), len(few.trained)) == (2, 4)
    assert (len(many.held_out), len(many.trained)) == (9, 9)
    assert len(planned(2, trained=3, epochs=1).trained) == 3
    assert planned(2, epochs=1).trained == few.trained


@pytest.mark.parametrize(
    ("every", "steps"),
    [
        ({"epochs": 1}, [0, 3, 6, 9, 10]),
        ({"epochs": 2}, [0, 6, 10]),
        ({"steps": 4}, [0, 4, 8, 10]),
        ({"epochs": 3, "steps": 5}, [0, 5, 9, 10]),
    ],
)
def test_it_is_due_by_epochs_and_steps_before_all_and_at_the_end(
    every: dict[str, int], steps: list[int]
) -> None:
    validation = planned(**every)
    due = [
        step
        for step in range(11)
        if validation.due(
            Place(step, max(1, -(-step // 3)), 1), ends_epoch=step % 3 == 0, last=step == 10
        )
    ]
    assert due == steps


def test_held_out_pictures_are_not_trained(training: Training) -> None:
    validation = validation_of(training)
    assert len(validation.held_out) == 2
    assert not set(validation.held_out) & set(validation.trained)
    seen = {
        item
        for epoch in (1, 2)
        for step in training.order.epoch(epoch)
        for batch in step.batches
        for item in batch.items
    }
    assert seen == set(range(6)) - set(validation.held_out)
    assert set(validation.trained) == seen


# How ----------------------------------------------------------------------------------------------


def test_every_look_is_the_same_whatever_is_trained_with(training: Training, value: float) -> None:
    other = Objective(
        loss="l1", min_snr_gamma=20.0, noise_offset=1.0, ip_noise_gamma=1.0, max_timestep=10
    )
    assert measured(replace(training, objective=other)) == value
    assert measured(replace(training, seed=training.seed + 1)) != value


def test_it_draws_nothing_from_any_shared_generator(training: Training, value: float) -> None:
    before = torch.get_rng_state()
    assert measured(training) == value
    assert torch.equal(torch.get_rng_state(), before)
    assert all(member.adapter.training for member in training.network.members)


def test_fewer_rows_at_once_change_nothing_but_last_bits(training: Training, value: float) -> None:
    alone = replace(training, validation=replace(validation_of(training), rows=1))
    assert measured(alone) == pytest.approx(value, rel=1e-5)


def test_it_is_the_mean_square_at_the_four_timesteps(training: Training) -> None:
    """With a model that predicts nothing the loss is the mean square of the noise: 1."""
    asked: list[int] = []

    class Blind:
        latent_scale = training.model.latent_scale
        prediction = "epsilon"

        def predict(self, noisy: torch.Tensor, timesteps: torch.Tensor, *_: Any) -> torch.Tensor:
            asked.extend(timesteps.tolist())
            return torch.zeros_like(noisy)

    validation = validation_of(training)
    blind = replace(training, model=Blind())  # type: ignore[arg-type]
    assert validation_loss(blind, validation, validation.held_out) == pytest.approx(1.0, abs=0.05)
    assert asked == [*TIMESTEPS] * len(validation.held_out)


def test_pictures_are_seen_as_they_are(training: Training) -> None:
    validation = validation_of(training)
    for item in (*validation.held_out, *validation.trained):
        batch: Batch = validation.loader.batch(
            BatchPlan(validation.buckets[item], (item,)), epoch=1, step=0, first_sample=item
        )
        assert batch.captions == (training.survey.items[item].caption_raw,)


def test_it_sees_what_the_network_has_learnt(training: Training, value: float) -> None:
    average = MovingAverage(training.weights, 0.9)
    first = training.parameters[0]
    kept = first.detach().clone()
    first.data.add_(0.3 * torch.randn(kept.shape, generator=torch.Generator().manual_seed(1)))
    changed = measured(training)
    of_the_average = measured(replace(training, averages=average))
    first.data.copy_(kept)
    assert changed != value
    # Where an average is kept, it is what is measured.
    assert of_the_average == value


def test_a_stop_that_waits_ends_it_without_a_value(training: Training) -> None:
    events: list[Event] = []
    place = Place(3, 1, 3)
    validate(training, validation_of(training), place, events.append, stop_asked=lambda: True)
    assert not [event for event in events if isinstance(event, Validated)]
    assert [event.message for event in events if isinstance(event, Warned)] == [
        "Step 3 was not measured to the end: stop was asked."
    ]
    assert events[-1].name == "phase" and isinstance(events[-1], Phase)


# Whole runs ---------------------------------------------------------------------------------------


def run(folder: Path, recipe: Any, watch: Watch, *, resume: bool = False) -> list[Event]:
    seen: list[Event] = []
    holder: list[Session] = []

    def on_event(event: Event) -> None:
        seen.append(event)
        watch(event, holder[0].control)

    holder.append(Session(recipe, folder, resume=resume, on_event=on_event))
    holder[0].start()
    assert holder[0].wait(240)
    assert holder[0].error is None, holder[0].error
    return seen


def calmly(event: Event, control: Control) -> None:
    """Let the run go."""


def stop_at_1(event: Event, control: Control) -> None:
    if isinstance(event, StepDone) and event.step == 1:
        control.ask("stop")


def values(events: list[Event]) -> dict[int, tuple[float, float]]:
    return {
        event.step: (event.held_out, event.trained)
        for event in events
        if isinstance(event, Validated)
    }


def test_runs_end_in_the_same_bytes_measured_or_not_and_resumed(root: Path) -> None:
    def recipe(name: str, every: int) -> Any:
        return small_recipe(
            root,
            data=DATA,
            network=NETWORK,
            train={"max_steps": 3, "validate_every_epochs": 0, "validate_every_steps": every},
            run={"name": name},
        )

    plain, looked, resumed = recipe("plain", 0), recipe("looked", 2), recipe("resumed", 2)
    folders = [create_run(each) for each in (plain, looked, resumed)]
    assert values(run(folders[0], plain, calmly)) == {}
    whole = values(run(folders[1], looked, calmly))
    assert list(whole) == [0, 2, 3]
    before = values(run(folders[2], resumed, stop_at_1))
    after = values(run(folders[2], resumed, calmly, resume=True))
    assert (list(before), list(after)) == ([0], [2, 3])
    assert before | after == whole
    files = [tensor_bytes(folder / f"{folder.name}.safetensors") for folder in folders]
    assert files[0] == files[1] == files[2]


def test_a_measurement_that_does_not_fit_is_tried_again_and_then_left_out(
    training: Training, value: float
) -> None:
    def told() -> list[Event]:
        seen: list[Event] = []
        validate(training, validation_of(training), Place(4, 1, 4), seen.append)
        return [event for event in seen if not isinstance(event, Phase)]

    with AllocatorLimit(100_000, only_first=1):
        (measured_again,) = told()
    assert isinstance(measured_again, Validated) and measured_again.held_out == value
    limit = AllocatorLimit(100_000)
    with limit:
        (warning,) = told()
        assert limit.live == 0
    assert isinstance(warning, Warned) and "step 4 was not measured" in warning.message.lower()
    assert "not enough memory" in warning.message
