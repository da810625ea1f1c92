"""Presets: partial recipes that say for whom and why."""

from __future__ import annotations

import pytest

from engine.errors import RecipeError, UsageError
from engine.settings.check import parse
from engine.settings.walk import setting
from lyctui.presets import broken_presets, list_presets, load_preset

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
