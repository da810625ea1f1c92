"""The table of optimizers against the libraries' own signatures, and what lines of arguments mean."""

from __future__ import annotations

import importlib
import inspect
import math
from typing import Any, get_args

import pytest

from engine.errors import RecipeError
from engine.settings.arguments import idle_fields, read_arguments, relative_step, resolved
from engine.settings.check import parse
from engine.settings.optim import Optim
from engine.settings.optimizers import OPTIMIZERS, OptimizerName, optimizer_named
from engine.settings.toml import apply_sets

MODULES = {
    "torch": "torch.optim", "bitsandbytes": "bitsandbytes.optim",
    "pytorch-optimizer": "pytorch_optimizer",
}  # fmt: skip
HOW = frozenset(
    {
        "self", "params", "lr", "foreach", "fused", "capturable", "differentiable", "maximize",
        "kwargs", "momentum_dtype", "optim_bits", "args", "min_8bit_size", "is_paged",
    }
)  # fmt: skip
"""How it is computed, and the rate, which has settings of its own."""


def test_every_name_has_a_row() -> None:
    assert tuple(OPTIMIZERS) == get_args(OptimizerName)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_arguments_are_those_of_the_class(name: str) -> None:
    row = OPTIMIZERS[name]
    kind = getattr(importlib.import_module(MODULES[row.library]), row.source)
    theirs = inspect.signature(kind.__init__).parameters
    assert set(row.arguments) | set(row.left_out) == set(theirs) - HOW
    assert not set(row.arguments) & set(row.left_out)
    assert set(row.defaults) <= set(theirs)
    assert set(row.translated.values()) <= set(row.arguments)
    for key, argument in row.arguments.items():
        value = row.defaults.get(key, theirs[key].default)
        if value is not None:
            found = read_arguments(name, [f"{key}={value}"])
            assert not found.problems, (key, value)
            assert found.values[key] == value
        else:
            assert argument.blank


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (
            ["decouple=True weight_decay=0.1 betas=0.9,0.99"],
            {"weight_decouple": True, "weight_decay": 0.1, "betas": (0.9, 0.99)},
        ),
        (["betas=(0.9, 0.99),"], {"betas": (0.9, 0.99)}),
        (["weight_decay=0.1,"], {"weight_decay": 0.1}),
        (["use_bias_correction=true; beta3=None"], {"bias_correction": True, "beta3": None}),
        (["growth_rate=inf", " d_coef = 2 "], {"growth_rate": math.inf, "d_coef": 2.0}),
    ],
)
def test_lines_of_a_guide_are_read(lines: list[str], expected: dict[str, Any]) -> None:
    found = read_arguments("prodigy", lines)
    assert found.problems == ()
    assert found.values == expected
    assert all(type(found.values[key]) is type(value) for key, value in expected.items())


def test_adafactor_takes_the_names_of_transformers() -> None:
    found = read_arguments("adafactor", ["eps=(1e-30,1e-3) beta1=0.9", "relative_step=False"])
    assert found.problems == ()
    assert found.values == {
        "eps1": 1e-30, "eps2": 1e-3, "betas": (0.9, 1 - 1e-12), "relative_step": False
    }  # fmt: skip


@pytest.mark.parametrize(
    ("optimizer", "line", "words"),
    [
        ("prodigy", "d_coeff=2", "Prodigy has no argument d_coeff. Did you mean d_coef?"),
        ("adamw", "weight_decouple=True", "AdamW has no argument weight_decouple."),
        (None, "momentum=0.9", "AdamW has no argument momentum."),
        ("adamw", "betas=0.9", "must be two numbers such as 0.9,0.99, each at least 0 and below 1"),
        ("adamw", "betas=0.9,1.0", "each at least 0 and below 1"),
        ("adamw", "amsgrad=1", "amsgrad of AdamW must be True or False"),
        ("adamw", "eps=__import__('os')", "eps of AdamW must be a number, above 0"),
        ("adamw", "eps=0", "must be a number, above 0"),
        ("adamw", "weight_decay=nan", "must be a number, at least 0"),
        ("adamw", "fused", "An argument is written name=value"),
        ("adamw", "lr=1", "Set optim.lr instead"),
        ("sgd-nesterov8bit", "nesterov=True", "bitsandbytes takes it and does nothing with it"),
        ("radam-schedulefree", "silent_sgd_phase=False", "a rate of 1"),
    ],
)
def test_wrong_arguments_are_refused_in_words(optimizer: str | None, line: str, words: str) -> None:
    data: dict[str, Any] = {"optim": {"arguments": [line]}}
    if optimizer is not None:
        data["optim"]["optimizer"] = optimizer
    with pytest.raises(RecipeError) as refused:
        parse(data)
    (problem,) = refused.value.problems
    assert problem.path == "optim.arguments"
    assert words in str(problem)


