"""Steps become events until one is not to be kept; what is told once is told once."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from engine.events import Event, StepDone, Warned
from engine.guard import MOST_BACKOFFS, Guard, WentWrong
from engine.spikes import FEWEST
from engine.step import PendingStep
from engine.step_report import StepReport, finite_weights

NAN, INF = float("nan"), float("inf")


def training(*, scaled: bool = False, limit: float = 5.0, **guard: Any) -> Any:
    """As much of one as a report looks at."""
    pair = SimpleNamespace(live=SimpleNamespace(flat=nn.Parameter(torch.ones(4))))
    return SimpleNamespace(
        guard=Guard(**guard),
        device=torch.device("cpu"),
        memory=lambda: (1, 2),
        scaler=torch.amp.GradScaler("cpu", enabled=scaled),
        spike_limit=limit,
        order=SimpleNamespace(batch_size=8),
        weights=SimpleNamespace(pairs=[pair]),
        averages=SimpleNamespace(values=dict),
    )


def step(number: int, loss: float = 1.0, norm: float = 1.0, **more: Any) -> PendingStep:
    """A step of two samples."""
    return PendingStep(
        number, 1, torch.tensor(loss), torch.tensor(norm), {"unet": 1e-3}, 2,
        torch.tensor([loss, loss]), torch.tensor([800, 900]), **more,
    )  # fmt: skip


def report(trained: Any, *steps: PendingStep) -> tuple[StepReport, list[Event]]:
    """With these steps waiting."""
    events: list[Event] = []
    made = StepReport(trained, events.append)
    for one in steps:
        made.add(one)
    return made, events


def told(events: list[Event]) -> list[int]:
    return [event.step for event in events if isinstance(event, StepDone)]


def warned(events: list[Event]) -> list[str]:
    return [event.message for event in events if isinstance(event, Warned)]


@pytest.mark.parametrize(
    ("loss", "norm", "word"), [(NAN, 1.0, "loss"), (INF, NAN, "loss"), (1.0, INF, "gradient")]
)
def test_steps_before_one_that_went_wrong_are_told_and_none_after_it(
    loss: float, norm: float, word: str
) -> None:
    made, events = report(training(), step(1), step(2), step(3, loss, norm), step(4))
    with pytest.raises(WentWrong, match=f"{word} of step 3 is not a number") as raised:
        made.flush()
    assert raised.value.steps == (3,)
    assert told(events) == [1, 2]
    made.begin_anew()
    made.flush()
    assert told(events) == [1, 2], "what waited behind it is forgotten"


@pytest.mark.parametrize(
    ("plain", "samples"), [((1.0, NAN), (1,)), ((NAN, INF), (0, 1)), ((1.0, 1.0), ())]
)
def test_the_samples_that_it_began_with_are_told(
    plain: tuple[float, ...], samples: tuple[int, ...]
) -> None:
    wrong = replace(step(2, NAN), plain_N=torch.tensor(plain))
    made, _ = report(training(), step(1), wrong)
    with pytest.raises(WentWrong) as raised:
        made.flush()
    assert raised.value.samples == samples


def test_an_infinite_gradient_is_normal_where_a_scaler_looks_for_its_scale() -> None:
    skips = [step(n, norm=INF, skipped=n, backoffs=n, scale=2.0**n) for n in range(1, 10)]
    made, events = report(training(scaled=True), *skips, step(10, skipped=9))
    made.flush()
    assert [event.skipped for event in events if isinstance(event, StepDone)] == [*range(1, 10), 9]
    assert [words.split()[0] for words in warned(events)] == ["1", "2", "4", "8"]


@pytest.mark.parametrize(
    ("backoffs", "scale"), [(MOST_BACKOFFS, 4.0), (2, 0.5)], ids=["too often", "too far"]
)
def test_a_scaler_that_finds_no_scale_has_gone_wrong(backoffs: int, scale: float) -> None:
    one = step(5, norm=INF, skipped=30, backoffs=backoffs, scale=scale)
    made, _ = report(training(scaled=True), one)
    with pytest.raises(WentWrong, match="scaler"):
        made.flush()
    made, events = report(training(scaled=True), replace(one, backoffs=2, scale=1.0))
    made.flush()
    assert told(events) == [5]


def test_skipped_updates_before_a_resume_are_not_told_again() -> None:
    made, events = report(training(scaled=True, skipped_steps=4), step(9, skipped=4))
    made.flush()
    assert not warned(events)


def test_three_spikes_running_name_their_steps() -> None:
    trained = training()
    calm = [step(number) for number in range(1, FEWEST)]
    made, events = report(trained, *calm, *[step(FEWEST + n, loss=6.0) for n in range(3)])
    with pytest.raises(WentWrong) as raised:
        made.flush()
    assert raised.value.steps == (FEWEST, FEWEST + 1, FEWEST + 2)
    assert told(events)[-1] == FEWEST + 2, "its loss is a number, and told"
    assert "5 times" in raised.value.reason
    made, _ = report(training(limit=0.0), *calm, *[step(FEWEST + n, loss=6.0) for n in range(3)])
    made.flush()


def test_memory_that_ran_short_is_told_once_for_each_size() -> None:
    steps = [step(1), step(2, rows=4), step(3, rows=4), step(4, rows=2), step(5, rows=2)]
    made, events = report(training(), *steps)
    made.flush()
    first, second = warned(events)
    assert first == (
        "Memory ran short in step 2: batches of 8 are computed in passes of 4 from now on. The "
        "result is the same to rounding."
    )
    assert "step 4" in second
    rows = [event.rows for event in events if isinstance(event, StepDone)]
    assert rows == [None, 4, 4, 2, 2]
    resumed, events = report(training(rows=2), step(6, rows=2))
    resumed.flush()
    assert not warned(events)


def test_weights_are_looked_at_before_anything_is_made_of_them() -> None:
    trained = training()
    made, events = report(trained, step(7))
    made.check()
    assert told(events) == [7]
    with torch.no_grad():
        trained.weights.pairs[0].live.flat[2] = INF
    assert not finite_weights(trained)
    with pytest.raises(WentWrong) as raised:
        made.check()
    assert raised.value.steps == (7,)


def test_averages_are_looked_at_too() -> None:
    trained = training()
    trained.averages = SimpleNamespace(values=lambda: {0: torch.tensor([1.0, NAN])})
    assert not finite_weights(trained)
