"""DoRA's own promises: an exact start, an exact norm, a detached norm, and small steps that survive."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.networks.base import Setup
from engine.networks.dora import Dora, axis_of
from engine.networks.flat import flatten
from engine.networks.network import from_file
from engine.networks.table import read
from tests.engine.networks.layers import (
    CHOICES,
    KINDS,
    make_input,
    make_model,
    make_network,
    stir,
    with_dropouts,
)

FORMS = [form for form, choice in CHOICES.items() if choice.dora != "off"]
EVERY = pytest.mark.parametrize("kind", KINDS)
EACH = pytest.mark.parametrize("form", FORMS)
AXES = pytest.mark.parametrize("form", ["lora dora input", "lora dora output"])


def only(network: Any) -> Any:
    (adapter,) = network.adapters.values()
    return adapter


def decomposed(weight: Tensor, delta: Tensor, scale: Tensor, axis: str) -> Tensor:
    """W' by the formula of the paper, one row or column after the other."""
    changed = (weight + delta).double()
    rows = changed.transpose(0, 1) if axis == "input" else changed
    wanted = torch.stack(
        [row * m / row.square().sum().sqrt() for row, m in zip(rows, scale.flatten(), strict=True)]
    )
    return wanted.transpose(0, 1) if axis == "input" else wanted


