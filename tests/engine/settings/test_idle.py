"""Settings without effect are named with the reason; changed ones only, and only where it is so."""

from __future__ import annotations

from typing import Any

import pytest

from engine.settings.check import parse
from engine.settings.idle import _IDLE, follows_no_schedule, idle_reason, idle_settings
from engine.settings.walk import setting

REG = {"reg_folder": "/reg"}
CASES: list[tuple[str, Any, dict[str, Any]]] = [
    # The setting, a value other than its default, and what gives it an effect.
    ("data.caption_extension", ".caption", {"data.captions": True}),
    ("data.keep_empty_captions", True, {"data.captions": True}),
    ("data.keep_tokens", 3, {"data.shuffle_tags": True}),
    ("data.keep_separator", "|||", {"data.tag_dropout": 0.1}),
    ("data.secondary_separator", ";;;", {"data.shuffle_tags": True}),
    ("data.mask_folder", "/masks", {"data.masked_loss": "folder"}),
    ("data.mask_mean", "picture", {"data.masked_loss": "alpha"}),
    ("data.reg_ratio", 0.5, {"data.reg_folder": "/reg"}),
    ("objective.prior_loss_weight", 0.5, {"data.reg_folder": "/reg"}),
    ("data.validation_seed", 4, {"data.validation": 0.1}),
    ("train.validate_every_epochs", 2, {"data.validation": 0.1}),
    ("train.validate_every_steps", 10, {"data.validation": 0.1}),
    ("data.vae_batch", 4, {"data.cache_latents": "disk"}),
    ("optim.lr", 1e-3, {"optim.optimizer": "adamw"}),
    ("optim.weight_decay", 0.1, {"optim.optimizer": "adamw"}),
    ("optim.betas", [0.9, 0.99], {"optim.optimizer": "adamw"}),
    ("optim.eps", 1e-7, {"optim.optimizer": "adamw"}),
    ("optim.d_coef", 0.8, {"optim.optimizer": "prodigy"}),
    ("schedule.scheduler", "linear", {"optim.optimizer": "adamw"}),
    ("schedule.warmup_percent", 5.0, {"optim.optimizer": "adamw"}),
    ("schedule.warmup_steps", 5, {"optim.optimizer": "adamw"}),
    ("schedule.cycles", 3, {"schedule.scheduler": "cosine_with_restarts"}),
    ("schedule.power", 2.0, {"schedule.scheduler": "polynomial"}),
    ("schedule.min_lr_ratio", 0.2, {"schedule.scheduler": "cosine_with_min_lr"}),
    ("schedule.decay_percent", 10.0, {"schedule.scheduler": "warmup_stable_decay"}),
    ("schedule.rules", "1:5,0.1", {"schedule.scheduler": "piecewise_constant"}),
    ("objective.huber_schedule", "constant", {"objective.loss": "huber"}),
    ("objective.huber_c", 0.2, {"objective.loss": "smooth_l1"}),
    ("objective.huber_scale", 2.0, {"objective.loss": "huber"}),
    ("objective.noise_offset_random", True, {"objective.noise_offset": 0.1}),
    ("objective.multires_discount", 0.1, {"objective.multires_iterations": 6}),
    ("objective.ip_noise_random", True, {"objective.ip_noise_gamma": 0.1}),
    ("objective.timestep_mean", 1.0, {"objective.timestep_shape": "logit_normal"}),
    ("objective.timestep_spread", 2.0, {"objective.timestep_shape": "beta"}),
    ("run.wandb_project", "mine", {"run.wandb": True}),
]
IDLE_ELSEWHERE: dict[str, dict[str, Any]] = {
    # What takes the effect away, where the defaults leave it.
    "data.caption_extension": {"data.captions": False},
    "data.keep_empty_captions": {"data.captions": False},
    "data.vae_batch": {"data.cache_latents": "off"},
    "optim.lr": {"optim.optimizer": "adafactor"},
    "optim.weight_decay": {"optim.optimizer": "rprop"},
    "optim.betas": {"optim.optimizer": "sgd"},
    "optim.eps": {"optim.optimizer": "sgd"},
    "schedule.scheduler": {"optim.optimizer": "adamw-schedulefree"},
    "schedule.warmup_percent": {"optim.optimizer": "adafactor"},
    "schedule.warmup_steps": {"optim.optimizer": "adafactor"},
}


def recipe(values: dict[str, Any]):
    nested: dict[str, dict[str, Any]] = {}
    for path, value in values.items():
        section, _, key = path.partition(".")
        nested.setdefault(section, {})[key] = value
    if nested.get("data", {}).get("masked_loss") == "folder":
        nested["data"].setdefault("mask_folder", "/masks")
    if nested.get("schedule", {}).get("scheduler") == "piecewise_constant":
        nested["schedule"].setdefault("rules", "1:5,0.1")
    return parse(nested)


@pytest.mark.parametrize(("path", "value", "works"), CASES, ids=[case[0] for case in CASES])
def test_a_changed_setting_without_effect_is_told_with_the_reason(path, value, works):
    idle = recipe({path: value, **IDLE_ELSEWHERE.get(path, {})})
    (words,) = [one for one in idle_settings(idle, [path]) if one.startswith(path)]
    assert "has no effect: " in words and words.endswith(".")
    assert idle_reason(idle, path) in words
    working = recipe({path: value, **works})
    assert idle_settings(working, [path]) == []
    assert idle_reason(working, path) == ""


def test_every_setting_of_the_table_exists_and_has_a_case():
    assert [path for path in _IDLE if setting(path) is None] == []
    assert {case[0] for case in CASES} == set(_IDLE)


def test_defaults_and_what_nobody_gave_are_not_told():
    assert idle_settings(recipe({"schedule.cycles": 1}), ["schedule.cycles"]) == []
    assert idle_settings(recipe({"schedule.cycles": 3}), []) == []


def test_a_schedule_is_not_followed_where_the_optimizer_decides():
    assert "averages its weights" in follows_no_schedule(
        recipe({"optim.optimizer": "sgd-schedulefree"})
    )
    assert "relative steps" in follows_no_schedule(recipe({"optim.optimizer": "adafactor"}))
    plain = {"optim.optimizer": "adafactor", "optim.arguments": ["relative_step=False"]}
    assert follows_no_schedule(recipe(plain)) == ""
