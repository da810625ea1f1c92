"""Each optimizer lowers a loss, keeps its groups apart, and goes on exactly from its state."""

import copy
import math
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.optimization import Adafactor

from engine.errors import EnvironmentFault
from engine.optim.groups import Group, indexed_state, named_state, one_group
from engine.optim.named import NamedOptimizer
from engine.optim.optimizers import OptimizerChoice, build_optimizer, effective_rate, set_rates
from engine.optim.probe import optimizer_works, require_optimizer
from engine.settings.optimizers import ADAPTIVE, OPTIMIZERS, SHAPED

NAMES = list(OPTIMIZERS)
EIGHT_BIT = [name for name, row in OPTIMIZERS.items() if row.eight_bit]
DECAY: dict[str, dict[str, float]] = {
    name: {"weight_decay": 0.01} if "weight_decay" in row.arguments else {}
    for name, row in OPTIMIZERS.items()
}
BOWL: dict[str, dict[str, float]] = {
    # From 1e-6 a distance of 1 takes D-Adaptation hundreds of steps to find.
    name: dict.fromkeys(DECAY[name], 0.0) | ({"d0": 0.01} if "d0" in row.arguments else {})
    for name, row in OPTIMIZERS.items()
}
SHAPES = {"up": (16, 320), "scalar": (), "down": (300, 17), "wide": (256,), "conv": (32, 15, 3, 3)}
"""Sizes that are and are not multiples of 256, large and small."""


def rate_of(name: str) -> float:
    """A rate at which the bowl below is descended."""
    own = {
        "adadelta": 20.0,
        "adagrad": 0.5,
        "asgd": 0.2,
        "rprop": 0.05,
        "adamw-schedulefree": 0.3,
        "radam-schedulefree": 0.5,
    }
    return 1.0 if name in ADAPTIVE else own.get(name, 0.1)


def bowl(name: str) -> tuple[list[nn.Parameter], NamedOptimizer]:
    torch.manual_seed(0)
    parameters = [nn.Parameter(torch.randn(64, 68)), nn.Parameter(torch.randn(8))]
    groups = [
        one_group(part, rate_of(name), p)
        for part, p in zip(("unet", "te"), parameters, strict=True)
    ]
    return parameters, build_optimizer(OptimizerChoice(name, BOWL[name]), groups)


def descend(parameters: list[nn.Parameter], optimizer: torch.optim.Optimizer, steps: int) -> float:
    loss = torch.zeros(())
    for _ in range(steps):
        optimizer.zero_grad(set_to_none=False)
        loss = sum((p.square().sum() for p in parameters), torch.zeros(()))
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return loss.item()


@pytest.mark.parametrize("name", [name for name in NAMES if not OPTIMIZERS[name].paged])
def test_it_goes_down(name: str) -> None:
    parameters, optimizer = bowl(name)
    before = sum(p.square().sum().item() for p in parameters)
    assert descend(parameters, optimizer, 25) < 0.8 * before


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
    current = set_rates(optimizer, {"unet": 5e-5, "te": 2.5e-5})
    assert current == {"unet": 5e-5, "te": 2.5e-5}
    assert [group["lr"] for group in optimizer.param_groups] == [5e-5, 2.5e-5]
    assert effective_rate({"lr": 1.0, "d": 1e-3}) == 1e-3


def test_lora_plus_multiplies_the_rate_of_its_group_and_is_not_told_as_the_rate() -> None:
    plain, plus = nn.Parameter(torch.ones(4)), nn.Parameter(torch.ones(4))
    groups = [
        one_group("unet", 1e-3, plain),
        Group("unet", 1e-3, plus, {"up": (0, plus.shape)}, [plus], ratio=16.0),
    ]
    optimizer = build_optimizer(OptimizerChoice("adamw", {"weight_decay": 0.0}), groups)
    assert set_rates(optimizer, {"unet": 5e-4}) == {"unet": 5e-4}
    assert [group["lr"] for group in optimizer.param_groups] == [5e-4, 8e-3]
    (plain.sum() + plus.sum()).backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    moved, moved_plus = 1 - plain.detach(), 1 - plus.detach()
    assert torch.allclose(moved_plus, 16 * moved, rtol=1e-3)


# flat and shaped ------------------------------------------------------------------------------


