"""Rows over the declaration."""

from __future__ import annotations

import pytest

from engine.settings import Recipe
from engine.settings.check import parse
from engine.settings.names import find_setting, nearest_key
from engine.settings.walk import algorithms, number_text, sections, setting, settings


def test_every_field_of_every_section_has_a_row():
    recipe = Recipe()
    expected = {
        f"{name}.{key}" for name in sections() for key in type(getattr(recipe, name)).model_fields
    }
    assert {row.path for row in settings(recipe)} == expected
    assert {row.path for row in settings()} > expected


def test_a_row_tells_range_choices_default_and_unit():
    rate = setting("optim.lr")
    assert rate is not None
    assert (rate.kind, rate.range, rate.nullable) == ("number", "0 to 10", True)
    assert rate.default_text == "1e-4, or 1 for optimizers that find it themselves"
    step = setting("data.bucket_step")
    assert step is not None
    assert step.type == "whole number, 8 to 1024 and a multiple of 8"
    assert step.default_text == "64 px"
    every = setting("save.every_epochs")
    assert every is not None and every.default_text == "1 epoch"
    side = setting("data.resolution")
    assert side is not None and (side.kind, side.range) == ("pair", "at least 64")


def of(algorithm):
    return {"network": {"algorithm": algorithm}}


def test_network_settings_are_those_of_the_algorithm():
    lora = {row.path for row in settings(parse(of("locon")))}
    lokr = {row.path for row in settings(parse(of("lokr")))}
    assert "network.factor" in lokr - lora
    assert "network.rank" in lora & lokr
    one, other = setting("network.rank", "lora"), setting("network.rank", "lokr")
    assert one is not None and (one.kind, one.range) == ("whole", "1 to 1024")
    assert other is not None and (other.kind, other.choices) == ("mixed", ("full",))
    joined = setting("network.algorithm")
    assert joined is not None and joined.choices == joined.algorithms == algorithms()
    assert "network.rank" not in {row.path for row in settings(parse(of("ia3")))}


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("alpha", "network.alpha"),
        ("Keep tokens", "data.keep_tokens"),
        ("keep n tokens", "data.keep_tokens"),
        ("batch size", "train.batch_size"),
        ("--batch-size", "train.batch_size"),
        ("captions", "data.captions"),
        ("regularisation", "data.reg_folder"),
        ("Regularization", "data.reg_folder"),
        ("prior loss", "objective.prior_loss_weight"),
        ("prior loss weight", "objective.prior_loss_weight"),
        ("Learning rate", "optim.lr"),
        ("network_dim", "network.rank"),
        ("optim.lr", "optim.lr"),
        ("seed", "train.seed"),
        ("optim.learning_rate", "optim.lr"),
    ],
)
def test_a_setting_is_found_by_what_people_call_it(name, path):
    found = find_setting(name)
    assert found is not None and found.path == path


def test_an_unknown_name_finds_nothing_but_a_neighbour():
    assert find_setting("leraning_rate") is None
    assert find_setting("train.learning_rate") is None
    assert nearest_key("leraning_rate") == "optim.lr"
    assert nearest_key("data.resolutoin") == "data.resolution"
    assert nearest_key("trian.epochs") == "train.epochs"
    assert nearest_key("xyzzy") == ""


def test_other_names_lead_to_settings_that_exist():
    from engine.settings.names import OTHER_NAMES

    assert [name for name, path in OTHER_NAMES.items() if setting(path) is None] == []


@pytest.mark.parametrize(
    ("value", "text"), [(1e-4, "1e-4"), (0.5, "0.5"), (16.0, "16"), (2500, "2500"), (1e-8, "1e-8")]
)
def test_numbers_are_written_as_people_write_them(value, text):
    assert number_text(value) == text
    assert float(text) == value
