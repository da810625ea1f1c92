"""What is special about full training: an exact sum, dense gradients, a base that stays."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from engine.errors import NetworkFileError
from engine.networks.choice import Choice
from engine.networks.network import from_file
from tests.engine.networks.layers import KINDS, make_input, make_model, make_network, stir

FULL = Choice("full", "full", 1.0)
EVERY = pytest.mark.parametrize("kind", KINDS)


def only(network):
    (adapter,) = network.adapters.values()
    return adapter


def share(found, wanted):
    """How much of the wanted change is in the found one; rounding noise averages out."""
    return float((found * wanted).sum() / wanted.square().sum())


@EVERY
def test_it_trains_fp32_differences_of_the_layer_s_own_shape_from_zero(kind):
    model = make_model(kind, torch.bfloat16)
    network = make_network(model, FULL)
    found = dict(zip(only(network).suffixes, network.parameters(), strict=True))

    assert found["diff"].shape == model.layer.weight.shape
    assert ("diff_b" in found) == (model.layer.bias is not None)
    assert all(p.dtype == torch.float32 and not p.any() for p in found.values())
    assert not any(name.endswith("alpha") for name in network.tensors())


@torch.no_grad()
@pytest.mark.parametrize("size", [1e-3, 3e-4])
@pytest.mark.parametrize("kind", ["linear", "conv3x3"])
def test_a_small_difference_survives_in_the_output_of_a_bf16_layer(kind, size):
    # W + dW on the grid of bf16 keeps about 0.4 of it at 1e-3, less below.
    torch.manual_seed(0)
    model = make_model(kind, torch.bfloat16)
    if kind == "linear":
        model.layer, x = nn.Linear(384, 384), torch.randn(4096, 384).bfloat16()
    else:
        model.layer, x = nn.Conv2d(48, 48, 3, padding=1), torch.randn(8, 48, 24, 24).bfloat16()
    model.layer.bias.data.mul_(10 if kind == "linear" else 1)
    model.layer.to(torch.bfloat16).requires_grad_(False)
    adapter = only(make_network(model, FULL))
    diff = adapter.weight("diff")
    diff.copy_(torch.randn(diff.shape) * size * model.layer.weight.float().std())
    base = model(x).double()
    wide = copy.deepcopy(model.layer).double()
    wide.weight.copy_(diff)
    wide.bias.zero_()
    adapter.inject()

    assert share(model(x).double() - base, wide(x.double())) == pytest.approx(1, abs=0.04)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@EVERY
def test_nothing_of_the_weight_s_size_is_saved_beside_the_parameters(kind, dtype, autocast):
    model, x = make_model(kind, dtype), make_input(kind, dtype).requires_grad_()
    network = stir(make_network(model, FULL))
    network.inject()
    there = {t.data_ptr() for t in (x, *model.parameters(), *network.parameters())}
    saved = []

    def pack(tensor):
        saved.append(tensor)
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=autocast),
    ):
        out = model(x)
    out.float().sum().backward()

    others = [tensor for tensor in saved if tensor.data_ptr() not in there]
    assert len(others) < len(saved)
    # Under autocast the input is cast, as it is without a network.
    assert all(tensor.shape == x.shape and autocast for tensor in others)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("strength", [1.0, 0.6])
@EVERY
def test_gradients_in_half_precision_are_those_of_the_sum(kind, strength, dtype):
    model, x = make_model(kind, dtype), make_input(kind, dtype).requires_grad_()
    network = stir(make_network(model, FULL))
    network.set_strength(strength)
    network.inject()
    out = model(x)
    probe = torch.randn(out.shape, generator=torch.Generator().manual_seed(2)).to(dtype)
    found = torch.autograd.grad((out * probe).sum(), [x, *network.parameters()])

    exact = copy.deepcopy(model.layer).double()
    exact.__dict__.pop("forward", None)
    adapter = only(network)
    with torch.no_grad():
        exact.weight += strength * adapter.delta()
        if adapter.bias_delta() is not None:
            exact.bias += strength * adapter.bias_delta()
    exact.requires_grad_()
    x_wide = x.detach().double().requires_grad_()
    parameters = [exact.weight] + ([] if exact.bias is None else [exact.bias])
    wide = exact(x_wide)
    grads = torch.autograd.grad((wide * probe.double()).sum(), [x_wide, *parameters])
    wanted = [grads[0], *(strength * grad for grad in grads[1:])]

    assert (out.double() - wide).norm() < 0.01 * wide.norm()
    for one, other in zip(found, wanted, strict=True):
        assert (one.double() - other).norm() < 0.02 * other.norm()
    assert all(grad.dtype == torch.float32 for grad in found[1:])


@pytest.mark.parametrize("padding", ["same", "valid", (1, 0)])
def test_padding_may_be_given_in_words(padding):
    torch.manual_seed(0)
    model = make_model("conv3x3")
    model.layer = nn.Conv2d(4, 6, 3, padding=padding, dilation=2).requires_grad_(False)
    x = torch.randn(2, 4, 9, 8, requires_grad=True)
    network = stir(make_network(model, FULL))
    adapter = only(network)
    exact = copy.deepcopy(model.layer)
    with torch.no_grad():
        exact.weight += adapter.delta()
        exact.bias += adapter.bias_delta()
    network.inject()

    torch.testing.assert_close(model(x), exact(x))
    wanted = torch.autograd.grad(exact(x).square().sum(), x)
    torch.testing.assert_close(torch.autograd.grad(model(x).square().sum(), x), wanted)


def test_the_base_is_neither_changed_nor_given_a_gradient():
    model, x = make_model("linear"), make_input("linear")
    before = copy.deepcopy(model.state_dict())
    network = stir(make_network(model, FULL))
    network.inject()
    model(x).square().sum().backward()

    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


@torch.no_grad()
def test_max_norm_scales_the_weight_and_not_the_bias():
    network = stir(make_network(make_model("linear"), FULL))
    adapter = only(network)
    diff, bias = adapter.weight("diff").clone(), adapter.weight("diff_b").clone()

    scaled, mean, _ = network.apply_max_norm(float(diff.norm()) / 2).numbers()

    assert (scaled, mean) == (1, pytest.approx(float(diff.norm()) / 2))
    torch.testing.assert_close(adapter.weight("diff"), diff / 2)
    assert torch.equal(adapter.weight("diff_b"), bias)


def test_a_file_without_bias_stays_one():
    model = make_model("linear")
    tensors = stir(make_network(model, FULL)).tensors()
    del tensors["lora_unet_layer.diff_b"]

    again = from_file({"unet": model}, tensors, {})

    assert set(again.tensors()) == set(tensors)
    assert only(again).bias_delta() is None


@pytest.mark.parametrize(
    ("kind", "suffix", "shape"),
    [
        ("linear", "diff", (36, 23)),
        ("linear", "diff", (36, 24, 3, 3)),
        ("linear", "diff_b", (24,)),
        ("conv3x3", "diff", (36, 24)),
        ("conv3x3", "diff_b", (36,)),  # the layer has no bias
    ],
)
def test_tensors_that_do_not_fit_are_refused(kind, suffix, shape):
    model = make_model(kind)
    tensors = make_network(model, FULL).tensors()
    tensors[f"lora_unet_layer.{suffix}"] = torch.zeros(shape)

    with pytest.raises(NetworkFileError):
        from_file({"unet": model}, tensors, {})


def test_a_matrix_goes_into_a_convolution_of_one_pixel():
    model = make_model("conv1x1")
    tensors = stir(make_network(model, FULL)).tensors()
    flat = tensors | {"lora_unet_layer.diff": tensors["lora_unet_layer.diff"].flatten(1)}

    again = from_file({"unet": model}, flat, {})

    assert torch.equal(again.tensors()["lora_unet_layer.diff"], tensors["lora_unet_layer.diff"])