def test_lines_win_over_fields_and_fields_over_defaults() -> None:
    plain = resolved(Optim(optimizer="prodigy"))
    assert (plain["weight_decay"], plain["d0"], plain["d_coef"]) == (0.0, 1e-6, 1.0)
    assert plain["weight_decouple"]
    assert not plain["safeguard_warmup"]
    assert resolved(Optim(optimizer="prodigy"), warms_up=True)["safeguard_warmup"]
    fields = Optim(optimizer="prodigy", weight_decay=0.2, betas=(0.8, 0.9), eps=1e-7, d_coef=2)
    assert resolved(fields) | {"beta3": 0} == plain | {
        "weight_decay": 0.2, "betas": (0.8, 0.9), "eps": 1e-7, "d_coef": 2.0, "beta3": 0
    }  # fmt: skip
    both = fields.model_copy(update={"arguments": ("weight_decay=0.3", "d_coef=3")})
    assert (resolved(both)["weight_decay"], resolved(both)["d_coef"]) == (0.3, 3.0)


def test_defaults_of_the_others() -> None:
    assert resolved(Optim(optimizer="adamw"))["weight_decay"] == 0.01
    assert resolved(Optim(optimizer="sgd-nesterov")) == {
        "momentum": 0.9, "nesterov": True, "weight_decay": 0.0
    }  # fmt: skip
    assert resolved(Optim(optimizer="dadapt-adam"))["weight_decouple"] is False
    assert resolved(Optim(optimizer="came", betas=(0.8, 0.9)))["betas"] == (0.8, 0.9, 0.9999)
    assert resolved(Optim(optimizer="adafactor"))["betas"][0] is None
    assert relative_step(Optim(optimizer="adafactor"))
    assert not relative_step(Optim(optimizer="adafactor", arguments=("relative_step=False",)))
    assert idle_fields(Optim(optimizer="lion", eps=1e-7, d_coef=2)) == ("eps", "d_coef")


@pytest.mark.parametrize(
    ("written", "ours"),
    [
        ("AdamW8bit", "adamw8bit"), ("DAdaptAdam", "dadapt-adam"), ("DAdaptation", "dadapt-adam"),
        ("Lion8bit", "lion8bit"), ("SGDNesterov", "sgd-nesterov"), ("AdaFactor", "adafactor"),
        ("PagedAdamW32bit", "paged-adamw32bit"), ("AdamWScheduleFree", "adamw-schedulefree"),
        ("torch.optim.NAdam", "nadam"), ("SGDNesterov8bit", "sgd-nesterov8bit"), ("CAME", "came"),
    ],
)  # fmt: skip
def test_names_of_other_trainers_are_taken_in_any_case(written: str, ours: str) -> None:
    for text in (written, written.lower(), written.upper()):
        assert optimizer_named(text) == ours
    recipe = parse(apply_sets({}, [f"optim.optimizer={written}"]))
    assert recipe.optim.optimizer == ours
    assert parse({"optim": {"optimizer": written}}).optim.optimizer == ours


def test_other_optimizers_are_refused_with_the_nearest() -> None:
    with pytest.raises(RecipeError, match=r"must be one of adamw, .*Did you mean dadapt-adam"):
        parse({"optim": {"optimizer": "DAdaptAdamm"}})
    with pytest.raises(RecipeError, match="must be one of"):
        parse({"optim": {"optimizer": "prodigyplus.ProdigyPlusScheduleFree"}})
