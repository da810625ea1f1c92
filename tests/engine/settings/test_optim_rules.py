"""What optimizer, rates, schedule and averages refuse together, in words and at the right setting."""

from __future__ import annotations

from typing import Any

import pytest

from engine.settings import Recipe
from engine.settings.optimizers import ADAPTIVE, OPTIMIZERS
from engine.settings.rules import rules


def refused(**sections: dict[str, Any]) -> dict[str, str]:
    """What is said, by setting."""
    return {problem.path: str(problem) for problem in rules(Recipe.model_validate(sections))}


@pytest.mark.parametrize("optimizer", sorted(ADAPTIVE))
def test_adaptive_optimizers_take_one_rate_for_all_parts(optimizer: str) -> None:
    title = OPTIMIZERS[optimizer].title
    assert refused(optim={"optimizer": optimizer}) == {}
    for rates in (
        {"lr": 1.0, "te_lr": 0.5},
        {"unet_lr": 0.9, "te_lr": 1.0},
        {"lr": 1.0, "te2_lr": 0.5},
    ):
        said = refused(optim={"optimizer": optimizer, **rates})["optim.te_lr"]
        assert f"{title} uses one learning rate" in said
        assert "Give all of them the same rate, or set optim.te_lr to 0." in said
    # A part with rate 0 is left out of the optimizer.
    assert refused(optim={"optimizer": optimizer, "te_lr": 0.0}) == {}
    said = refused(optim={"optimizer": optimizer, "loraplus_ratio": 4})["optim.loraplus_ratio"]
    assert "two learning rates" in said


def test_other_optimizers_take_any_rates() -> None:
    for name in set(OPTIMIZERS) - ADAPTIVE:
        assert refused(optim={"optimizer": name, "lr": 1e-3, "te_lr": 1e-4}) == {}


def test_polynomial_must_begin_above_its_end() -> None:
    low: dict[str, dict[str, Any]] = {
        "optim": {"lr": 1e-4, "te_lr": 5e-8},
        "schedule": {"scheduler": "polynomial"},
    }
    assert "the rate of the text encoder begins no higher" in refused(**low)["schedule.scheduler"]
    low["optim"]["te_lr"] = 2e-7
    assert refused(**low) == {}


def test_piecewise_rules_are_read_before_the_start() -> None:
    said = refused(schedule={"scheduler": "piecewise_constant", "rules": "1:500,0.1:400,0"})
    assert "step 400 does not come after step 500" in said["schedule.rules"]
    assert refused(schedule={"scheduler": "piecewise_constant", "rules": "1:500,0"}) == {}


def test_adafactors_relative_steps() -> None:
    adafactor = {"optimizer": "adafactor"}
    off = {**adafactor, "arguments": ["relative_step=False"]}
    assert refused(optim=adafactor, schedule={"scheduler": "adafactor"}) == {}
    assert "schedule.scheduler" in refused(optim=off, schedule={"scheduler": "adafactor"})
    assert "schedule.scheduler" in refused(schedule={"scheduler": "adafactor"})
    both = {**adafactor, "arguments": ["relative_step=False warmup_init=True"]}
    assert "warmup_init" in refused(optim=both)["optim.arguments"]
    assert refused(optim={**adafactor, "arguments": ["warmup_init=True"]}) == {}
    said = refused(optim={**adafactor, "loraplus_ratio": 4})
    assert "relative steps take none" in said["optim.loraplus_ratio"]


def test_something_must_be_left_when_text_encoders_stop() -> None:
    stop = {"te_stop_percent": 50}
    assert refused(optim=stop) == {}
    assert "nothing would be left" in refused(optim={**stop, "unet_lr": 0})["optim.te_stop_percent"]
    assert refused(optim={"te_stop_percent": 100, "unet_lr": 0}) == {}


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"optim": {"optimizer": "dadapt-sgd"}}, "computes all weights anew"),
        ({"optim": {"optimizer": "dadapt-adagrad"}}, "computes all weights anew"),
        ({"optim": {"optimizer": "adamw-schedulefree"}}, "averages over weights"),
        (
            {"network": {"algorithm": "t-lora"}, "train": {"ema_decay": 0.9}},
            "scales its weights by one number",
        ),
        (
            {"train": {"ema_decay": 0.9, "network_precision": "bf16"}},
            "rounded in each step",
        ),
    ],
)
def test_max_norm_is_refused_where_it_would_not_hold(
    sections: dict[str, dict[str, Any]], words: str
) -> None:
    network = {"algorithm": "lora"} | sections.pop("network", {}) | {"max_norm": 1.0}
    assert words in refused(network=network, **sections)["network.max_norm"]
    assert refused(network=network | {"max_norm": 0.0}, **sections) == {}


def test_max_norm_goes_with_the_others() -> None:
    network = {"algorithm": "lora", "max_norm": 1.0}
    assert refused(network=network, train={"ema_decay": 0.9}) == {}
    assert refused(network=network, optim={"optimizer": "prodigy"}) == {}


def test_precisions_that_do_not_go_together() -> None:
    path = "train.network_precision"
    assert (
        "does not go with"
        in refused(train={"network_precision": "fp16", "precision": "bf16"})[path]
    )
    assert (
        "does not go with" in refused(train={"network_precision": "fp16", "precision": "no"})[path]
    )
    assert (
        "does not go with"
        in refused(train={"network_precision": "bf16", "precision": "fp16"})[path]
    )
    for precision in ("bf16", "no", None):
        assert refused(train={"network_precision": "bf16", "precision": precision}) == {}
    for algorithm in ("diag-oft", "boft", "ia3", "t-lora"):
        said = refused(network={"algorithm": algorithm}, train={"network_precision": "bf16"})
        assert "is trained in fp32 only" in said[path]
