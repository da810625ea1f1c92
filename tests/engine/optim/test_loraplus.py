"""LoRA+ reaches the up factors alone, and is refused in words where there are none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engine.assemble import assemble
from engine.optim.optimizers import set_rates
from engine.settings import Recipe
from engine.settings.rules import rules
from tests.small_run import small_recipe


def problems(network: dict[str, Any], optim: dict[str, Any]) -> list[str]:
    recipe = Recipe.model_validate({"network": network, "optim": optim})
    return [str(p.what) for p in rules(recipe) if p.path == "optim.loraplus_ratio"]


@pytest.mark.parametrize("algorithm", ["lora", "locon"])
def test_it_is_for_networks_with_an_up_factor(algorithm: str) -> None:
    assert problems({"algorithm": algorithm}, {"loraplus_ratio": 16}) == []
    assert problems({"algorithm": algorithm}, {}) == []


def test_it_is_refused_elsewhere() -> None:
    (told,) = problems({"algorithm": "lokr"}, {"loraplus_ratio": 16})
    assert "lokr has none" in told
    (told,) = problems({"algorithm": "lora"}, {"loraplus_ratio": 16, "optimizer": "prodigy"})
    assert "two learning rates" in told
    assert len(problems({"algorithm": "lokr"}, {"loraplus_ratio": 2, "optimizer": "prodigy"})) == 2


@pytest.mark.parametrize("optimizer", ["adamw", "adamw8bit"])
def test_a_run_trains_up_factors_at_their_own_rate(tmp_path: Path, optimizer: str) -> None:
    recipe = small_recipe(
        tmp_path,
        network={"algorithm": "lora", "rank": 4, "alpha": 2.0},
        optim={"optimizer": optimizer, "lr": 1e-3, "te_lr": 5e-4, "loraplus_ratio": 4.0},
    )
    training = assemble(recipe, tmp_path / "cache", lambda phase, done, total: None)
    told = set_rates(
        training.optimizer, {part: 0.5 * rate for part, rate in training.rates.items()}
    )
    assert told == {"unet": 5e-4, "te": 2.5e-4}
    rate_at = {
        group["params"][0].untyped_storage().data_ptr(): group["lr"]
        for group in training.optimizer.param_groups
    }
    for member in training.network.members:
        for name, parameter in member.adapter.named_parameters():
            ratio = 4.0 if "up" in name else 1.0
            expected = told[member.component] * ratio
            assert rate_at[parameter.untyped_storage().data_ptr()] == pytest.approx(expected)
    training.network.eject()
