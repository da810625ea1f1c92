"""Averages of the weights: what they are, that training does not notice, and that they come back."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from engine.optim.averaged import (
    Averages,
    MovingAverage,
    ScheduleFree,
    averaged_weights,
    warm_decay,
)
from engine.optim.groups import Group, one_group
from engine.optim.optimizers import OptimizerChoice, build_optimizer
from engine.optim.weights import Weights
from engine.settings.optimizers import SCHEDULE_FREE


def groups() -> list[Group]:
    torch.manual_seed(0)
    return [one_group(part, 0.1, nn.Parameter(torch.randn(300))) for part in ("unet", "te")]


def descend(
    weights: Weights, optimizer: torch.optim.Optimizer, averages: Averages, which: range
) -> None:
    for step in which:
        optimizer.zero_grad(set_to_none=False)
        for parameter in weights.parameters:
            (parameter - step).square().sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        averages.update(step)


def live(weights: Weights) -> Tensor:
    return torch.cat([pair.live.flat.detach().clone() for pair in weights.pairs])


def shown(weights: Weights, averages: Averages) -> Tensor:
    with averaged_weights(SimpleNamespace(averages=averages)):
        return live(weights)


def test_the_moving_average_is_that_of_diffusers() -> None:
    weights = Weights(groups())
    optimizer = build_optimizer(OptimizerChoice("adamw"), weights.stepped)
    averages = MovingAverage(weights, 0.8)
    theirs = EMAModel(weights.parameters, decay=0.8, use_ema_warmup=False)
    for step in range(1, 61):
        descend(weights, optimizer, averages, range(step, step + 1))
        # Theirs counts from 0 and leaves the first decay at 0.
        theirs.optimization_step = step
        theirs.step(weights.parameters)
        assert warm_decay(0.8, step) == pytest.approx(theirs.cur_decay_value)
    expected = torch.cat([tensor.flatten() for tensor in theirs.shadow_params])
    torch.testing.assert_close(shown(weights, averages), expected)
    assert not torch.allclose(shown(weights, averages), live(weights))


def test_the_warm_start_forgets_the_beginning() -> None:
    assert [round(warm_decay(0.999, step), 3) for step in (1, 10, 100)] == [0.182, 0.55, 0.918]
    assert warm_decay(0.999, 10**6) == 0.999


def test_showing_the_average_changes_no_bit_of_training() -> None:
    weights = Weights(groups())
    optimizer = build_optimizer(OptimizerChoice("adamw"), weights.stepped)
    averages = MovingAverage(weights, 0.9)
    descend(weights, optimizer, averages, range(1, 4))
    before = live(weights)
    with pytest.raises(RuntimeError), averaged_weights(SimpleNamespace(averages=averages)):
        inside = live(weights)
        with averaged_weights(SimpleNamespace(averages=averages)):
            assert torch.equal(live(weights), inside), "entered again it changes nothing"
        raise RuntimeError
    assert not torch.equal(inside, before)
    assert torch.equal(live(weights), before)


def test_the_moving_average_comes_back_exactly() -> None:
    weights = Weights(groups())
    optimizer = build_optimizer(OptimizerChoice("adamw"), weights.stepped)
    averages = MovingAverage(weights, 0.9)
    descend(weights, optimizer, averages, range(1, 4))
    kept = {name: tensor.clone() for name, tensor in averages.state().items()}
    assert set(kept) == {"unet", "te"}
    again = MovingAverage(weights, 0.9)
    again.load_state(kept)
    descend(weights, optimizer, averages, range(4, 6))
    assert not torch.equal(shown(weights, again), shown(weights, averages))
    twin = MovingAverage(weights, 0.9)
    twin.load_state(averages.state())
    assert torch.equal(shown(weights, twin), shown(weights, averages))
    with pytest.raises(KeyError):
        again.load_state({"unet": kept["unet"]})


def test_what_scales_the_weights_scales_the_average_too() -> None:
    weights = Weights(groups())
    optimizer = build_optimizer(OptimizerChoice("adamw"), weights.stepped)
    averages = MovingAverage(weights, 0.9)
    descend(weights, optimizer, averages, range(1, 4))
    trained, average = live(weights), shown(weights, averages)

    def halve() -> None:
        for pair in weights.pairs:
            pair.live.flat.data.mul_(0.5)

    averages.apply(halve)
    assert torch.equal(live(weights), trained)
    assert torch.equal(shown(weights, averages), average * 0.5)


@pytest.mark.parametrize("name", sorted(SCHEDULE_FREE))
def test_schedule_free_shows_the_average_of_its_library(name: str) -> None:
    weights = Weights(groups())
    optimizer = build_optimizer(OptimizerChoice(name), weights.stepped)
    averages = ScheduleFree(weights, optimizer)
    assert torch.equal(shown(weights, averages), live(weights)), "before the first step"
    descend(weights, optimizer, averages, range(1, 12))
    before, ours = live(weights), shown(weights, averages)
    assert torch.equal(live(weights), before)
    state = copy.deepcopy(optimizer.state_dict())
    optimizer.eval()  # type: ignore[attr-defined]
    torch.testing.assert_close(ours, live(weights))
    assert not torch.allclose(ours, before)
    assert all(group["train_mode"] for group in state["param_groups"])


def test_a_part_that_leaves_schedule_free_keeps_its_average() -> None:
    weights = Weights(groups())
    optimizer = build_optimizer(OptimizerChoice("adamw-schedulefree"), weights.stepped)
    averages = ScheduleFree(weights, optimizer)
    descend(weights, optimizer, averages, range(1, 5))
    average = shown(weights, averages)[300:]
    averages.leave(frozenset({"te"}))
    optimizer.leave({"te"})
    weights.leave({"te"})
    assert torch.equal(live(weights)[300:], average)
    descend(weights, optimizer, averages, range(5, 8))
    assert torch.equal(shown(weights, averages)[300:], average)
    assert not torch.equal(shown(weights, averages)[:300], live(weights)[:300])
