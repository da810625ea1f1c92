"""A state of another optimizer, or of other parameters, is refused in words before anything is put back."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from engine.checkpoint.resume import put_back
from engine.checkpoint.same_optimizer import refuse_other_optimizer
from engine.checkpoint.state import Identity, Place, State
from engine.errors import RunError
from engine.optim.groups import Group
from engine.optim.named import NamedOptimizer
from engine.optim.optimizers import OptimizerChoice, build_optimizer

SHAPES = {"a.down": (4, 8), "b.down": (2, 8), "c.scalar": ()}


def made(name: str = "adamw", shapes: dict[str, tuple[int, ...]] = SHAPES) -> NamedOptimizer:
    """An optimizer over these tensors that has made a step."""
    sizes = [torch.Size(shape) for shape in shapes.values()]
    flat = nn.Parameter(torch.randn(sum(256 for _ in sizes)))
    places = {
        key: (256 * at, size) for at, (key, size) in enumerate(zip(shapes, sizes, strict=True))
    }
    views = [nn.Parameter(torch.randn(size)) for size in sizes]
    optimizer = build_optimizer(OptimizerChoice(name), [Group("unet", 1e-3, flat, places, views)])
    for parameter in (flat, *views):
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return optimizer


def state(optimizer: NamedOptimizer) -> State:
    return State(
        place=Place(7, 1, 7),
        identity=Identity("", "", "", 1),
        network={},
        optimizer=copy.deepcopy(optimizer.state_dict()),
        scaler={},
        session={},
        kind=type(optimizer).__name__,
    )


@pytest.mark.parametrize("name", ["adamw", "adafactor", "prodigy", "came"])
def test_its_own_state_is_taken(name: str) -> None:
    optimizer = made(name)
    refuse_other_optimizer(optimizer, state(optimizer))
    refuse_other_optimizer(optimizer, replace(state(optimizer), kind=""))


def test_another_kind_is_named() -> None:
    with pytest.raises(RunError, match=r"step 7 .*its optimizer is AdamW, the recipe's is Prodigy"):
        refuse_other_optimizer(made("prodigy"), state(made("adamw")))


def test_other_parameters_are_named_without_their_escapes() -> None:
    theirs = state(made(shapes={**SHAPES, "x\x1b[2J.down": (4, 8)}))
    with pytest.raises(RunError, match=r"x.*down to train") as refused:
        refuse_other_optimizer(made(), theirs)
    assert "\x1b" not in str(refused.value)
    assert "--from-step" in str(refused.value)


def test_a_tensor_of_another_shape_is_named() -> None:
    theirs = state(made())
    theirs.optimizer["state"]["b.down"]["exp_avg"] = torch.zeros(3, 3)
    with pytest.raises(RunError, match=r"exp_avg of b\.down has another shape"):
        refuse_other_optimizer(made(), theirs)


def test_a_state_of_a_device_without_a_scaler_goes_on_where_there_is_one() -> None:
    """train.device may change: the loss scaler then begins anew."""
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    nothing: Any = SimpleNamespace(load_training_state=lambda _: None, load_state=lambda _: None)
    training: Any = SimpleNamespace(
        network=nothing,
        averages=nothing,
        guard=nothing,
        scaler=scaler,
        optimizer=made(),
        stop_parts=lambda _: None,
    )
    put_back(training, state(made()))
    assert scaler.get_scale() == 8.0
    put_back(training, replace(state(made()), scaler={**scaler.state_dict(), "scale": 2.0}))
    assert scaler.get_scale() == 2.0


BREAK: list[Callable[[dict[str, Any]], Any]] = [
    lambda optimizer: optimizer.pop("param_groups"),
    lambda optimizer: optimizer.pop("state"),
    lambda optimizer: optimizer["param_groups"].clear(),
    lambda optimizer: optimizer["param_groups"][0].pop("params"),
    lambda optimizer: optimizer.update(state={"a.down": None}),
    lambda optimizer: optimizer.update(state={"stranger": {"exp_avg": torch.zeros(1)}}),
]


@pytest.mark.parametrize("change", BREAK)
def test_what_no_optimizer_writes_is_words_too(change: Callable[[dict[str, Any]], Any]) -> None:
    theirs = state(made())
    change(theirs.optimizer)
    with pytest.raises(RunError, match="does not belong to this run"):
        refuse_other_optimizer(made(), theirs)
