"""GLoRA: both products, its two layouts, its draws, and what is kept for the backward pass."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from engine.networks.base import Setup
from engine.networks.choice import Choice
from engine.networks.dropout import sample_rank_mask_BD
from engine.networks.glora import Glora
from engine.networks.layouts_glora import layouts_of, new_layout, old_layout
from engine.networks.network import build, from_file
from tests.engine.networks.layers import (
    CHOICES,
    KINDS,
    Transformer2DModel,
    make_input,
    make_model,
    make_network,
    stir,
    with_dropouts,
)

EVERY = pytest.mark.parametrize("kind", KINDS)
FORMS = pytest.mark.parametrize("form", [form for form in CHOICES if form.startswith("glora")])


def dense(weight, group, scale):
    """s * (W a1 a2 + b1 b2), cell by cell of the kernel."""
    a1, a2, b1 = (group[f"{name}.weight"].flatten(1) for name in ("a1", "a2", "b1"))
    b2 = group["b2.weight"]
    if weight.dim() == 2:
        return scale * (weight @ a1 @ a2 + b1 @ b2)
    wanted = torch.empty_like(weight)
    for row in range(weight.shape[2]):
        for column in range(weight.shape[3]):
            behind = weight[:, :, row, column] @ a1 @ a2
            wanted[:, :, row, column] = scale * (behind + b1 @ b2[:, :, row, column])
    return wanted


def group_of(network):
    return {key.partition(".")[2]: tensor for key, tensor in network.tensors().items()}


@torch.no_grad()
@EVERY
@FORMS
def test_the_change_is_the_formula_of_the_files_tensors(form, kind):
    model = make_model(kind)
    network = stir(make_network(model, CHOICES[form]))
    (adapter,) = network.adapters.values()
    group = group_of(network)
    rank = group["a2.weight"].shape[0]

    wanted = dense(model.layer.weight, group, float(group["alpha"]) / rank)
    torch.testing.assert_close(adapter.delta(), wanted, rtol=1e-4, atol=1e-5)
    assert float(adapter.delta_norm()) == pytest.approx(float(wanted.norm()), rel=1e-5)


@torch.no_grad()
@EVERY
def test_the_scalar_goes_into_the_second_factor_of_both_products(kind):
    network = stir(make_network(make_model(kind), CHOICES["glora scalar"]))
    (adapter,) = network.adapters.values()
    group = group_of(network)

    assert torch.equal(group["a1.weight"], adapter.weight("a1.weight"))
    assert torch.equal(group["b1.weight"], adapter.weight("b1.weight"))
    for suffix in ("a2.weight", "b2.weight"):
        assert torch.equal(group[suffix], adapter.weight(suffix) * adapter.scalar)


@torch.no_grad()
def test_both_second_factors_start_at_zero_and_get_gradients_at_once():
    model, x = make_model("linear"), make_input("linear")
    network = make_network(model, CHOICES["glora"])
    (adapter,) = network.adapters.values()
    network.inject()
    with torch.enable_grad():
        model(x).square().sum().backward()

    for suffix, moves in (("a1", False), ("a2", True), ("b1", False), ("b2", True)):
        weight = adapter.weight(f"{suffix}.weight")
        assert bool(weight.any()) is not moves
        assert bool(weight.grad.any()) is moves


@torch.no_grad()
@EVERY
def test_the_old_layout_holds_the_same_change_in_the_older_formula(kind):
    model = make_model(kind)
    network = stir(make_network(model, CHOICES["glora"]))
    (adapter,) = network.adapters.values()
    group = group_of(network)
    old = old_layout(group)

    assert layouts_of(group) == {"new"}
    assert layouts_of(old) == {"old"}
    assert list(old["a1.weight"].shape[:2]) == [4, 24]
    assert list(old["b2.weight"].shape[:2]) == [36, 4]
    if kind == "linear":
        a1, a2, b1, b2 = (old[f"{name}.weight"] for name in ("a1", "a2", "b1", "b2"))
        wanted = 0.5 * (model.layer.weight @ a2 @ a1 + b2 @ b1)
        torch.testing.assert_close(adapter.delta(), wanted, rtol=1e-4, atol=1e-5)
    again = new_layout(old)
    assert set(again) == set(group)
    assert all(again[suffix] is group[suffix] for suffix in group)
    assert new_layout(again) == again
    assert old_layout(old) == old


@torch.no_grad()
@EVERY
def test_a_file_of_the_old_layout_is_read_as_the_same_network(kind):
    model = make_model(kind)
    network = stir(make_network(model, CHOICES["glora"]))
    (adapter,) = network.adapters.values()
    old = old_layout(group_of(network))
    named = {f"{adapter.name}.{suffix}": tensor for suffix, tensor in old.items()}

    (again,) = from_file({"unet": model}, named, {}).adapters.values()
    assert torch.equal(again.delta(), adapter.delta())


def test_where_all_sides_are_equal_the_layout_is_taken_to_be_ours():
    square = {f"{name}.weight": torch.randn(4, 4) for name in ("a1", "a2", "b1", "b2")}

    assert layouts_of(square) == {"new", "old"}
    assert new_layout(square) == square
    assert old_layout(square)["a1.weight"] is square["a2.weight"]


def test_what_is_no_glora_is_refused():
    group = group_of(make_network(make_model("linear"), CHOICES["glora"]))
    broken = group | {"b1.weight": torch.zeros(36, 5)}

    for convert in (old_layout, new_layout):
        with pytest.raises(ValueError, match="no common rank"):
            convert(broken)
    with pytest.raises(ValueError, match=r"b1.weight is \[36, 5\], not \[36, 4\]"):
        Glora.from_tensors("x", make_model("linear").layer, broken, Setup())


@torch.no_grad()
@pytest.mark.parametrize("kind", ["linear", "conv1x1"])
def test_matrices_and_convolutions_of_one_pixel_are_read_alike(kind):
    model = make_model(kind)
    network = stir(make_network(model, CHOICES["glora"]))
    (adapter,) = network.adapters.values()
    other = {
        suffix: tensor.flatten(1) if kind == "conv1x1" else tensor[:, :, None, None]
        for suffix, tensor in group_of(network).items()
        if suffix != "alpha"
    }

    found = Glora.from_tensors("x", model.layer, other | {"alpha": torch.tensor(2.0)}, Setup())
    assert torch.equal(found.delta(), adapter.delta())


@torch.no_grad()
@EVERY
def test_each_product_drops_ranks_of_its_own(kind):
    model, x = make_model(kind), make_input(kind)
    base = model(x)
    network = stir(make_network(model, with_dropouts(CHOICES["glora"], rank=0.5)))
    (adapter,) = network.adapters.values()
    network.inject()
    network.begin(step=5, samples=3)
    found = model(x) - base

    group = group_of(network)
    masks = [
        sample_rank_mask_BD(adapter.setup.moment, f"{adapter.name}.{half}", 0.5, 3, 4)
        for half in "ab"
    ]
    assert not torch.equal(*masks)
    for row in range(3):
        cut = dict(group)
        for mask_BD, suffix in zip(masks, ("a2.weight", "b2.weight"), strict=True):
            mask = mask_BD[row].view(-1, *(1 for _ in group[suffix].shape[1:]))
            cut[suffix] = group[suffix] * mask
        delta = dense(model.layer.weight, cut, 0.5)
        if kind == "linear":
            wanted = F.linear(x[row : row + 1], delta)
        else:
            layer = model.layer
            where = (layer.stride, layer.padding, layer.dilation)
            wanted = F.conv2d(x[row : row + 1], delta, None, *where)
        torch.testing.assert_close(found[row : row + 1], wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("drop", ["activation", "rank", "module"])
@torch.no_grad()
@EVERY
def test_a_step_in_smaller_parts_sees_the_same_draws(kind, drop):
    model, x = make_model(kind), make_input(kind, rows=4)
    network = stir(make_network(model, with_dropouts(CHOICES["glora"], **{drop: 0.5})))
    network.inject()
    network.begin(step=7, samples=4)
    whole = model(x)
    parts = []
    for first, last in ((0, 1), (1, 4)):
        network.begin(step=7, first_sample=first, samples=last - first)
        parts.append(model(x[first:last]))

    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@EVERY
def test_max_norm_scales_the_second_factors_and_no_others(kind):
    network = stir(make_network(make_model(kind), CHOICES["glora"]))
    (adapter,) = network.adapters.values()
    before = {suffix: tensor.clone() for suffix, tensor in group_of(network).items()}
    norm = float(adapter.delta().norm())

    network.apply_max_norm(norm / 4)
    after = group_of(network)

    for suffix in ("a1.weight", "b1.weight"):
        assert torch.equal(after[suffix], before[suffix])
    for suffix in ("a2.weight", "b2.weight"):
        torch.testing.assert_close(after[suffix], before[suffix] / 4)


@torch.no_grad()
def test_what_lies_behind_the_base_weight_survives_bf16_where_a_sum_with_the_input_loses_it():
    torch.manual_seed(0)
    model = Transformer2DModel(nn.Linear(256, 256, bias=False)).bfloat16()
    model.requires_grad_(False)
    network = stir(build({"unet": model}, Choice("glora", 8, 4.0, "unet-only"), seed=0), 0.2)
    (adapter,) = network.adapters.values()
    for suffix in ("a2.weight", "b2.weight"):
        adapter.weight(suffix).mul_(1e-3 if suffix == "a2.weight" else 0.0)
    x = torch.randn(64, 256).bfloat16()
    weight = model.layer.weight
    wanted = F.linear(x.float(), adapter.delta())

    a1, a2 = adapter.weight("a1.weight"), adapter.weight("a2.weight")
    small = F.linear(F.linear(x, a2.bfloat16()), (a1 * 0.5).bfloat16())
    summed = F.linear((x + small).float(), weight.float()) - F.linear(x.float(), weight.float())

    assert adapter.delta().norm() / weight.float().norm() < 5e-3
    assert (summed - wanted).norm() / wanted.norm() > 0.2
    assert (adapter.change(x, 1.0).float() - wanted).norm() / wanted.norm() < 0.01


def test_a_linear_layer_keeps_its_input_and_nothing_else_of_its_size():
    model = Transformer2DModel(nn.Linear(64, 64)).requires_grad_(False)
    network = stir(build({"unet": model}, Choice("glora", 2, 1.0, "unet-only"), seed=0))
    network.inject()
    x = torch.randn(512, 64, requires_grad=True)
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(x)

    large = [tensor for tensor in kept.values() if tensor.numel() >= 64 * 64]
    assert {tensor.data_ptr() for tensor in large} == {x.data_ptr(), model.layer.weight.data_ptr()}
