"""Each optimizer lowers a loss, keeps its groups apart, and goes on exactly from its state."""

import copy

import pytest
import torch
from torch import nn

from engine.optim.optimizers import OptimizerChoice, build_optimizer, effective_rate, set_rates

NAMES = ["adamw", "adamw8bit", "prodigy"]


def bowl(name: str) -> tuple[list[nn.Parameter], torch.optim.Optimizer]:
    torch.manual_seed(0)
    parameters = [nn.Parameter(torch.randn(64, 128)), nn.Parameter(torch.randn(8))]
    rate = 1.0 if name == "prodigy" else 0.05
    optimizer = build_optimizer(
        OptimizerChoice(name, weight_decay=0.0),
        {"unet": parameters[:1], "te": parameters[1:]},
        {"unet": rate, "te": rate},
    )
    return parameters, optimizer


def descend(parameters: list[nn.Parameter], optimizer: torch.optim.Optimizer, steps: int) -> float:
    loss = torch.zeros(())
    for _ in range(steps):
        optimizer.zero_grad(set_to_none=True)
        loss = sum((p.square().sum() for p in parameters), torch.zeros(()))
        loss.backward()
        optimizer.step()
    return loss.item()


@pytest.mark.parametrize("name", NAMES)
def test_it_goes_down(name: str) -> None:
    parameters, optimizer = bowl(name)
    before = sum(p.square().sum().item() for p in parameters)
    assert descend(parameters, optimizer, 60) < 0.5 * before


@pytest.mark.parametrize("name", NAMES)
def test_it_goes_on_exactly_from_its_state(name: str) -> None:
    parameters, optimizer = bowl(name)
    descend(parameters, optimizer, 5)
    kept = copy.deepcopy(optimizer.state_dict())
    weights = [p.detach().clone() for p in parameters]
    descend(parameters, optimizer, 5)
    again, fresh = bowl(name)
    with torch.no_grad():
        for p, w in zip(again, weights, strict=True):
            p.copy_(w)
    fresh.load_state_dict(kept)
    descend(again, fresh, 5)
    assert all(torch.equal(a, b) for a, b in zip(again, parameters, strict=True))


def test_each_part_gets_its_own_rate() -> None:
    _, optimizer = bowl("adamw")
    current = set_rates(optimizer, {"unet": 1e-4, "te": 5e-5}, 0.5)
    assert current == {"unet": 5e-5, "te": 2.5e-5}
    assert [group["lr"] for group in optimizer.param_groups] == [5e-5, 2.5e-5]
    assert effective_rate({"lr": 1.0, "d": 1e-3}) == 1e-3
