"""What is filled in for optimizer and schedule, and why, where nobody chose."""

from __future__ import annotations

from typing import Any

import pytest

from engine.planning.fill import Filled, fill
from engine.planning.notices import _settings
from engine.settings import Recipe
from engine.settings.network import asked
from engine.settings.optimizers import ADAPTIVE, OPTIMIZERS
from tests.engine.test_plan import facts


def filled(**sections: dict[str, Any]) -> Filled:
    return fill(Recipe.model_validate(sections), facts())


@pytest.mark.parametrize("optimizer", sorted(ADAPTIVE))
def test_adaptive_optimizers_get_rate_1_no_warmup_and_alpha_as_the_rank(optimizer: str) -> None:
    made = filled(optim={"optimizer": optimizer})
    optim = made.recipe.optim
    assert (optim.lr, optim.unet_lr, optim.te_lr) == (1.0, 1.0, 1.0)
    assert made.recipe.schedule.warmup_percent == 0
    network = made.recipe.network
    assert (asked(network, "rank"), asked(network, "alpha")) == (32, 32.0)
    assert OPTIMIZERS[optimizer].title in made.origins["optim.lr"].reason
    assert optim.weight_decay == 0.0


@pytest.mark.parametrize(
    ("optimizer", "decay", "betas"),
    [
        ("adamw", 0.01, (0.9, 0.999)), ("lion", 0.0, (0.9, 0.99)), ("adafactor", 0.0, None),
        ("came", 0.0, None), ("sgd-nesterov", 0.0, None), ("rprop", None, None),
        ("dadapt-adan", 0.0, None), ("paged-adamw8bit", 0.01, (0.9, 0.999)),
    ],
)  # fmt: skip
def test_decay_and_betas_are_the_optimizers_own(
    optimizer: str, decay: float | None, betas: tuple[float, float] | None
) -> None:
    optim = filled(optim={"optimizer": optimizer}).recipe.optim
    assert (optim.weight_decay, optim.betas) == (decay, betas)


def told(made: Filled) -> str:
    return " ".join(_settings(made))


def test_constant_with_a_warmup_becomes_another_schedule_and_is_told() -> None:
    words = "The constant schedule begins with the warmup"
    made = filled(schedule={"scheduler": "constant", "warmup_percent": 5})
    assert made.recipe.schedule.scheduler == "constant_with_warmup"
    assert words in told(made)
    made = filled(schedule={"scheduler": "constant"})
    assert made.recipe.schedule.scheduler == "constant"
    assert made.recipe.schedule.warmup_percent == 0, "nobody asked for a warmup"
    assert words not in told(made)
    made = filled(schedule={"scheduler": "constant_with_warmup"})
    assert made.recipe.schedule.warmup_percent == 10
    assert words not in told(made)


def test_what_follows_no_curve_gets_none() -> None:
    made = filled(optim={"optimizer": "adamw-schedulefree"})
    assert made.recipe.schedule.scheduler == "constant"
    assert made.recipe.schedule.warmup_percent == 10
    assert "averages" in made.origins["schedule.scheduler"].reason
    made = filled(optim={"optimizer": "adafactor"})
    assert made.recipe.schedule.scheduler == "adafactor"
    assert made.recipe.schedule.warmup_percent == 0
    own = filled(optim={"optimizer": "adafactor", "arguments": ["relative_step=False"]})
    assert own.recipe.schedule.scheduler == "cosine"


def test_a_network_in_fp16_asks_for_the_loss_scaler() -> None:
    made = filled(train={"network_precision": "fp16"})
    assert made.recipe.train.precision == "fp16"
    assert filled(train={"network_precision": "bf16"}).recipe.train.precision != "fp16"