def flat_groups(values: dict[str, Tensor], rate: float, *, small: bool) -> list[Group]:
    """The layout of the networks' flat buffers: starts at multiples of 256, small ones apart."""
    groups = []
    for is_small in (False, True):
        names = [name for name, value in values.items() if (value.numel() < 4096) == is_small]
        names = names if small else ([] if is_small else list(values))
        if not names:
            continue
        places: dict[str, tuple[int, torch.Size]] = {}
        end = 0
        for name in names:
            places[name] = (end, values[name].shape)
            end += math.ceil(values[name].numel() / 256) * 256
        numbers, gradients = torch.zeros(end), torch.zeros(end)
        shaped = []
        for name, (start, shape) in places.items():
            cells = slice(start, start + shape.numel())
            numbers[cells] = values[name].flatten()
            view = nn.Parameter(numbers[cells].view(shape))
            view.grad = gradients[cells].view(shape)
            shaped.append(view)
        whole = nn.Parameter(numbers)
        whole.grad = gradients
        groups.append(Group("unet", rate, whole, places, shaped, small=is_small))
    return groups


def start(seed: int = 0) -> dict[str, Tensor]:
    source = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=source) for name, shape in SHAPES.items()}


def views(groups: list[Group]) -> dict[str, nn.Parameter]:
    return {
        name: view
        for group in groups
        for name, view in zip(group.places, group.shaped, strict=True)
    }


def train(groups: list[Group], optimizer: torch.optim.Optimizer, steps: range) -> None:
    """Steps with gradients that are a function of the step, the first of them partly zero."""
    for step in steps:
        optimizer.zero_grad(set_to_none=False)
        for name, gradient in start(100 + step).items():
            grad = views(groups)[name].grad
            assert grad is not None
            grad.copy_(gradient if step or name != "down" else torch.zeros_like(gradient))
        optimizer.step()


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(equal, a, b))
    return bool(a == b)


@pytest.mark.parametrize("name", NAMES)
def test_a_flat_run_goes_on_exactly_from_a_state_of_shaped_tensors(name: str) -> None:
    choice = OptimizerChoice(name, DECAY[name])
    groups = flat_groups(start(), rate_of(name), small=name in EIGHT_BIT)
    optimizer = build_optimizer(choice, groups)
    train(groups, optimizer, range(3))
    kept = copy.deepcopy(optimizer.state_dict())
    values = {key: view.detach().clone() for key, view in views(groups).items()}
    for key, state in kept["state"].items():
        shapes = {value.shape for value in state.values() if isinstance(value, Tensor)}
        # Adafactor keeps a row and a column of what has two dimensions.
        assert SHAPES[key] in shapes or (name in SHAPED and len(SHAPES[key]) > 1)
    train(groups, optimizer, range(3, 6))
    again = flat_groups(
        {key: values[key] for key in SHAPES}, rate_of(name), small=name in EIGHT_BIT
    )
    fresh = build_optimizer(choice, again)
    fresh.load_state_dict(kept)
    assert equal(fresh.state_dict(), kept)
    train(again, fresh, range(3, 6))
    for key, view in views(again).items():
        assert torch.equal(view, views(groups)[key])


@pytest.mark.parametrize("name", ["adamw", "adamw8bit"])
def test_flat_state_is_that_of_the_shaped_tensors(name: str) -> None:
    """One group for each tensor, which lies in no buffer, against all of them in flat buffers."""
    choice = OptimizerChoice(name, DECAY[name])
    groups = flat_groups(start(), 0.05, small=name in EIGHT_BIT)
    optimizer = build_optimizer(choice, groups)
    alone = [one_group(key, 0.05, nn.Parameter(value)) for key, value in start().items()]
    for group in alone:
        group.flat.grad = torch.zeros_like(group.flat)
    single = build_optimizer(choice, alone)
    train(groups, optimizer, range(4))
    train(alone, single, range(4))
    for key, view in views(groups).items():
        torch.testing.assert_close(view, views(alone)[key], rtol=1e-5, atol=1e-6)
    ours, theirs = optimizer.state_dict()["state"], single.state_dict()["state"]
    assert ours.keys() == theirs.keys()
    for key, state in ours.items():
        assert {k: getattr(v, "shape", ()) for k, v in state.items()} == {
            k: getattr(v, "shape", ()) for k, v in theirs[key].items()
        }


