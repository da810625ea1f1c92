"""The latest numbers are summed up from events, also where a run repeats steps."""

import pytest

from engine.events import (
    Acknowledged,
    Ended,
    Phase,
    RolledBack,
    Sampled,
    Saved,
    Started,
    StepDone,
    Validated,
    Warned,
)
from engine.snapshot import Reducer


def step(number: int, loss: float, epoch: int = 1, seconds: float = 0.5) -> StepDone:
    return StepDone(number, epoch, loss, {"unet": 1e-4}, 1.0, seconds, 2)


def test_losses_means_and_remaining_time() -> None:
    reducer = Reducer("r")
    reducer.apply(Started("r", 10, (5, 5), 2, 10))
    for number in range(1, 6):
        snapshot = reducer.apply(step(number, float(number)))
    assert (snapshot.step, snapshot.total_steps, snapshot.epochs) == (5, 10, 2)
    assert snapshot.loss == 5
    assert snapshot.loss_epoch_mean == 3
    # The exponential mean begins as the plain one: it has nothing to forget yet.
    assert snapshot.loss_mean == pytest.approx(3)
    assert snapshot.remaining_seconds == pytest.approx((2.5, 2.5))
    assert snapshot.images_per_second == 4
    snapshot = reducer.apply(step(6, 9.0, epoch=2))
    assert snapshot.loss_epoch_mean == 9


def test_a_resume_takes_back_steps_that_are_repeated() -> None:
    reducer = Reducer("r")
    reducer.apply(Started("r", 10, (5, 5), 2, 10))
    for number in range(1, 8):
        reducer.apply(step(number, 1.0))
    snapshot = reducer.apply(Started("r", 10, (5, 5), 2, 10, step=5))
    assert [point.step for point in snapshot.points] == [1, 2, 3, 4, 5]
    snapshot = reducer.apply(step(6, 2.0))
    assert [point.step for point in snapshot.points][-1] == 6
    assert snapshot.first_step == 5


def test_pictures_of_repeated_steps_are_shown_once() -> None:
    reducer = Reducer("r")
    early, late, asked = (Sampled(at, 1, (f"{at}.png",), ("p",)) for at in (5, 7, 8))
    reducer.apply_all([Started("r", 10, (5, 5), 2, 10), early, late, asked])
    # A resume does the same steps again, and gives the same pictures.
    reducer.apply(Started("r", 10, (5, 5), 2, 10, step=5))
    assert reducer.apply(late).samples == (early, asked, late)
    rolled = RolledBack(8, 5, "why", (), 0.5, 1, 3)
    assert reducer.apply(rolled).samples == (early,), "those were of another way"


def test_pause_end_files_and_samples() -> None:
    reducer = Reducer("r")
    reducer.apply_all(
        [
            Started("r", 10, (5, 5), 2, 10, notes=("exact: weights",)),
            Phase("caching latents", 3, 12),
            StepDone(1, 1, 0.5, {"unet": 1e-4, "te": 5e-5}, 0.7, 1.5, 2, 100, 200),
            Saved("network", 5, 1, "/r/a.safetensors", 10, True, False),
            Sampled(5, 1, ("a.png",), ("a prompt",)),
            Warned("careful"),
            Acknowledged("pause", 3),
        ]
    )
    snapshot = reducer.snapshot
    assert snapshot.state == "paused"
    assert snapshot.files == ("/r/a.safetensors",)
    assert snapshot.samples[0].paths == ("a.png",)
    assert [type(event).__name__ for event in snapshot.log] == [
        "Started",
        "Saved",
        "Sampled",
        "Warned",
        "Acknowledged",
    ]
    assert reducer.apply(Acknowledged("continue")).state == "running"
    done = reducer.apply(Ended("finished", "r", ("x",), 10, 0))
    assert (done.state, done.files) == ("finished", ("x",))


def test_measurements_stand_in_the_order_of_their_steps_and_each_once() -> None:
    reducer = Reducer("r")
    started = Started("r", 10, (5, 5), 2, 10)
    values = [Validated(number, 1, 1.0 - number / 10, 0.5) for number in (0, 2, 4)]
    snapshot = reducer.apply_all([started, *values])
    assert snapshot.validations == tuple(values)
    assert snapshot.log[-1] == values[-1]
    # Resumed after step 2: what was measured later is measured again.
    snapshot = reducer.apply(Started("r", 10, (5, 5), 2, 10, step=2))
    assert snapshot.validations == tuple(values[:2])
    again = Validated(2, 1, 0.8, 0.5)
    assert reducer.apply(again).validations == (values[0], again)
