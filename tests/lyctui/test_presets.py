"""Presets: partial recipes that say for whom and why."""

from __future__ import annotations

import re

import pytest

from engine.errors import RecipeError, UsageError
from engine.settings.check import parse
from engine.settings.walk import setting
from lyctui.presets import GUIDES, broken_presets, list_presets, load_preset

GOALS = {"character", "person", "style", "concept", "multi-concept", "low-vram", "quick-look"}
NAMED_ANYWAY = {"network.algorithm"}
"""Tells which algorithm's settings follow, so it stands there even when it is the default."""


def all_presets():
    return {preset.name: preset for preset in list_presets(hidden=True)}


def test_the_goals_of_a_first_run_have_presets():
    assert set(all_presets()) >= GOALS
    assert list_presets()[0].name == "character"
    assert "demo" not in {preset.name for preset in list_presets()}


@pytest.mark.parametrize("name", sorted(all_presets()))
def test_a_preset_is_a_valid_partial_recipe_with_a_reason(name):
    preset = load_preset(name)
    recipe = parse(preset.values)
    assert recipe.model.path is None, "a preset says how to train, never whose files"
    assert preset.title and preset.for_whom and len(preset.why.split()) >= 15
    assert "\n" not in preset.why.strip()


@pytest.mark.parametrize("name", sorted(GOALS | {"clothing", "detail"}))
def test_a_preset_names_its_guide_and_holds_only_what_differs(name):
    preset = load_preset(name)
    assert any(f"00{number}" in preset.guide for number in range(5))
    for path, value in preset.flat.items():
        row = setting(path)
        assert row is not None
        assert value != row.default or path in NAMED_ANYWAY, path


@pytest.mark.parametrize("name", sorted(GOALS | {"clothing", "detail"}))
def test_prodigy_fits_over_every_preset(name):
    """A preset must not fix a rate that only AdamW can use."""
    values = load_preset(name).values
    assert parse({**values, "optim": {**values.get("optim", {}), "optimizer": "prodigy"}})


RECIPES = {preset.name: preset for preset in list_presets() if preset.group == GUIDES}
NUMBERS = {
    # What the guides' texts say, word by word; see each preset's `differs` for the rest.
    "photo-locon": {
        "network.algorithm": "locon", "network.rank": 8, "network.alpha": 4,
        "network.conv_rank": 4, "network.conv_alpha": 4, "optim.optimizer": "adamw",
        "optim.te_lr": 1e-4, "objective.multires_iterations": 10,
        "objective.multires_discount": 0.1, "train.epochs": 4, "train.batch_size": 3,
        "train.accumulation": 12, "data.captions": False, "data.repeats": 30,
    },
    "self-tuning": {
        "optim.optimizer": "prodigy", "optim.lr": 1.0, "optim.weight_decay": 0.1,
        "optim.betas": [0.9, 0.99], "network.rank": 32, "network.alpha": 1,
        "data.resolution": [768, 768], "objective.debiased": True, "train.batch_size": 1,
    },
    "high-alpha": {
        "network.rank": 64, "network.alpha": 512, "optim.optimizer": "adamw", "optim.lr": 1e-4,
        "optim.te_lr": 5e-5, "optim.weight_decay": 0.1, "optim.betas": [0.9, 0.99],
        "network.dropout": 0.1, "schedule.scheduler": "cosine_with_restarts",
        "schedule.cycles": 3, "objective.debiased": True,
    },
    "style-locon": {
        "network.algorithm": "locon", "network.targets": "full", "network.rank": 32,
        "network.alpha": 16, "network.conv_rank": 16, "network.conv_alpha": 1, "train.epochs": 35,
    },
    "style-glora": {"network.algorithm": "glora", "train.epochs": 35},
    "style-ia3": {"network.algorithm": "ia3", "optim.lr": 5e-3, "train.epochs": 35},
    "character-8gb": {
        "data.resolution": [512, 512], "network.rank": 32, "network.alpha": 16,
        "optim.lr": 1e-4, "optim.te_lr": 5e-5, "train.checkpointing": True,
    },
    "character-12gb": {
        "data.resolution": [576, 576], "network.rank": 64, "network.alpha": 32,
        "optim.lr": 1e-4, "optim.te_lr": 5e-5, "train.batch_size": 4,
    },
    "finest-detail": {"network.algorithm": "lokr", "network.rank": "full", "network.factor": 4},
    "native": {"network.algorithm": "full"},
}  # fmt: skip


