"""Learning-rate curves against the vectors of the specification and the libraries' own formulas."""

from __future__ import annotations

from typing import Any, get_args

import diffusers.optimization
import pytest
import torch
import transformers.optimization

from engine.optim.schedules import FORMULAS, Curve, warmup_length
from engine.settings.schedule import SchedulerName, piecewise_rules

RULES = "1:5,0.1:8,0.01"


def values(curve: Curve, rate: float = 1.0) -> list[float]:
    return [curve.factor(k, rate) for k in range(curve.steps)]


@pytest.mark.parametrize(
    ("scheduler", "warmup", "steps", "cycles", "expected"),
    [
        ("cosine", 2, 10, 1, [0.5, 1, 1, 0.962, 0.854, 0.691, 0.5, 0.309, 0.146, 0.038]),
        ("linear", 2, 10, 1, [0.5, 1, 1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]),
        ("cosine_with_restarts", 0, 12, 3, [1, 0.854, 0.5, 0.146] * 3),
        ("polynomial", 0, 10, 1, [1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]),
        ("constant_with_warmup", 4, 6, 1, [0.25, 0.5, 0.75, 1, 1, 1]),
        ("constant", 4, 6, 1, [0.25, 0.5, 0.75, 1, 1, 1]),
        ("rex", 1, 5, 1, [1, 1, 0.857, 0.667, 0.4]),
        ("adafactor", 0, 3, 1, [1, 1, 1]),
    ],
)
def test_curves(
    scheduler: SchedulerName, warmup: int, steps: int, cycles: int, expected: list[float]
) -> None:
    assert values(Curve(scheduler, steps, warmup, cycles)) == pytest.approx(expected, abs=6e-4)


def oracle(curve: Curve, rate: float) -> Any:
    """The library's own function of the step."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=rate)
    usual = {"num_warmup_steps": curve.warmup, "num_training_steps": curve.steps}
    match curve.scheduler:
        case "cosine_with_min_lr":
            made = transformers.optimization.get_cosine_with_min_lr_schedule_with_warmup(
                optimizer, **usual, min_lr_rate=curve.min_ratio
            )
        case "inverse_sqrt":
            made = transformers.optimization.get_inverse_sqrt_schedule(optimizer, curve.warmup)
        case "warmup_stable_decay":
            made = transformers.optimization.get_wsd_schedule(
                optimizer,
                **usual,
                num_decay_steps=int(curve.decay_percent / 100 * curve.steps),
                min_lr_ratio=curve.min_ratio,
            )
        case _:
            made = diffusers.optimization.get_scheduler(
                curve.scheduler,
                optimizer,
                step_rules=curve.rules,
                **usual,
                num_cycles=curve.cycles,
                power=curve.power,
            )
    return made.lr_lambdas[0]


@pytest.mark.parametrize("scheduler", sorted(set(FORMULAS) - {"rex", "adafactor"}))
@pytest.mark.parametrize("warmup", [0, 3])
@pytest.mark.parametrize("rate", [1.0, 5e-6])
def test_after_the_warmup_each_is_the_formula_of_its_library(
    scheduler: SchedulerName, warmup: int, rate: float
) -> None:
    curve = Curve(scheduler, 20, warmup, 3, 2.5, 0.2, 35.0, RULES)
    formula = oracle(curve, rate)
    expected = [formula(k) for k in range(warmup, 20)]
    assert values(curve, rate)[warmup:] == pytest.approx(expected, rel=1e-12)
    assert values(curve, rate)[:warmup] == [(k + 1) / 3 for k in range(warmup)]


def test_every_name_has_a_formula() -> None:
    assert set(FORMULAS) == set(get_args(SchedulerName))


def test_polynomial_ends_at_its_own_rate_whatever_the_part_begins_with() -> None:
    curve = Curve("polynomial", 10)
    for rate in (1e-4, 3e-7):
        assert rate * curve.factor(10, rate) == pytest.approx(1e-7)


def test_warmup_by_percent_and_by_count() -> None:
    assert warmup_length(1000, percent=10, count=None) == 100
    assert warmup_length(1000, percent=10, count=7) == 7
    assert warmup_length(5, percent=10, count=50) == 5
    assert warmup_length(1000, percent=10, count=0) == 0


def test_a_warmup_as_long_as_the_run_divides_by_nothing() -> None:
    for scheduler in get_args(SchedulerName):
        curve = Curve(scheduler, 4, 4, rules=RULES)
        assert values(curve) == [0.25, 0.5, 0.75, 1.0]
        assert curve.factor(4) >= 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1:500,0.1:400,0.01", "step 400 does not come after step 500"),
        ("1:500", "the factor after the last step is missing"),
        ("1:500,", "is not a factor"),
        ("a:500,1", '"a" is not a factor'),
        ("1:x,1", '"1:x" is not factor:step'),
        ("1:5,-1", "is not a factor"),
        ("nan", "is not a factor"),
    ],
)
def test_wrong_piecewise_rules_are_named(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=r"factor|step") as error:
        piecewise_rules(text)
    assert words in str(error.value)


def test_piecewise_rules() -> None:
    assert piecewise_rules(" 1 : 500 , 0.1:800, 0.01 ") == (((500, 1.0), (800, 0.1)), 0.01)
    assert piecewise_rules("0.5") == ((), 0.5)
