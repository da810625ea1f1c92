"""Flat buffers hold the adapters' own parameters: what is written to one is read from the other."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from engine.networks.choice import Choice
from engine.networks.flat import ALIGNMENT, FlatBuffer, Kind, flatten, named
from engine.networks.network import Network, build


class Block(nn.Module):
    """Two layers of unlike sizes below a class that the presets choose."""

    def __init__(self) -> None:
        super().__init__()
        self.to_q = nn.Linear(24, 40)
        self.to_v = nn.Linear(300, 24)


class Transformer2DModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn1 = Block()


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = Transformer2DModel()

    def run(self) -> torch.Tensor:
        source = torch.Generator().manual_seed(1)
        q = self.block.attn1.to_q(torch.randn(5, 24, generator=source))
        v = self.block.attn1.to_v(torch.randn(5, 300, generator=source))
        assert isinstance(q, torch.Tensor)
        assert isinstance(v, torch.Tensor)
        return q.square().mean() + v.square().mean()


def network(**options: object) -> tuple[Model, Network]:
    torch.manual_seed(0)
    model = Model().requires_grad_(False)
    values: dict[str, object] = {"algorithm": "lora", "rank": 3, "alpha": 1.5} | options
    made = build({"unet": model}, Choice(**values), seed=0)  # type: ignore[arg-type]
    made.inject()
    with torch.no_grad():
        for number, parameter in enumerate(made.parameters()):
            source = torch.Generator().manual_seed(number)
            parameter.copy_(torch.randn(parameter.shape, generator=source) * 0.1)
    return model, made


def gradients(made: Network) -> list[torch.Tensor]:
    return [p.grad.clone() for p in made.parameters() if p.grad is not None]


def test_training_is_the_same_with_and_without() -> None:
    model, plain = network()
    model.run().backward()  # type: ignore[no-untyped-call]
    other, flat = network()
    (buffer,) = flatten(flat.members, "unet").values()
    for _ in range(2):  # twice: gradients are added into the views, and zeroed in one call
        buffer.zero_grad()
        other.run().backward()  # type: ignore[no-untyped-call]
    expected, found = gradients(plain), gradients(flat)
    assert len(expected) == len(found) == 4
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
    whole = buffer.whole.grad
    assert whole is not None
    assert whole.norm() == pytest.approx(torch.cat([g.flatten() for g in expected]).norm())


def test_every_way_of_writing_reaches_the_other_side() -> None:
    _, made = network()
    kept = made.training_state()
    (buffer,) = flatten(made.members, "unet").values()
    assert all(torch.equal(kept[name], value) for name, value in made.training_state().items())
    with torch.no_grad():
        buffer.whole.mul_(2)
    for name, value in made.training_state().items():
        if not name.endswith("alpha"):
            assert torch.equal(value, kept[name] * 2)
    made.load_training_state(kept)
    with torch.no_grad():
        made.apply_max_norm(1e-3)
    after = made.training_state()
    for name, (start, shape) in buffer.places.items():
        cells = buffer.whole[start : start + shape.numel()].view(shape)
        assert torch.equal(cells, buffer.parameters[name])
    assert any(not torch.equal(after[name], kept[name]) for name in kept)


def test_tensors_begin_at_whole_blocks_with_zeros_between() -> None:
    _, made = network()
    (buffer,) = flatten(made.members, "unet").values()
    used = torch.zeros(buffer.whole.numel(), dtype=torch.bool)
    for start, shape in buffer.places.values():
        assert start % ALIGNMENT == 0
        assert not used[start : start + shape.numel()].any()
        used[start : start + shape.numel()] = True
    assert buffer.whole.numel() % ALIGNMENT == 0
    assert not buffer.whole[~used].any()
    assert used.sum() == made.count()


def test_lora_plus_parts_the_up_factors_and_small_tensors_are_parted_on_request() -> None:
    _, made = network()
    buffers = flatten(made.members, "unet", split_plus=True)
    assert set(buffers) == {Kind(plus=True, small=False), Kind(plus=False, small=False)}
    assert all("lora_up" in name for name in buffers[Kind(True, False)].places)
    assert all("lora_down" in name for name in buffers[Kind(False, False)].places)
    _, made = network()
    buffers = flatten(made.members, "unet", small_below=500)
    small = buffers[Kind(False, True)].places
    assert [shape.numel() < 500 for _, shape in small.values()] == [True] * 3
    assert [shape.numel() for _, shape in buffers[Kind(False, False)].places.values()] == [900]


def test_other_algorithms_have_no_plus_parameters() -> None:
    _, made = network(algorithm="lokr", rank="full", factor=4)
    assert set(flatten(made.members, "unet", split_plus=True)) == {Kind(False, False)}


def test_frozen_parameters_and_other_components_stay_out() -> None:
    _, made = network()
    assert flatten(made.members, "te") == {}
    made.members[0].adapter.requires_grad_(False)
    before = [parameter.data_ptr() for parameter in made.members[0].adapter.own_parameters()]
    (buffer,) = flatten(made.members, "unet").values()
    assert len(buffer.places) == 2
    after = [parameter.data_ptr() for parameter in made.members[0].adapter.own_parameters()]
    assert before == after


def test_names_are_unlike_and_a_scalar_has_one() -> None:
    _, made = network(scalar=True)
    names = [name for member in made.members for name, _ in named(member.adapter)]
    assert len(names) == len(set(names)) == 6
    assert sum(name.endswith(".scalar") for name in names) == 2


def test_a_buffer_keeps_values_and_shapes() -> None:
    parameters = {"a": nn.Parameter(torch.randn(3, 5)), "b": nn.Parameter(torch.randn(()))}
    kept = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    buffer = FlatBuffer(parameters)
    for name, parameter in parameters.items():
        assert torch.equal(parameter, kept[name])
        assert parameter.grad is not None
        assert parameter.grad.shape == parameter.shape
    assert buffer.places == {"a": (0, torch.Size((3, 5))), "b": (ALIGNMENT, torch.Size(()))}
