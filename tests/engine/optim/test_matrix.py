"""Every optimizer with every schedule on a small genuine network: finite numbers and a loss that falls."""

from __future__ import annotations

import copy
from typing import Any, get_args

import pytest
import torch
from torch import nn

from engine.assemble_optim import movers, te_stop_step
from engine.networks.choice import Choice
from engine.networks.network import Network, build
from engine.optim.averaged import averaged_weights
from engine.optim.optimizers import set_rates, told_rates
from engine.planning.curve import curve_of
from engine.settings import Recipe
from engine.settings.optimizers import ADAPTIVE, OPTIMIZERS
from engine.settings.schedule import SchedulerName
from tests.engine.networks.layers import Transformer2DModel, make_input

STEPS = 8
RATES = {"adadelta": 5.0, "adagrad": 0.2, "rprop": 1e-3, "radam-schedulefree": 0.2, "nadam": 0.02,
         "sgd": 0.5, "sgd-nesterov": 0.2, "sgd-nesterov8bit": 0.2, "asgd": 0.5,
         "sgd-schedulefree": 1.0, "came": 2e-3}  # fmt: skip
"""Rates at which a few steps tell, where 0.02 is not one."""
CPU = torch.device("cpu")


def recipe_of(optimizer: str, scheduler: str) -> Recipe:
    optim: dict[str, Any] = {"optimizer": optimizer, "lr": RATES.get(optimizer, 0.02)}
    if optimizer in ADAPTIVE:
        # In so few steps the estimates of two of them shoot past what this task bears.
        bound = " growth_rate=1.1" if optimizer in ("dadapt-adam", "dadapt-adan") else ""
        optim |= {"lr": 1.0, "arguments": [f"d0=0.001{bound}"]}
    schedule = {"scheduler": scheduler, "warmup_steps": 2, "rules": "1:5,0.5", "cycles": 2}
    return Recipe.model_validate({"optim": optim, "schedule": schedule})


class Task:
    """A LoRA on a frozen layer that learns the difference to another layer."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = Transformer2DModel(nn.Linear(24, 36)).requires_grad_(False)
        self.network: Network = build({"unet": self.model}, Choice("lora", 4, 4.0), seed=0)
        self.network.inject()
        self.x = make_input("linear")
        with torch.no_grad():
            self.goal = nn.Linear(24, 36)(self.x)
        self.start = copy.deepcopy(self.network.training_state())

    def loss(self) -> torch.Tensor:
        self.network.begin(step=1)
        loss: torch.Tensor = (self.model(self.x) - self.goal).square().mean()
        return loss

    def learn(self, recipe: Recipe) -> tuple[float, float, list[dict[str, float]]]:
        """Loss before and after, of the weights that would be shown, and the rates told."""
        self.network.load_training_state(self.start)
        rates = {"unet": recipe.optim.lr or 0.0}
        made = movers(recipe, self.network, rates, steps=STEPS, device=CPU, precision=torch.float32)
        told = []
        before = self.loss().item()
        for step in range(STEPS):
            factor = made.curve.factor(step, rates["unet"])
            due = set_rates(made.optimizer, {"unet": rates["unet"] * factor})
            made.weights.zero_grad()
            self.loss().backward()  # type: ignore[no-untyped-call]
            made.optimizer.step()
            told.append(told_rates(made.optimizer, due))
        with averaged_weights(made):
            return before, self.loss().item(), told


@pytest.fixture(scope="module")
def task() -> Task:
    return Task()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_loss_falls_with_every_schedule(task: Task, optimizer: str) -> None:
    for scheduler in get_args(SchedulerName):
        if scheduler == "adafactor" and optimizer != "adafactor":
            continue
        before, after, told = task.learn(recipe_of(optimizer, scheduler))
        assert after < before, (scheduler, before, after)
        assert all(rate["unet"] > 0 for rate in told), (scheduler, told)


def test_the_rates_that_are_told_are_those_that_move(task: Task) -> None:
    _, _, told = task.learn(recipe_of("adamw", "linear"))
    assert [round(rate["unet"], 5) for rate in told[:4]] == [0.01, 0.02, 0.02, 0.01667]
    _, _, told = task.learn(recipe_of("prodigy", "constant_with_warmup"))
    assert told[-1]["unet"] >= 0.001, "Prodigy's own estimate, at a rate of 1"
    _, _, told = task.learn(recipe_of("adafactor", "adafactor"))
    assert told[0]["unet"] == told[-1]["unet"] == 0.01, "relative steps, whatever the rate"


def test_relative_steps_and_schedule_free_follow_no_curve() -> None:
    for optimizer, warmup in (("adafactor", 0), ("adamw-schedulefree", 2)):
        curve = curve_of(recipe_of(optimizer, "linear"), STEPS)
        assert curve.warmup == warmup
        assert curve.factor(STEPS - 1) == 1.0
    assert curve_of(recipe_of("adamw", "linear"), STEPS).factor(STEPS - 1) == pytest.approx(1 / 6)


def test_every_schedule_setting_reaches_the_curve() -> None:
    schedule = {
        "scheduler": "rex", "warmup_percent": 30, "cycles": 4, "power": 3.0, "min_lr_ratio": 0.3,
        "decay_percent": 40, "rules": "1:3,0",
    }  # fmt: skip
    curve = curve_of(Recipe.model_validate({"schedule": schedule}), 10)
    assert (curve.scheduler, curve.steps, curve.warmup, curve.cycles) == ("rex", 10, 3, 4)
    assert (curve.power, curve.min_ratio, curve.decay_percent) == (3.0, 0.3, 40.0)
    assert curve.rules == "1:3,0"


@pytest.mark.parametrize(
    ("percent", "steps", "last"),
    [(80, 1000, 800), (0, 1000, None), (100, 1000, None), (33, 10, 4), (0.1, 30, 1), (7, 100, 7)],
)
def test_the_step_after_which_text_encoders_stop(
    percent: float, steps: int, last: int | None
) -> None:
    assert te_stop_step(percent, steps) == last
