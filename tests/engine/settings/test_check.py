"""Every mistake at once, each with its path, the value, the rule and the nearest known key."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import Problem, RecipeError
from engine.settings import Recipe
from engine.settings.check import parse
from engine.settings.optimizers import optimizer_named, unfit
from engine.settings.walk import sections, settings


def problems_of(data) -> dict[str, Problem]:
    with pytest.raises(RecipeError) as caught:
        parse(data)
    assert caught.value.exit_code == 2
    return {problem.path: problem for problem in caught.value.problems}


def only(data) -> Problem:
    found = problems_of(data)
    assert len(found) == 1, found
    return next(iter(found.values()))


def test_nothing_given_is_the_default_recipe():
    assert parse({}) == Recipe()
    assert parse({"version": 1, "about": {"title": "x"}}) == Recipe()


def test_all_mistakes_are_told_at_once():
    found = problems_of(
        {
            "optim": {"lr": -1, "optimizer": "adam8bit", "leraning_rate": 3},
            "train": {"epochs": "10", "batch_size": True, "seed": 2**32},
            "network": {"factor": 4, "rank": 0},
            "data": {"resolution": [10, 512]},
            "dat": {"x": 1},
        }
    )
    assert set(found) == {
        "optim.lr",
        "optim.optimizer",
        "optim.leraning_rate",
        "train.epochs",
        "train.batch_size",
        "train.seed",
        "network.factor",
        "network.rank",
        "data.resolution",
        "dat",
    }
    assert found["optim.lr"].what == "Learning rate must be at least 0 (you wrote -1)."
    assert "one of adamw, adamw8bit, paged-adamw and others" in found["optim.optimizer"].what
    assert found["optim.optimizer"].remedy == "Did you mean adamw8bit?"
    assert found["optim.leraning_rate"].remedy == "Did you mean optim.lr?"
    assert 'a whole number, at least 1 (you wrote "10")' in found["train.epochs"].what
    assert "(you wrote true)" in found["train.batch_size"].what
    assert "each at least 64 (you wrote 10, 512)" in found["data.resolution"].what
    assert found["dat"].remedy == "Did you mean [data]?"


@pytest.mark.parametrize(
    ("name", "why"),
    [("SparseAdam", "sparse gradients"), ("torch.optim.LBFGS", "several times"),
     ("Muon", "matrices only")],
)  # fmt: skip
def test_an_optimizer_that_cannot_train_a_network_is_refused_with_the_reason(name, why):
    problem = only({"optim": {"optimizer": name}})
    assert problem.path == "optim.optimizer"
    assert why in problem.what
    assert "Did you mean" not in problem.remedy


def test_every_optimizer_of_torch_is_known_or_refused_with_a_reason():
    import torch

    names = [name for name in torch.optim.__all__ if name[0].isupper() and name != "Optimizer"]
    assert len(names) > 10
    for name in names:
        assert bool(optimizer_named(name)) != bool(unfit(name)), name


def test_the_file_is_named_with_each_mistake():
    with pytest.raises(RecipeError) as caught:
        parse({"optim": {"lr": -1}, "x": 1}, where="run.toml")
    assert [problem.where for problem in caught.value.problems] == ["run.toml", "run.toml"]


def test_a_setting_of_another_algorithm_is_named_as_such():
    problem = only({"network": {"algorithm": "lora", "factor": 8}})
    assert problem.what == "factor is not a setting of LoRA; LoKr has it."
    assert 'network.algorithm = "lokr"' in problem.remedy
    assert "full" not in only({"network": {"algorithm": "lora", "rank": "x"}}).what
    assert "full" in only({"network": {"algorithm": "lokr", "rank": "fulll"}}).what


def test_an_unknown_algorithm_is_one_mistake():
    problem = only({"network": {"algorithm": "locom", "rank": -5, "block_size": 4}})
    assert problem.path == "network.algorithm"
    assert problem.remedy == "Did you mean locon?"


def test_names_of_other_trainers_lead_to_ours():
    assert only({"optim": {"learning_rate": 1e-4}}).remedy == "Did you mean optim.lr?"
    assert only({"network_dim": 4}).remedy == "Did you mean network.rank?"
    assert only({"train": {"max_train_epochs": 4}}).remedy == "Did you mean train.epochs?"


@pytest.mark.parametrize("value", [math.nan, math.inf, True, "1", None, [1.0]])
def test_a_number_is_a_finite_number(value):
    assert only({"optim": {"max_grad_norm": value}}).path == "optim.max_grad_norm"


@pytest.mark.parametrize("value", [1, "yes", 0.0])
def test_a_switch_is_true_or_false(value):
    assert "true or false" in only({"data": {"flip": value}}).what


def test_zero_is_a_value():
    recipe = parse(
        {
            "optim": {"te_lr": 0, "max_grad_norm": 0},
            "objective": {"prior_loss_weight": 0, "min_snr_gamma": 0},
            "train": {"seed": 0},
            "network": {"alpha": 0, "conv_rank": 0},
            "data": {"repeats": 0, "keep_tokens": 0},
        }
    )
    assert recipe.optim.te_lr == 0 and recipe.optim.max_grad_norm == 0
    assert recipe.objective.prior_loss_weight == 0 and recipe.train.seed == 0
    assert recipe.network.alpha == 0 and recipe.data.keep_tokens == 0


def test_entries_of_folders_are_told_by_number():
    found = problems_of(
        {"data": {"folders": [{"name": "a", "repeats": -1}, {"reps": 3, "name": "b"}, {}, "c"]}}
    )
    whats = " / ".join(str(problem) for problem in found.values())
    assert "Entry 1 of data.folders: repeats must be at least 0 (you wrote -1)." in whats
    assert "Entry 2 of data.folders: reps is not a setting. Did you mean repeats?" in whats
    assert "Entry 3 of data.folders needs a name." in whats
    assert "Entry 4 of data.folders must be a table" in whats


def test_an_update_is_asked_for_by_a_newer_recipe():
    assert "this program reads version 1" in only({"version": 2}).what
    assert "you wrote" in only({"version": "1"}).what
    assert "must be a section" in only({"optim": 3}).what


def test_a_name_cannot_leave_its_folder():
    for name in ("a/b", "..", "a\x00b", "", " x", "\\x"):
        assert only({"run": {"name": name}}).path == "run.name"


def test_values_in_messages_are_short_and_harmless():
    what = only({"optim": {"optimizer": "\x1b[31m" + "x" * 500}}).what
    assert "\x1b" not in what and len(what) < 200


# between settings -----------------------------------------------------------------------------


def test_prodigy_needs_one_rate():
    problem = only({"optim": {"optimizer": "prodigy", "lr": 1, "te_lr": 0.5}})
    assert problem.path == "optim.te_lr"
    assert "U-Net 1, text encoder 0.5" in problem.what
    assert "set optim.te_lr to 0" in problem.remedy


@pytest.mark.parametrize(
    "optim", [{}, {"te_lr": 0}, {"lr": 0.5, "te_lr": 0.5}, {"unet_lr": 1, "te_lr": 1, "lr": 3}]
)
def test_prodigy_takes_one_rate_or_an_untrained_part(optim):
    assert parse({"optim": {"optimizer": "prodigy", **optim}})


def test_prodigy_ignores_the_rate_of_a_part_that_is_left_out():
    data = {"optim": {"optimizer": "prodigy", "te_lr": 0.5}, "network": {"targets": "unet-only"}}
    assert parse(data)


@pytest.mark.parametrize(
    ("data", "path"),
    [
        ({"optim": {"lr": 0, "te_lr": 0}}, "optim.lr"),
        ({"optim": {"te_lr": 0}, "network": {"targets": "te-only"}}, "optim.lr"),
        ({"objective": {"min_timestep": 10, "max_timestep": 5}}, "objective.min_timestep"),
        ({"objective": {"min_timestep": 1000}}, "objective.min_timestep"),
        ({"network": {"algorithm": "lokr", "decompose_both": True}}, "network.decompose_both"),
        (
            {"network": {"algorithm": "t-lora", "sig_type": "last", "use_data_init": False}},
            "network.sig_type",
        ),
        ({"network": {"algorithm": "lokr", "rs_lora": True}}, "network.rs_lora"),
        ({"network": {"algorithm": "lokr", "rank_dropout": 0.1}}, "network.rank_dropout"),
        ({"network": {"tucker": True}}, "network.tucker"),
        ({"data": {"cache_text": True}, "optim": {"te_lr": 5e-5}}, "data.cache_text"),
        (
            {"data": {"cache_text": True}, "optim": {"te_lr": 0, "te2_lr": 5e-5}},
            "data.cache_text",
        ),
        ({"data": {"folder": "a", "reg_folder": "a"}}, "data.reg_folder"),
        ({"data": {"separator": " "}}, "data.separator"),
        ({"data": {"folders": [{"name": "a"}, {"name": "a"}]}}, "data.folders"),
    ],
)
def test_contradictions_are_refused(data, path):
    assert only(data).path == path


@pytest.mark.parametrize(
    "data",
    [
        {"objective": {"min_timestep": 5, "max_timestep": 5}},
        {"network": {"algorithm": "lokr", "rank": 8, "decompose_both": True}},
        {"network": {"algorithm": "t-lora", "sig_type": "last"}},
        {"network": {"algorithm": "t-lora", "use_data_init": False}},
        {"network": {"algorithm": "lokr", "rank": 8, "rs_lora": True, "rank_dropout": 0.1}},
        {"network": {"targets": "full", "tucker": True}},
        {"data": {"cache_text": True}, "optim": {"te_lr": 0}},
        {"data": {"cache_text": True}},
        {"optim": {"lr": 0, "unet_lr": 1e-4}},
    ],
)
def test_what_is_no_contradiction_is_let_through(data):
    assert parse(data)


def test_every_setting_refuses_a_wrong_kind_in_words():
    """No message of the library beneath ever reaches a person."""
    for row in settings():
        data = {row.section: {row.key: object()}}
        if row.section == "network" and row.key != "algorithm":
            data["network"]["algorithm"] = row.algorithms[0]
        problem = next(iter(problems_of(data).values()))
        assert problem.path == row.path
        assert problem.what.startswith(f"{row.label} must be "), problem.what


ANY_VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
ANY_KEY = st.sampled_from([row.key for row in settings()]) | st.text(max_size=6)
ANY_RECIPE = st.dictionaries(
    st.sampled_from([*sections(), "version"]) | st.text(max_size=6),
    st.dictionaries(ANY_KEY, ANY_VALUE, max_size=4) | ANY_VALUE,
    max_size=4,
)


@given(ANY_RECIPE)
def test_whatever_is_given_a_recipe_or_problems_in_words_come_out(data):
    try:
        assert isinstance(parse(data), Recipe)
    except RecipeError as error:
        assert error.problems
        for problem in error.problems:
            assert problem.what.endswith((".", "…")) and "Input should" not in problem.what


def test_paths_become_paths():
    recipe = parse({"model": {"path": "a/b.safetensors"}})
    assert recipe.model.path == Path("a/b.safetensors")
