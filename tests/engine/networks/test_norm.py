"""Trained norms: the properties of every algorithm, on LayerNorm and GroupNorm."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load, save
from torch import nn
from torch.utils.checkpoint import checkpoint

from engine.networks.base import Setup
from engine.networks.choice import Choice, Dropouts
from engine.networks.dropout import Moment
from engine.networks.maxnorm import scale_weight_norms
from engine.networks.shapes import KEPT_EXACT, shapes_of
from engine.networks.table import create, read
from engine.networks.targets import RealLayer, real_layers, why_skipped

NORM = Choice("norm", "full", 1.0)
EVERY = pytest.mark.parametrize("kind", ["layer", "group"])


def make_layer(kind, dtype=torch.float32, seed=0):
    torch.manual_seed(seed)
    layer = nn.LayerNorm(24) if kind == "layer" else nn.GroupNorm(4, 24, eps=1e-6)
    nn.init.normal_(layer.weight, 1.0, 0.2)
    nn.init.normal_(layer.bias, 0.0, 0.2)
    return layer.to(dtype).requires_grad_(False)


def make_input(kind, dtype=torch.float32):
    shape = (3, 5, 24) if kind == "layer" else (3, 24, 6, 5)
    return (torch.randn(shape, generator=torch.Generator().manual_seed(1)) * 2 + 0.5).to(dtype)


def make(layer, *, module_dropout=0.0, moment=None):
    (found,) = real_layers({"unet": nn.ModuleDict({"norm": layer})})
    setup = Setup(moment or Moment(3), Dropouts(module=module_dropout))
    return create("lora_unet_norm", layer, shapes_of(found, NORM), NORM, setup)


@torch.no_grad()
def stir(adapter, size=0.3, seed=5):
    generator = torch.Generator().manual_seed(seed)
    for parameter in adapter.own_parameters():
        parameter.add_(torch.randn(parameter.shape, generator=generator) * size)
    return adapter


def by_hand(layer, x, weight, bias):
    """The norm written out (Ba et al. 2016; Wu & He 2018)."""
    if isinstance(layer, nn.LayerNorm):
        groups, shape = x, (24,)
    else:
        groups, shape = x.reshape(x.shape[0], layer.num_groups, -1), (24, 1, 1)
    centred = groups - groups.mean(-1, keepdim=True)
    normed = centred / (centred.square().mean(-1, keepdim=True) + layer.eps).sqrt()
    return normed.reshape(x.shape) * weight.view(shape) + bias.view(shape)


@EVERY
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_fresh_one_changes_nothing(kind, dtype):
    layer, x = make_layer(kind, dtype), make_input(kind, dtype)
    before = layer(x)
    adapter = make(layer)
    adapter.inject()

    tolerance = {"rtol": 0, "atol": 0} if dtype == torch.float32 else {}
    torch.testing.assert_close(layer(x), before, **tolerance)
    assert [tuple(p.shape) for p in adapter.own_parameters()] == [(24,), (24,)]
    assert all(p.dtype == torch.float32 and not p.any() for p in adapter.own_parameters())


@EVERY
@pytest.mark.parametrize("strength", [1.0, 0.7, -0.5])
def test_output_and_gradients_are_those_of_the_changed_norm(kind, strength):
    layer, x = make_layer(kind, torch.float64), make_input(kind, torch.float64).requires_grad_()
    adapter = stir(make(layer)).to(torch.float64)
    adapter.strength = strength
    parameters = adapter.own_parameters()
    wanted = by_hand(
        layer,
        x,
        layer.weight + strength * adapter.delta(),
        layer.bias + strength * adapter.bias_delta(),
    )
    base = layer(x)
    probe = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(2)).double()
    wanted_grads = torch.autograd.grad((wanted * probe).sum(), [x, *parameters])
    adapter.inject()
    found = layer(x)
    grads = torch.autograd.grad((found * probe).sum(), [x, *parameters])

    assert (wanted - base).abs().max() > 0.01
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(base + adapter.change(x, strength), wanted, rtol=1e-9, atol=1e-10)
    for one, other in zip(grads, wanted_grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)


@EVERY
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_a_small_change_and_gives_fp32_gradients(kind, dtype):
    torch.manual_seed(0)
    layer = make_layer(kind, dtype)
    shape = (2048, 24) if kind == "layer" else (64, 24, 6, 6)
    x = torch.randn(shape).to(dtype).requires_grad_()
    adapter = stir(make(layer), 1e-3)
    exact = copy.deepcopy(layer).double()
    base = layer(x).detach().double()
    adapter.inject()
    out = layer(x)
    grads = torch.autograd.grad(out.float().square().sum(), [x, *adapter.own_parameters()])

    x_wide = x.detach().double().requires_grad_()
    weight = (exact.weight + adapter.delta().double()).detach().requires_grad_()
    bias = (exact.bias + adapter.bias_delta().double()).detach().requires_grad_()
    wide = by_hand(exact, x_wide, weight, bias)
    wanted = torch.autograd.grad(wide.square().sum(), [x_wide, weight, bias])
    change = (wide - by_hand(exact, x_wide, exact.weight, exact.bias)).detach()

    assert out.dtype == dtype
    kept = float(((out.detach().double() - base) * change).sum() / change.square().sum())
    assert kept == pytest.approx(1, abs=0.1)  # w + w_norm in bf16 would keep a tenth
    for one, other in zip(grads, wanted, strict=True):
        assert (one.double() - other).norm() < 0.02 * other.norm()
    assert [grad.dtype for grad in grads] == [dtype, torch.float32, torch.float32]


@EVERY
def test_half_precision_saves_its_input_and_no_wide_copy(kind):
    layer, x = make_layer(kind, torch.bfloat16), make_input(kind, torch.bfloat16).requires_grad_()
    stir(make(layer)).inject()
    saved = []

    def pack(tensor):
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        layer(x)
    large = [tensor for tensor in saved if tensor.numel() >= x.numel()]
    assert [tensor.data_ptr() for tensor in large] == [x.data_ptr()]


@EVERY
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_and_other_input_types_work(kind, dtype):
    for inner, outer in ((torch.float32, torch.float32), (dtype, dtype), (torch.float32, dtype)):
        layer, x = make_layer(kind, inner), make_input(kind, outer).requires_grad_()
        with torch.autocast("cpu", dtype):
            before = layer(x)
            adapter = stir(make(layer))
            adapter.inject()
            out = layer(x)
        out.float().sum().backward()
        assert out.dtype == before.dtype
        assert not torch.equal(out, before)
        assert all(p.grad.dtype == torch.float32 for p in adapter.own_parameters())
        assert x.grad.dtype == outer


@EVERY
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_checkpointing_repeats_module_dropout(kind, dtype):
    layer, x = make_layer(kind, dtype), make_input(kind, dtype).requires_grad_()
    moment = Moment(3)
    adapter = stir(make(layer, module_dropout=0.5, moment=moment))
    base = layer(x)
    adapter.inject()
    adapter.eval()
    still = layer(x)
    adapter.train()
    dropped = 0
    for step in range(1, 13):
        moment.step = step
        out = layer(x)
        grads = torch.autograd.grad(out.sum(), [x, *adapter.own_parameters()])
        again = checkpoint(layer, x, use_reentrant=False)
        repeated = torch.autograd.grad(again.sum(), [x, *adapter.own_parameters()])
        assert torch.equal(out, again)
        assert all(torch.equal(a, b) for a, b in zip(grads, repeated, strict=True))
        left_out = not any(grad.any() for grad in grads[1:])
        dropped += left_out
        torch.testing.assert_close(out, base if left_out else still)
    assert 2 <= dropped <= 10


@EVERY
def test_eject_restores_the_layer_bit_for_bit(kind):
    layer, x = make_layer(kind), make_input(kind)
    before, state, names = layer(x), copy.deepcopy(layer.state_dict()), set(layer.__dict__)
    adapter = stir(make(layer))
    adapter.inject()
    adapter.inject()
    assert not torch.equal(layer(x), before)
    adapter.strength = 0
    assert torch.equal(layer(x), before)

    adapter.eject()

    assert torch.equal(layer(x), before)
    assert set(layer.__dict__) == names
    assert all(torch.equal(t, state[name]) for name, t in layer.state_dict().items())


@EVERY
def test_two_on_one_layer_add_up(kind):
    layer, x = make_layer(kind), make_input(kind)
    base = layer(x)
    adapters = [stir(make(layer), seed=seed) for seed in (1, 2)]
    alone = [adapter.change(x, 1.0) for adapter in adapters]
    for adapter in adapters:
        adapter.inject()
    torch.testing.assert_close(layer(x), base + alone[0] + alone[1], rtol=1e-4, atol=1e-5)
    adapters[0].eject()
    torch.testing.assert_close(layer(x), base + alone[1], rtol=1e-4, atol=1e-5)


@EVERY
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_save_load_save_is_byte_equal(kind, dtype):
    adapter = stir(make(make_layer(kind)))

    def saved(one):
        assert not set(one.tensors()) & KEPT_EXACT
        return save({name: tensor.to(dtype) for name, tensor in one.tensors().items()})

    first = saved(adapter)
    assert list(adapter.tensors()) == ["w_norm", "b_norm"]
    assert adapter.size.alpha is None
    again = read("norm", "x", make_layer(kind, seed=9), load(first), Setup())
    assert saved(again) == first


@EVERY
def test_training_state_goes_back_exactly(kind):
    adapter, other = stir(make(make_layer(kind))), make(make_layer(kind))
    with torch.no_grad():
        other.load_state(adapter.state())
    assert all(
        torch.equal(a, b)
        for a, b in zip(adapter.own_parameters(), other.own_parameters(), strict=True)
    )


@EVERY
def test_max_norm_leaves_them_alone(kind):
    adapter = stir(make(make_layer(kind)))
    before = [p.clone() for p in adapter.own_parameters()]
    assert adapter.delta_norm() is None
    assert scale_weight_norms([adapter], 1e-6).numbers() == (0, 0.0, 0.0)
    assert all(torch.equal(a, b) for a, b in zip(before, adapter.own_parameters(), strict=True))


@pytest.mark.parametrize(
    ("layer", "why"),
    [
        (nn.LayerNorm(8, elementwise_affine=False), "without weights"),
        (nn.GroupNorm(2, 8, affine=False), "without weights"),
        (nn.LayerNorm(8, bias=False), "without bias"),
        (nn.LayerNorm((4, 8)), "several axes"),
    ],
)
def test_norms_that_no_reader_could_take_are_named_and_refused(layer, why):
    found = RealLayer("unet", "norm", 8, 1, (), (), layer)
    assert why in str(why_skipped(found))
    if "axes" not in why:
        with pytest.raises(ValueError, match="no weight or no bias"):
            read("norm", "x", layer, {"w_norm": torch.zeros(8), "b_norm": torch.zeros(8)}, Setup())


@pytest.mark.parametrize("shape", [(7,), (24, 1), ()])
def test_tensors_of_another_shape_are_refused(shape):
    good = torch.zeros(24)
    for tensors in (
        {"w_norm": torch.zeros(shape), "b_norm": good},
        {"w_norm": good, "b_norm": torch.zeros(shape)},
    ):
        with pytest.raises(ValueError, match="norm is"):
            read("norm", "x", make_layer("layer"), tensors, Setup())
    with pytest.raises(ValueError, match="no norm"):
        read("norm", "x", nn.Linear(24, 24), {"w_norm": good, "b_norm": good}, Setup())


def test_channels_last_pictures_keep_their_layout_and_values():
    layer = make_layer("group", torch.bfloat16)
    x = make_input("group", torch.bfloat16)
    stir(make(layer)).inject()
    torch.testing.assert_close(layer(x.to(memory_format=torch.channels_last)), layer(x))
    assert F.group_norm(x, 4).shape == x.shape
