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
    assert explain("data.suffix") == "", "an expert setting has none"
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
    "data.bucket_max": ("001", "ignores both limits"),
    "data.bucket_step": ("004", "mixes it up"),
    "data.random_crop": ("004", "crops follow the seed"),
    "data.workers": ("001", "They do not"),
    "network.block_size": ("001", "It does not"),
    "objective.multires_iterations": ("000", "the sizes do not matter"),
    "optim.optimizer": ("004", "only with its relative steps"),
    "optim.te_stop_percent": ("004", "does nothing for networks of this kind"),
    "train.threads": ("004", "training on a GPU does not wait"),
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
        - {"ema_span", "up_lr", "te_stop_step", "te2_lr", "resolutions"}  # not used here
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


def numbers_of(*, steps: int = 300, **sections: dict[str, object]) -> dict[str, str]:
    """Numbers of a run whose pictures are not known, as far as they follow from steps and answers."""
    from dataclasses import replace

    from engine.hardware import Hardware
    from engine.plan import Facts, plan
    from engine.settings.check import parse
    from lyctui.guides import run_numbers

    facts = Facts(Hardware((), 2, 2**34, 2**33), drawn_seed=1)
    return run_numbers(replace(plan(parse(sections), facts), steps=steps))


@pytest.mark.parametrize(
    ("sections", "name", "value"),
    [
        ({"optim": {"te_stop_percent": 40.5}}, "te_stop_step", "122"),
        ({"optim": {"te_stop_percent": 40.0, "te_lr": 0.0}}, "te_stop_step", None),
        ({"optim": {"lr": 1e-4, "loraplus_ratio": 16.0}}, "up_lr", "1.6e-3"),
        ({"schedule": {"cycles": 3, "warmup_steps": 30}}, "cycle_steps", "90"),
        ({"schedule": {"warmup_percent": 5.0}}, "warmup_steps", "15"),
        ({"schedule": {"warmup_steps": 900}}, "warmup_steps", "300"),
        ({"schedule": {"decay_percent": 25.0}}, "decay_steps", "75"),
        ({"schedule": {"min_lr_ratio": 0.05}, "optim": {"lr": 2e-4}}, "lowest_lr", "1e-5"),
        ({"train": {"ema_decay": 0.9}}, "ema_span", "10"),
        ({"train": {"ema_decay": 0.999}}, "ema_span", "34"),
        ({"objective": {"min_timestep": 200, "max_timestep": 700}}, "timesteps", "500"),
        ({"data": {"resolution": [768, 512]}}, "latent_size", "96×64"),
        ({"network": {"algorithm": "locon", "conv_rank": 16, "conv_alpha": 1.0}}, "conv_scale", "0.0625"),
    ],
)  # fmt: skip
def test_numbers_that_follow_from_several_answers(sections, name, value):
    assert numbers_of(**sections).get(name) == value


def test_input_perturbation_shows_its_own_number(planned):
    from lyctui.guides import run_numbers

    path = "objective.ip_noise_gamma"
    assert explain(path, run_numbers(planned)).endswith("Here: a gamma of 0.")
    assert explain(path, {path: "0.05"}).endswith("Here: a gamma of 0.05.")


def replanned(planned, **data):
    """Numbers of the same run with other answers about its pictures."""
    from engine.plan import gather, plan
    from lyctui.guides import run_numbers

    recipe = planned.recipe
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update=data)})
    return run_numbers(plan(recipe, gather(recipe)))


def test_held_out_pictures_are_counted(planned):
    numbers = replanned(planned, validation=0.34)
    assert (numbers["images"], numbers["held_out"]) == ("2", "1")
    assert "2 pictures are trained, 1 held out" in explain("data.validation", numbers)
    assert replanned(planned)["held_out"] == "0"


def test_captions_of_pictures_that_are_held_out_are_not_counted(planned):
    found = {
        replanned(planned, validation=0.34, validation_seed=seed)["captioned"] for seed in range(8)
    }
    assert found == {"0", "1"}, "one of the three has a caption, and is sometimes the one held out"


def test_several_sizes_multiply_what_each_picture_is_seen(planned):
    numbers = replanned(planned, more_resolutions=(256,))
    assert numbers["exposures"] == "40"
    assert "trained at 2 sizes. Each is seen 40 times." in explain("data.repeats", numbers)
    once = explain("data.repeats", replanned(planned))
    assert once.endswith("Here: 10 repeats × 2 epochs. Each is seen 20 times.")


def test_a_rate_that_is_found_is_not_told_as_a_strength():
    assert "effective_lr" in numbers_of(optim={"optimizer": "adamw"})
    numbers = numbers_of(optim={"optimizer": "prodigy"})
    assert "effective_lr" not in numbers and numbers["scale"] == "1"


def test_what_the_base_tells_stands_for_auto(planned):
    from dataclasses import replace

    from engine.models.facts import ModelFacts
    from lyctui.guides import run_numbers

    base = ModelFacts(planned.recipe.run.folder, "single", 1, family="sd2", prediction="v")
    assert run_numbers(replace(planned, base=base))["prediction"] == "v"
    assert run_numbers(planned)["prediction"] == "auto"


def test_one_of_a_kind_is_told_as_one():
    assert filled("{workers} workers and {cycles} cycles.", {"workers": "1", "cycles": "11"}) == (
        "1 worker and 11 cycles."
    )


def test_caches_are_told_in_bytes(planned):

    from engine.plan import gather
    from engine.planning.base import base_size
    from engine.planning.text_cache import text_cache_bytes
    from lyctui.guides import run_numbers

    # Three training and two regularisation pictures at 512 px: mean and deviation, 4 x 64 x 64 fp32.
    assert planned.sizes.cache_bytes == 5 * 2 * 4 * 64 * 64 * 4
    assert run_numbers(planned)["cache_size"] == "0.7 MB"
    recipe = planned.recipe
    cached = recipe.model_copy(
        update={
            "data": recipe.data.model_copy(update={"cache_text": True}),
            "model": recipe.model.model_copy(update={"max_tokens": 150}),
        }
    )
    facts = gather(recipe)
    # Captions: one own, the folder's, the class for regularisation, and the empty one.
    assert text_cache_bytes(cached, facts, base_size(None)) == 4 * 152 * 768 * 4
    assert text_cache_bytes(recipe, facts, base_size(None)) == 0