@torch.no_grad()
@EVERY
@EACH
def test_the_change_is_the_formula(form, kind):
    model = make_model(kind)
    adapter = only(stir(make_network(model, CHOICES[form])))
    weight = model.layer.weight

    wanted = decomposed(weight, adapter.inner.delta(), adapter.dora_scale, CHOICES[form].dora)

    torch.testing.assert_close((weight + adapter.delta()).double(), wanted, rtol=1e-5, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@EVERY
@EACH
def test_it_starts_at_the_base_to_the_bit(form, kind, dtype, autocast):
    model, x = make_model(kind, dtype), make_input(kind, dtype)
    network = make_network(model, CHOICES[form])
    axes = [1] if CHOICES[form].dora == "output" else [0, 2]
    wide = model.layer.weight.float().flatten(2) if kind != "linear" else None
    wide = model.layer.weight.float()[..., None] if wide is None else wide
    wide = wide.flatten(1) if CHOICES[form].dora == "output" else wide

    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        base = model(x)
        network.inject()
        assert torch.equal(model(x), base)
    scale = only(network).dora_scale
    assert scale.dtype == torch.float32
    torch.testing.assert_close(scale.flatten(), wide.square().sum(axes).sqrt())


@EVERY
@EACH
def test_the_norm_is_that_of_the_whole_changed_weight_and_has_no_gradient(form, kind):
    model = make_model(kind)
    adapter = only(stir(make_network(model, CHOICES[form])))
    axis = CHOICES[form].dora

    found = adapter.norm()

    changed = (model.layer.weight + adapter.inner.delta()).detach()
    rows = changed.transpose(0, 1) if axis == "input" else changed
    torch.testing.assert_close(found, rows.flatten(1).norm(dim=1))
    assert not found.requires_grad

    scale = adapter.dora_scale
    inner = adapter.inner.own_parameters()
    probe = torch.randn(changed.shape, generator=torch.Generator().manual_seed(2))
    detached = (model.layer.weight + adapter.inner.delta()) * (scale / found.view(scale.shape))
    ours = torch.autograd.grad((adapter.delta() * probe).sum(), inner)
    wanted = torch.autograd.grad((detached * probe).sum(), inner)
    for one, other in zip(ours, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("size", [1e-2, 1e-3])
@EVERY
@AXES
def test_a_small_step_of_the_magnitudes_survives_a_bf16_base(form, kind, size):
    model = make_model(kind, torch.bfloat16)
    network = make_network(model, CHOICES[form])
    adapter, x = only(network), make_input(kind, torch.bfloat16)
    adapter.dora_scale.mul_(1 + size * torch.randn(adapter.dora_scale.shape))
    network.inject()

    found = adapter.change(x, 1.0).float()
    layer = make_model(kind).layer
    layer.weight.copy_(adapter.delta())
    layer.bias = None
    wanted = layer(x.float())

    assert (found - wanted).norm() / wanted.norm() < 0.01


@torch.no_grad()
@EVERY
@EACH
def test_strength_zero_is_the_base_and_one_is_the_changed_weight(form, kind):
    model, x = make_model(kind), make_input(kind)
    base = model(x)
    network = stir(make_network(model, CHOICES[form]))
    network.inject()
    network.set_strength(0)
    assert torch.equal(model(x), base)

    network.set_strength(-0.5)
    found = model(x)
    network.eject()
    model.layer.weight -= 0.5 * only(network).delta()
    torch.testing.assert_close(found, model(x), rtol=2e-3, atol=2e-4)


@EVERY
@AXES
def test_dropouts_leave_the_norm_and_the_magnitudes_part_alone(form, kind):
    model = make_model(kind)
    choice = with_dropouts(CHOICES[form], activation=0.5, rank=0.5)
    network = stir(make_network(model, choice))
    adapter = only(network)
    network.eval()
    still = adapter.norm()

    network.train()
    network.begin(step=3, samples=3)

    assert adapter.inner.training
    assert torch.equal(adapter.norm(), still)


@torch.no_grad()
@EVERY
@EACH
def test_max_norm_scales_what_is_below_and_leaves_the_magnitudes(form, kind):
    network = stir(make_network(make_model(kind), CHOICES[form]))
    adapter = only(network)
    before = adapter.dora_scale.clone()

    network.apply_max_norm(float(adapter.inner.delta().norm()) / 2)

    assert torch.equal(adapter.dora_scale, before)


@EVERY
@EACH
def test_magnitudes_stay_fp32_in_a_half_precision_file_and_tell_the_axis(form, kind):
    network = stir(make_network(make_model(kind), CHOICES[form]))
    tensors = network.tensors(torch.float16)
    scale = tensors["lora_unet_layer.dora_scale"]

    assert scale.dtype == torch.float32
    assert list(tensors)[-2:] == ["lora_unet_layer.dora_scale", "lora_unet_layer.alpha"]
    again = only(from_file({"unet": make_model(kind)}, tensors, {}))
    assert again.axis == CHOICES[form].dora
    assert torch.equal(again.dora_scale, only(network).dora_scale)


@torch.no_grad()
@EVERY
@EACH
def test_held_in_bf16_it_starts_at_no_change_and_its_file_changes_what_it_does(form, kind):
    model = make_model(kind)
    network = make_network(model, CHOICES[form])
    adapter = only(network)
    flatten(network.members, "unet", dtype=torch.bfloat16)

    assert adapter.dora_scale.dtype == torch.float32
    assert {each.dtype for each in adapter.inner.own_parameters()} == {torch.bfloat16}
    assert not (adapter.delta() / model.layer.weight.abs().mean()).gt(1e-6).any()
    stir(network, 1e-3)
    read = only(from_file({"unet": model}, network.tensors(), {}))
    assert (adapter.delta() - read.delta()).norm() < 0.01 * read.delta().norm()


def test_the_axis_of_a_square_layer_is_told_by_the_place_of_the_one():
    square = nn.Conv2d(8, 8, 3)

    assert axis_of(square, torch.ones(1, 8, 1, 1)) == "input"
    assert axis_of(square, torch.ones(8, 1, 1, 1)) == "output"
    assert axis_of(nn.Linear(8, 8), torch.ones(8, 1)) == "output"
    assert axis_of(nn.Linear(8, 8), torch.ones(1, 8, 1, 1)) == "input"


@pytest.mark.parametrize("shape", [(8,), (4, 1), (1, 4), (8, 1, 3, 3), ()])
def test_magnitudes_that_fit_no_axis_are_refused(shape):
    with pytest.raises(ValueError, match="dora_scale is"):
        axis_of(nn.Linear(6, 8), torch.ones(shape))


def test_algorithms_without_magnitudes_refuse_them():
    layer = nn.Linear(6, 8)
    tensors = {
        "a1.weight": torch.zeros(6, 2),
        "a2.weight": torch.zeros(2, 6),
        "b1.weight": torch.zeros(8, 2),
        "b2.weight": torch.zeros(2, 6),
        "dora_scale": torch.ones(8, 1),
    }
    with pytest.raises(ValueError, match="goes with locon, loha, lokr, lora"):
        read("glora", "x", layer, tensors, Setup())


@AXES
def test_the_plus_rate_goes_to_the_up_factor_below(form):
    adapter = only(make_network(make_model("linear"), CHOICES[form]))

    assert adapter.plus_parameters() == (adapter.weight("lora_up.weight"),)
    assert [tuple(p.shape) for p in adapter.own_parameters()] == [
        tuple(adapter.weight(suffix).shape) for suffix in adapter.suffixes
    ]


@torch.no_grad()
@AXES
def test_the_kept_norm_of_the_base_follows_the_base(form):
    model = make_model("linear")
    adapter = only(stir(make_network(model, CHOICES[form])))
    before = adapter.norm()

    model.layer.weight.mul_(2)
    doubled = adapter.norm()
    model.to(torch.bfloat16)

    changed = model.layer.weight.float() + adapter.inner.delta()
    axis = 0 if CHOICES[form].dora == "input" else 1
    assert not torch.allclose(before, doubled)
    torch.testing.assert_close(adapter.norm(), changed.norm(dim=axis))


@AXES
def test_parameters_that_move_without_a_version_are_seen(form):
    # The optimizer writes the flat buffer that they are views of; their own version stays.
    adapter = only(stir(make_network(make_model("linear"), CHOICES[form])))
    before = adapter.norm()

    adapter.weight("lora_up.weight").data.mul_(3)

    assert not torch.allclose(adapter.norm(), before)


@AXES
def test_rows_of_zeros_start_and_stay_finite(form):
    model, x = make_model("linear"), make_input("linear").requires_grad_()
    with torch.no_grad():
        model.layer.weight[3] = 0
        model.layer.weight[:, 5] = 0
    base = model(x)
    network = make_network(model, CHOICES[form])
    network.inject()

    found = model(x)
    found.square().sum().backward()

    assert torch.equal(found, base)
    assert all(torch.isfinite(p.grad).all() for p in network.parameters())


@EVERY
@AXES
def test_before_another_network_it_changes_the_layers_own_weight(form, kind):
    model, x = make_model(kind), make_input(kind)
    base = model(x)
    first = stir(make_network(model, CHOICES["lora"]))
    second = stir(make_network(model, CHOICES[form]))
    first.inject()
    behind = model(x) - base
    first.eject()
    second.inject()
    alone = model(x) - base
    second.eject()

    first.inject()
    second.inject()

    torch.testing.assert_close(model(x) - base, behind + alone, rtol=2e-3, atol=2e-4)


def test_over_a_linear_lora_the_input_axis_keeps_nothing_but_the_input_for_backward():
    model, x = make_model("linear"), make_input("linear", rows=64)
    network = stir(make_network(model, CHOICES["lora dora input"]))
    network.inject()
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.shape[:1] == x.shape[:1] or tensor.shape[0] == x[..., 0].numel():
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(x)

    assert sum(kept.values()) == x.untyped_storage().nbytes()


@torch.no_grad()
def test_magnitudes_over_an_adapter_that_is_there_take_its_change_into_the_norm():
    layer = nn.Linear(6, 8)
    lora = read(
        "lora",
        "x",
        layer,
        {"lora_up.weight": torch.randn(8, 2), "lora_down.weight": torch.randn(2, 6)},
        Setup(),
    )
    whole = layer.weight + lora.delta()

    made = Dora.over(lora, "output")

    torch.testing.assert_close(layer.weight + made.delta(), whole)
    x = torch.randn(4, 6)
    torch.testing.assert_close(made(x), F.linear(x, whole, layer.bias))