def test_small_tensors_keep_32_bits_beside_8() -> None:
    groups = flat_groups(start(), 0.05, small=True)
    optimizer = build_optimizer(OptimizerChoice("adamw8bit"), groups)
    train(groups, optimizer, range(1))
    kinds = {key: state["state1"].dtype for key, state in optimizer.state_dict()["state"].items()}
    assert kinds["up"] == kinds["down"] == kinds["conv"] == torch.uint8
    assert kinds["scalar"] == kinds["wide"] == torch.float32


def test_a_state_fits_however_the_tensors_are_handed_over() -> None:
    """Flat to named to shaped and back is the identity."""
    groups = flat_groups(start(), 0.05, small=False)
    flat = torch.optim.AdamW([group.as_torch("adamw") for group in groups], fused=True)
    train(groups, flat, range(2))
    named = named_state(flat.state_dict(), groups, shaped=False)
    shaped = torch.optim.AdamW([group.as_torch("adafactor") for group in groups], fused=True)
    assert len(shaped.param_groups[0]["params"]) == len(SHAPES)
    shaped.load_state_dict(indexed_state(named, groups, shaped=True))
    assert equal(named_state(shaped.state_dict(), groups, shaped=True), named)
    again = indexed_state(
        named_state(shaped.state_dict(), groups, shaped=True), groups, shaped=False
    )
    assert equal(again["state"], flat.state_dict()["state"])


def test_another_network_is_refused() -> None:
    groups = flat_groups(start(), 0.05, small=False)
    optimizer = build_optimizer(OptimizerChoice("adamw"), groups)
    train(groups, optimizer, range(1))
    kept = optimizer.state_dict()
    del kept["state"]["conv"]
    with pytest.raises(KeyError):
        optimizer.load_state_dict(kept)


def test_adafactor_is_that_of_transformers() -> None:
    """The one that kohya uses: no first moment, relative steps, and the same without them."""
    for arguments in ({}, {"relative_step": False, "scale_parameter": False}):
        ours = {name: nn.Parameter(value.clone()) for name, value in start().items()}
        theirs = {name: nn.Parameter(value.clone()) for name, value in start().items()}
        made = build_optimizer(
            OptimizerChoice("adafactor", arguments),
            [one_group(name, 0.01, parameter) for name, parameter in ours.items()],
        )
        rate = {} if not arguments else {"lr": 0.01}
        usual = {"scale_parameter": True, "relative_step": True, "warmup_init": False}
        oracle = Adafactor(theirs.values(), **usual | arguments | rate)
        for step in range(6):
            for name, gradient in start(50 + step).items():
                ours[name].grad, theirs[name].grad = gradient.clone(), gradient.clone()
            made.step()
            oracle.step()
        for name, parameter in ours.items():
            torch.testing.assert_close(parameter, theirs[name], rtol=1e-5, atol=1e-7)


def test_a_part_leaves_and_what_all_have_in_common_stays() -> None:
    parameters, optimizer = bowl("prodigy")
    descend(parameters, optimizer, 5)
    d = optimizer.param_groups[0]["d"]
    optimizer.leave({"te"})
    kept = optimizer.state_dict()
    assert set(kept["state"]) == {"unet"}
    assert [group["part"] for group in kept["param_groups"]] == ["unet"]
    before = parameters[1].detach().clone()
    descend(parameters, optimizer, 2)
    assert torch.equal(parameters[1], before)
    assert optimizer.param_groups[0]["d"] >= d > 0.01
    _, fresh = bowl("prodigy")
    fresh.leave({"te"})
    fresh.load_state_dict(kept)
    assert fresh.param_groups[0]["d"] == d


def test_the_probe_tells_what_works_here() -> None:
    for name in ("adamw8bit", "lion8bit", "paged-adamw32bit", "dadapt-sgd"):
        assert optimizer_works(name, "cpu") == (True, "")
    works, why = optimizer_works("adamw", "meta")
    assert not works
    assert why


def test_a_missing_library_is_told_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "engine.optim.eight_bit", None)
    with pytest.raises(EnvironmentFault, match=r"Lion 8-bit does not work on cpu: .*bitsandbytes"):
        require_optimizer("lion8bit", torch.device("cpu"))
    require_optimizer("adamw", torch.device("cpu"))
