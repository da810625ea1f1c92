"""(IA)³, full differences and norms against lycoris-lora 4.1.3, and where its own path goes wrong."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from engine.networks.base import Setup
from engine.networks.choice import Choice
from engine.networks.network import from_file
from engine.networks.table import read
from tests.engine.networks.layers import KINDS, make_input, make_model, make_network, stir

pytestmark = pytest.mark.filterwarnings("ignore:.*:UserWarning:lycoris")
EVERY = pytest.mark.parametrize("kind", KINDS)
IN = pytest.mark.parametrize("on_input", [False, True])
FULL = Choice("full", "full", 1.0)


def quiet(kind, layer, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return kind("x", layer, bypass_mode=False, **options)


@torch.no_grad()
def shake(module, size=0.3):
    generator = torch.Generator().manual_seed(4)
    for parameter in module.parameters():
        parameter.add_(torch.randn(parameter.shape, generator=generator) * size)


def tensors_of(module):
    """A module as their network writes it."""
    found = module.state_dict()
    assert set(found) <= set(module.weight_list)
    return found


def loaded(model, module):
    saved = {f"lora_unet_layer.{key}": t for key, t in tensors_of(module).items()}
    (adapter,) = from_file({"unet": model}, saved, {}).adapters.values()
    return adapter, saved


def share(found, wanted):
    """How much of the wanted change is in the found one; rounding noise averages out."""
    found, wanted = found.double(), wanted.double()
    return float((found * wanted).sum() / wanted.square().sum())


@torch.no_grad()
@EVERY
@IN
def test_their_ia3_is_the_same_change_here(lycoris, kind, on_input):
    model = make_model(kind)
    module = quiet(lycoris.IA3Module, model.layer, train_on_input=on_input)
    shake(module)
    adapter, saved = loaded(model, module)
    ours = make_network(model, Choice("ia3", "full", 1.0, train_on_input=on_input)).tensors()

    torch.testing.assert_close(adapter.delta(), module.get_diff_weight()[0])
    assert {key: (tuple(t.shape), t.dtype) for key, t in ours.items()} == {
        key: (tuple(t.shape), t.dtype) for key, t in saved.items()
    }


@torch.no_grad()
@EVERY
@IN
def test_our_ia3_gives_the_same_output_there(lycoris, kind, on_input):
    model, x = make_model(kind), make_input(kind)
    network = stir(make_network(model, Choice("ia3", "full", 1.0, train_on_input=on_input)))
    network.inject()
    wanted = model(x)
    network.eject()

    module = quiet(lycoris.IA3Module, model.layer, train_on_input=on_input)
    module.weight.copy_(network.tensors()["lora_unet_layer.weight"])
    module.apply_to()
    found = model(x)
    module.restore()

    torch.testing.assert_close(found, wanted, rtol=2e-3, atol=2e-4)


@EVERY
def test_their_ia3_cannot_read_its_own_files_and_ours_can(lycoris, kind):
    model = make_model(kind)
    module = quiet(lycoris.IA3Module, model.layer, train_on_input=True)
    shake(module)
    group = tensors_of(module)
    parts = [group[name] for name in lycoris.IA3Module.weight_list]
    with pytest.raises(TypeError, match="positional"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lycoris.IA3Module.make_module_from_state_dict("x", model.layer, *parts)

    adapter, _ = loaded(model, module)
    assert torch.equal(adapter.tensors()["weight"], group["weight"])


@torch.no_grad()
@IN
def test_their_ia3_loses_a_small_change_in_bf16_and_ours_keeps_it(lycoris, on_input):
    # |dW| = 1e-3 |W|: their (W + dW) - W on the grid of bf16.
    model = make_model("linear", torch.bfloat16)
    torch.manual_seed(0)
    model.layer = nn.Linear(256, 256, bias=False).to(torch.bfloat16).requires_grad_(False)
    x = torch.randn(512, 256).bfloat16()
    choice = Choice("ia3", "full", 1.0, train_on_input=on_input)
    network = stir(make_network(model, choice), 1e-3)
    (adapter,) = network.adapters.values()
    module = quiet(lycoris.IA3Module, model.layer, train_on_input=on_input)
    module.weight.data = adapter.tensors()["weight"].clone()
    rounded = module.get_merged_weight()[0].to(torch.bfloat16) - model.layer.weight

    assert share(rounded, adapter.delta()) < 0.5
    wanted = x.double() @ adapter.delta().double().t()
    assert share(adapter.change(x, 1.0), wanted) == pytest.approx(1, abs=1e-3)


@torch.no_grad()
@EVERY
def test_their_full_difference_is_the_same_here_and_back(lycoris, kind):
    model, x = make_model(kind), make_input(kind)
    module = quiet(lycoris.FullModule, model.layer)
    shake(module)
    module._org_weight = [torch.zeros_like(module.weight)]
    module.org_bias = None if module.bias is None else [torch.zeros_like(module.bias)]
    adapter, saved = loaded(model, module)
    ours = make_network(model, FULL).tensors()

    assert torch.equal(adapter.delta(), module.weight)
    assert {key: tuple(t.shape) for key, t in ours.items()} == {
        key: tuple(t.shape) for key, t in saved.items()
    }
    adapter.inject()
    wanted = model(x)
    adapter.eject()
    group = adapter.tensors()
    parts = [group.get(name) for name in lycoris.FullModule.weight_list]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        back = lycoris.FullModule.make_module_from_state_dict("x", model.layer, *parts)
    back.org_forward = model.layer.forward
    torch.testing.assert_close(back(x), wanted, rtol=2e-3, atol=2e-4)


@torch.no_grad()
def test_their_full_difference_drowns_in_bf16_and_ours_does_not(lycoris):
    model = make_model("linear", torch.bfloat16)
    torch.manual_seed(0)
    model.layer = nn.Linear(256, 256, bias=False).to(torch.bfloat16).requires_grad_(False)
    network = make_network(model, FULL)
    (adapter,) = network.adapters.values()
    diff = adapter.weight("diff")
    diff.copy_(torch.randn(diff.shape) * 1e-3 * model.layer.weight.float().std())
    x = torch.randn(2048, 256).bfloat16()
    wanted = x.double() @ diff.double().t()
    base = model(x)

    module = quiet(lycoris.FullModule, model.layer)
    module.weight.copy_(diff)
    module.org_forward = model.layer.forward
    theirs = module(x)
    assert module.weight.dtype == torch.bfloat16
    assert share(theirs.double() - base.double(), wanted) < 0.6

    network.inject()
    assert share(model(x).double() - base.double(), wanted) == pytest.approx(1, abs=0.03)


@torch.no_grad()
@pytest.mark.parametrize(
    ("layer", "shape"), [(nn.LayerNorm(24), (3, 5, 24)), (nn.GroupNorm(4, 24), (3, 24, 6, 5))]
)
def test_norms_are_the_same_both_ways(lycoris, layer, shape):
    torch.manual_seed(0)
    nn.init.normal_(layer.weight, 1.0, 0.2)
    x = torch.randn(shape)
    module = quiet(lycoris.NormModule, layer)
    shake(module)
    saved = tensors_of(module)
    adapter = read("norm", "x", layer, saved, Setup())
    module.org_forward = layer.forward
    wanted = module(x)

    torch.testing.assert_close(adapter(x), wanted, rtol=1e-4, atol=1e-5)
    assert set(adapter.tensors()) == set(saved) == {"w_norm", "b_norm"}
    parts = [adapter.tensors()[name] for name in lycoris.NormModule.weight_list]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        back = lycoris.NormModule.make_module_from_state_dict("x", layer, *parts)
    back.org_forward = layer.forward
    torch.testing.assert_close(back(x), wanted, rtol=1e-4, atol=1e-5)
