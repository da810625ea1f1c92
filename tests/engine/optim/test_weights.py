"""A network in half precision: rounded at random without bias, stepped in fp32, the same each time."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from engine.optim.groups import Group
from engine.optim.optimizers import OptimizerChoice, build_optimizer
from engine.optim.weights import Weights, stochastic_round

HALVES = [torch.bfloat16, torch.float16]
SHAPES = {"down": (4, 24), "up": (36, 4), "scalar": ()}


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("dtype", HALVES)
def test_rounding_at_random_has_no_bias(dtype: torch.dtype) -> None:
    x = torch.tensor([0.1, -0.3337, 1e-3, -2.7e-4, 1.0001, 1023.3, 1e-6])
    repeats = 40_000
    rounded = stochastic_round(x.repeat(repeats, 1), dtype, draws()).double()
    low, high = rounded.amin(0), rounded.amax(0)
    assert ((low <= x.double()) & (x.double() <= high)).all(), "only to the two neighbours"
    assert all(len(column.unique()) == 2 for column in rounded.T)
    # Standard error of the mean of a two-sided coin over the spacing.
    bound = 4.5 * (high - low) * 0.5 / repeats**0.5
    assert ((rounded.mean(0) - x.double()).abs() < bound).all()
    nearest = x.to(dtype).double()
    assert ((nearest - x.double()).abs() > bound).any(), "rounding to the nearest is biased"


@pytest.mark.parametrize("dtype", HALVES)
def test_what_the_type_holds_stays(dtype: torch.dtype) -> None:
    x = torch.cat([torch.randn(1000, generator=draws()), torch.tensor([0.0, 1.0, -2.0, 6e-8])])
    held = x.to(dtype)
    assert torch.equal(stochastic_round(held.float(), dtype, draws()), held)
    over = stochastic_round(torch.tensor([float("inf"), float("nan"), 3.3e38]), dtype, draws())
    assert not torch.isfinite(over[:2]).any()


def half_groups(dtype: torch.dtype) -> list[Group]:
    """Two parts in flat buffers, as the networks' own."""
    groups = []
    for number, part in enumerate(("unet", "te")):
        flat = nn.Parameter(torch.zeros(3 * 256, dtype=dtype))
        flat.grad = torch.zeros_like(flat)
        places = {
            f"{part}.{name}": (256 * index, torch.Size(shape))
            for index, (name, shape) in enumerate(SHAPES.items())
        }
        shaped = []
        for start, shape in places.values():
            cells = slice(start, start + shape.numel())
            flat.data[cells] = torch.randn(shape.numel(), generator=draws(number)).to(dtype)
            view = nn.Parameter(flat.data[cells].view(shape))
            view.grad = flat.grad[cells].view(shape)
            shaped.append(view)
        groups.append(Group(part, 1e-4, flat, places, shaped))
    return groups


def push(weights: Weights, step: int) -> None:
    """Gradients that are a function of the step, into the views that a network has."""
    weights.zero_grad()
    for pair in weights.pairs:
        for number, view in enumerate(pair.live.shaped):
            assert view.grad is not None
            view.grad.copy_(torch.randn(view.shape, generator=draws(100 * step + number)))


def steps(weights: Weights, optimizer: torch.optim.Optimizer, which: range) -> None:
    for step in which:
        push(weights, step)
        weights.gather()
        optimizer.step()
        weights.settle(7, step)


def numbers(weights: Weights) -> Tensor:
    return torch.cat([pair.live.flat.detach() for pair in weights.pairs])


@pytest.mark.parametrize("name", ["adamw", "adafactor", "prodigy", "lion8bit"])
def test_a_half_network_goes_on_exactly_from_its_state(name: str) -> None:
    weights = Weights(half_groups(torch.bfloat16))
    optimizer = build_optimizer(OptimizerChoice(name), weights.stepped)
    steps(weights, optimizer, range(1, 4))
    kept, state = numbers(weights).clone(), copy.deepcopy(optimizer.state_dict())
    steps(weights, optimizer, range(4, 7))
    again = Weights(half_groups(torch.bfloat16))
    fresh = build_optimizer(OptimizerChoice(name), again.stepped)
    for pair, values in zip(again.pairs, kept.chunk(2), strict=True):
        pair.live.flat.data.copy_(values)
    fresh.load_state_dict(state)
    steps(again, fresh, range(4, 7))
    assert torch.equal(numbers(again), numbers(weights))
    assert numbers(weights).dtype == torch.bfloat16
    for values in state["state"].values():
        kinds = {v.dtype for v in values.values() if isinstance(v, Tensor) and v.dim()}
        assert torch.bfloat16 not in kinds, "what the optimizer remembers is not rounded"


def test_between_steps_the_copies_take_no_memory() -> None:
    weights = Weights(half_groups(torch.bfloat16))
    optimizer = build_optimizer(OptimizerChoice("adamw"), weights.stepped)
    steps(weights, optimizer, range(1, 2))
    for pair in weights.pairs:
        assert pair.half
        assert pair.stepped.flat.untyped_storage().nbytes() == 4
        assert pair.stepped.flat.grad is None


def test_small_steps_are_not_lost() -> None:
    """Steps of a fiftieth of the spacing: to the nearest none would ever count."""
    group = half_groups(torch.bfloat16)[0]
    group.flat.data.fill_(1.0)
    weights = Weights([group])
    optimizer = torch.optim.SGD([weights.stepped[0].flat], lr=1.0)
    for step in range(1, 101):
        assert group.flat.grad is not None
        group.flat.grad.fill_(2**-8 / 50)
        weights.gather()
        optimizer.step()
        weights.settle(0, step)
    assert group.flat.float().mean().item() == pytest.approx(1 - 100 * 2**-8 / 50, rel=1e-3)


def test_gradients_in_fp16_are_unscaled_in_fp32() -> None:
    weights = Weights(half_groups(torch.float16))
    optimizer = build_optimizer(OptimizerChoice("adamw"), weights.stepped)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    before = numbers(weights).clone()
    for pair in weights.pairs:
        assert pair.live.flat.grad is not None
        pair.live.flat.grad.fill_(1024 * 1e-6)
    scaler.scale(torch.zeros(()))
    weights.gather()
    scaler.unscale_(optimizer)
    grads = [parameter.grad for parameter in weights.parameters]
    assert all(g is not None and g.dtype == torch.float32 for g in grads)
    assert grads[0] is not None
    assert grads[0][0].item() == pytest.approx(1e-6, rel=1e-3)
    assert grads[0][0].item() != torch.tensor(1e-6, dtype=torch.float16).item()
    scaler.step(optimizer)
    scaler.update()
    weights.settle(0, 1)
    assert not torch.equal(numbers(weights), before)
    for pair in weights.pairs:
        assert pair.live.flat.grad is not None
        pair.live.flat.grad.fill_(float("inf"))
    before = numbers(weights).clone()
    scaler.scale(torch.zeros(()))
    weights.gather()
    scaler.unscale_(optimizer)
    scaler.step(optimizer)
    scaler.update()
    weights.settle(0, 2)
    assert torch.equal(numbers(weights), before), "a step that overflows is left out"
    assert scaler.get_scale() == 512.0
