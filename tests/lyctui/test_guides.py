"""Explanations, and the numbers of a run in them."""

from __future__ import annotations

import re

import pytest

from engine.errors import UsageError
from engine.settings import Recipe
from lyctui.guides import (
    COMPUTED,
    PLACEHOLDERS,
    explain,
    explained,
    filled,
    find,
    guides,
    placeholders,
)

EVERY_NUMBER = dict.fromkeys((*PLACEHOLDERS, *COMPUTED), "7")


def test_numbers_are_shown_only_where_they_are_known():
    template = "Rank {rank} with alpha {alpha}. Scale {scale}. Steps {steps}."
    assert filled(template, {}) == ""
    assert filled(template, {"rank": "32"}) == ""
    assert filled(template, {"steps": "1 920"}) == "Steps 1 920."
    known = {"network.rank": "32", "alpha": "16", "scale": "0.5"}
    assert filled(template, known) == "Rank 32 with alpha 16. Scale 0.5."


def test_decimal_points_end_no_sentence():
    assert filled("Scale {scale} of 1.5 is {alpha}.", {"scale": "0.5", "alpha": "2.5"}) == (
        "Scale 0.5 of 1.5 is 2.5."
    )


def test_what_follows_from_known_numbers_is_computed():
    numbers = {"data.repeats": "10", "epochs": "12", "batch_size": "4", "accumulation": "2"}
    assert filled("Seen {exposures} times. A step has {effective_batch}.", numbers) == (
        "Seen 120 times. A step has 8."
    )


def test_values_with_braces_are_not_filled_again():
    assert filled("Trigger {trigger}.", {"trigger": "{steps}", "steps": "3"}) == "Trigger {steps}."


@pytest.mark.parametrize("path", sorted(guides()))
def test_every_text_shows_with_all_numbers_and_without(path):
    bare, full = explain(path), explain(path, EVERY_NUMBER)
    assert bare and "Here: " not in bare
    assert not placeholders(full)
    assert ("Here: " in full) == bool(guides()[path].here)


def test_names_lead_to_texts():
    assert explain("alpha") == explain("network.alpha")
    assert explain("Batch size") == explain("train.batch_size")
    assert explain("data.bucket_step") == "", "an expert setting has none"
    with pytest.raises(UsageError, match=r"Did you mean optim\.lr"):
        find("leraning rate")


def test_the_whole_explanation_begins_with_what_it_is():
    text = explained("keep tokens")
    assert text.startswith("data.keep_tokens · Keep tags\n")
    assert "whole number, 0 to 255" in text and "data.shuffle_tags" in text
    assert "Only for lokr." in explained("factor")
    assert "optim.max_grad_norm: " in explained("optim") and "train.epochs" not in explained(
        "optim"
    )


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("network.alpha", ["000", "001", "002", "003", "004", "wrong"]),
        ("train.batch_size", ["000", "001", "002", "003", "004", "wrong", "disagree"]),
        ("data.captions", ["000", "001", "004", "contradict"]),
        ("data.keep_tokens", ["001", "not", "counts tags"]),
        ("data.reg_folder", ["000", "001", "004", "differ"]),
        ("objective.prior_loss_weight", ["001", "backwards", "weaker"]),
    ],
)
def test_what_the_guides_say_and_where_they_err(path, wanted):
    text = explain(path)
    for word in wanted:
        assert word in text, f"{word} is not in the text of {path}"


CORRECTIONS = {
    # What a guide claims, and the words that set it right.
    "data.buckets": ("004", "in truth it is cropped"),
    "data.cache_latents": ("001", "neither uses GPU memory"),
    "data.folder": ("001", "calls WebP files unusable; they are not"),
    "data.keep_tokens": ("001", "They are not"),
    "data.no_upscale": ("001", "ignores them in this mode"),
    "data.reg_folder": ("001", "in truth they share batches"),
    "model.prediction": ("001", "Both are wrong"),
    "network.algorithm": ("000", "in truth its rank is 8"),
    "network.alpha": ("004", "when the result is weak is wrong"),
    "network.module_dropout": ("004", "this one skips whole layers"),
    "objective.prior_loss_weight": ("001", "near 0 is weaker"),
    "optim.lr": ("004", "only for its relative steps"),
    "schedule.cycles": ("004", "which have no cycles"),
    "schedule.warmup_percent": ("004", "That is wrong"),
    "train.accumulation": ("000", "It does not"),
    "train.batch_size": ("002", "that is wrong"),
    "train.epochs": ("000", "they are multiplied"),
    "train.seed": ("004", "in this program they follow it"),
}


@pytest.mark.parametrize("path", CORRECTIONS)
def test_an_error_of_a_guide_is_set_right_by_its_number(path):
    guide, words = CORRECTIONS[path]
    text = explain(path)
    assert re.search(rf"[Gg]uides?[^.:]*\b{guide}", text)
    assert words in text


def test_numbers_of_a_plan(planned):
    from lyctui.guides import run_numbers

    numbers = run_numbers(planned)
    assert numbers["images"] == "3" and numbers["reg_images"] == "2"
    assert (numbers["rank"], numbers["alpha"], numbers["scale"]) == ("16", "4", "0.25")
    assert numbers["effective_lr"] == "5e-5" and numbers["effective_te_lr"] == "1.25e-5"
    assert numbers["captioned"] == "1"
    assert numbers["steps"] == str(planned.steps)
    text = explain("alpha", numbers)
    assert "alpha 4 / rank 16 = scale 0.25" in text
    assert "each picture is seen 20 times" in explain("data.folder", numbers)
    missing = (
        {name for guide in guides().values() for name in placeholders(guide.here)}
        - set(numbers)
        - {"exposures", "effective_batch", "factor", "file_size"}
        - {"block_size", "constraint", "min_rank"}  # of other algorithms
    )
    assert missing == set(), "a plan knows every number that the texts use"
    for path in guides():
        explain(path, numbers)


@pytest.fixture
def planned(tmp_path, monkeypatch):
    """The plan of a small run with regularisation, without a model."""
    from PIL import Image

    from engine.hardware import read_hardware
    from engine.plan import gather, plan
    from engine.settings.check import parse

    for place, count in (("img/10_vexilo emblem", 3), ("reg/1_emblem", 2)):
        folder = tmp_path / place
        folder.mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (512, 512), (number * 40, 90, 90)).save(folder / f"{number}.png")
    (tmp_path / "img/10_vexilo emblem/0.txt").write_text("vexilo emblem, on a table")
    recipe = parse(
        {
            "data": {
                "folder": str(tmp_path / "img"),
                "reg_folder": str(tmp_path / "reg"),
                "trigger": "vexilo",
                "class_word": "emblem",
            },
            "network": {"rank": 16, "alpha": 4},
            "optim": {"lr": 2e-4},
            "train": {"epochs": 2, "device": "cpu"},
            "run": {"folder": str(tmp_path / "runs")},
        }
    )
    assert isinstance(recipe, Recipe)
    return plan(recipe, gather(recipe, hardware=read_hardware()))