def test_every_recipe_of_a_guide_has_its_numbers_here():
    assert set(RECIPES) == set(NUMBERS)


@pytest.mark.parametrize("name", sorted(NUMBERS))
def test_a_recipe_has_the_numbers_of_its_guide_and_says_where_it_differs(name):
    preset = RECIPES[name]
    assert {path: preset.flat.get(path) for path in NUMBERS[name]} == NUMBERS[name]
    assert re.match(r"guides? 00[0-4]", preset.guide) and len(preset.differs.split()) >= 15
    assert preset.purpose and set(preset.purpose) <= GOALS | {"clothing", "detail"}
    usual = [path for path, value in preset.flat.items() if value == setting(path).default]
    assert set(usual) <= NAMED_ANYWAY, "only what differs"


def test_the_scale_of_the_experiment_is_the_root_of_the_rank():
    network = parse(load_preset("high-alpha").values).network
    assert network.alpha / network.rank == pytest.approx(network.rank**0.5)


def exposures(name: str) -> int:
    recipe = parse(load_preset(name).values)
    return recipe.data.repeats * recipe.train.epochs


def test_the_lengths_are_those_of_the_guides():
    assert exposures("character") == 100  # guide 001
    assert 80 <= exposures("person") <= 120  # guide 000: 20 to 30 repeats, 4 epochs
    assert 30 <= exposures("style") <= 40  # guide 001, LyCORIS styles


def test_the_networks_are_those_of_the_guides():
    person = parse(load_preset("person").values)
    assert person.network.algorithm == "locon" and not person.data.captions
    assert (person.network.rank, person.network.conv_rank) == (8, 4)
    detail = parse(load_preset("detail").values).network
    assert detail.algorithm == "lokr" and detail.rank == "full" and 4 <= detail.factor <= 8
    style = parse(load_preset("style").values).network
    assert style.rank is not None and style.rank <= 32
    low = parse(load_preset("low-vram").values)
    assert (low.train.batch_size, low.train.checkpointing, low.optim.te_lr) == (1, True, 0)


def test_a_name_is_taken_as_people_write_it():
    assert load_preset("Low VRAM").name == "low-vram"
    assert load_preset("multi_concept").name == "multi-concept"
    with pytest.raises(UsageError, match="Did you mean character") as caught:
        load_preset("charakter")
    assert "person" in str(caught.value)


ABOUT = '[about]\ntitle = "Mine"\nfor_whom = "me"\nwhy = "because"\n'


def test_own_presets_win_by_name(tmp_path):
    (tmp_path / "character.toml").write_text(f"{ABOUT}[train]\nepochs = 3\n")
    own = load_preset("character", own=tmp_path)
    assert own.values == {"train": {"epochs": 3}} and own.title == "Mine"
    names = [preset.name for preset in list_presets(own=tmp_path)]
    assert names.count("character") == 1
    assert load_preset(str(tmp_path / "character.toml")).title == "Mine"


def test_a_wrong_preset_is_told_with_its_file(tmp_path):
    path = tmp_path / "bad.toml"
    path.write_text(f"{ABOUT}[train]\nepoch = 3\n")
    with pytest.raises(RecipeError, match=r"train\.epochs") as caught:
        load_preset(str(path))
    assert caught.value.problems[0].where == str(path)
    path.write_text("[train]\nepochs = 3\n")
    with pytest.raises(UsageError, match=r"\[about\] lacks title, for_whom, why"):
        load_preset(str(path))


def test_one_bad_preset_does_not_hide_the_others(tmp_path):
    (tmp_path / "bad.toml").write_text("[")
    (tmp_path / "mine.toml").write_text(ABOUT)
    names = [preset.name for preset in list_presets(own=tmp_path)]
    assert "mine" in names and "character" in names and "bad" not in names
    assert len(broken_presets(tmp_path)) == 1
    with pytest.raises(RecipeError, match="not TOML"):
        load_preset("bad", own=tmp_path)
