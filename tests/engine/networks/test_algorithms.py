"""What every algorithm must do, for each of its forms and each kind of layer."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from engine.networks import ALGORITHMS
from engine.networks.network import Network, from_file
from tests.engine.networks.layers import (
    CHOICES,
    KINDS,
    make_input,
    make_model,
    make_network,
    stir,
    with_dropouts,
)

EVERY = pytest.mark.parametrize("kind", KINDS)
FORMS = pytest.mark.parametrize("form", CHOICES)
ROTATIONS = ("diag-oft", "boft")
NO_RANK = (*ROTATIONS, "ia3", "full")
NOTHING_DRAWN = NO_RANK


def only(network: Network) -> Any:
    (adapter,) = network.adapters.values()
    return adapter


def before_magnitudes(adapter: Any) -> Any:
    """What max-norm looks at: the adapter itself, or the one below a DoRA's magnitudes."""
    return getattr(adapter, "inner", adapter)


def make_small(adapter: Any, size: float) -> None:
    """Bring the change to a mean size; a DoRA's magnitudes go back near their start."""
    measured = before_magnitudes(adapter)
    measured.shrink(size / measured.delta().abs().mean())
    if (bias := measured.bias_delta()) is not None:
        bias.mul_(size / bias.abs().mean())  # the parameter itself; max-norm leaves it alone
    if measured is not adapter:
        noise = torch.randn(adapter.dora_scale.shape, generator=torch.Generator().manual_seed(6))
        adapter.dora_scale.copy_(adapter.norm().view(noise.shape) * (1 + 5e-4 * noise))


def through(layer: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The base layer run with another weight and bias."""
    if isinstance(layer, nn.Linear):
        return F.linear(x, weight, bias)
    return F.conv2d(x, weight, bias, layer.stride, layer.padding, layer.dilation)


def changed(layer: Any, adapter: Any, x: Tensor, strength: float) -> Tensor:
    """The base layer run with W + m dW, and b + m db where there is one."""
    bias, more = layer.bias, adapter.bias_delta()
    if bias is not None and more is not None:
        bias = bias + strength * more
    return through(layer, x, layer.weight + strength * adapter.delta(), bias)


def test_every_algorithm_has_forms_in_this_table():
    # Norms are layers of another kind; test_norm.py holds the same for them.
    assert {choice.algorithm for choice in CHOICES.values()} == set(ALGORITHMS) - {"norm"}


@EVERY
@FORMS
def test_a_fresh_network_changes_nothing(form, kind):
    model, x = make_model(kind), make_input(kind)
    before = model(x)
    network = make_network(model, CHOICES[form])
    network.inject()

    assert torch.equal(model(x), before)
    assert not only(network).delta().any()
    assert only(network).delta().shape == model.layer.weight.shape


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@EVERY
@FORMS
def test_output_and_gradients_are_those_of_the_base_with_the_change(form, kind, dtype):
    tolerance = (
        {"rtol": 1e-9, "atol": 1e-10} if dtype == torch.float64 else {"rtol": 2e-3, "atol": 2e-4}
    )
    model = make_model(kind, dtype)
    network = stir(make_network(model, CHOICES[form]))
    network.eval()  # DyLoRA draws its rank in training
    adapter = only(network).to(dtype)
    parameters = list(network.parameters())
    x = make_input(kind, dtype).requires_grad_()
    network.set_strength(0.7)

    wanted = changed(model.layer, adapter, x, 0.7)
    probe = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(2)).to(dtype)
    wanted_grads = torch.autograd.grad((wanted * probe).sum(), [x, *parameters])
    network.inject()
    found = model(x)
    found_grads = torch.autograd.grad((found * probe).sum(), [x, *parameters])

    still = through(model.layer, x, model.layer.weight, model.layer.bias)
    assert (wanted - still).abs().max() > 1e-3
    torch.testing.assert_close(found, wanted, **tolerance)
    for one, other in zip(found_grads, wanted_grads, strict=True):
        torch.testing.assert_close(one, other, **tolerance)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@EVERY
@FORMS
def test_a_small_change_survives_a_half_precision_base(form, kind, dtype):
    # (W + dW) - W in bf16 is off by 0.74 at this size: most of the change would be lost.
    model = make_model(kind, dtype)
    nn.init.normal_(model.layer.weight, std=0.05)
    network = stir(make_network(model, CHOICES[form]), 0.05)
    network.eval()
    adapter = only(network)
    with torch.no_grad():
        make_small(adapter, 4e-5)
        x = make_input(kind, dtype)
        found = adapter.change(x, 1.0).float()
        bias = adapter.bias_delta()
        wanted = through(model.layer, x.float(), adapter.delta(), bias)

    assert adapter.delta().abs().mean() < 6e-5
    assert 1e-6 < wanted.abs().mean() < 1e-2
    assert (found - wanted).norm() / wanted.norm() < 0.03


SCALES_THE_OUTPUT = ("diag-oft", "boft", "ia3")
"""They act on an output that the layer has rounded already: of a change this small about half arrives."""


@torch.no_grad()
@pytest.mark.parametrize("kind", ["linear", "conv1x1"])
@FORMS
def test_an_update_reaches_the_output_of_a_half_precision_layer(form, kind):
    # W x rounded to bf16 lies on a grid of 0.4 %: adding the change to that loses half of 0.1 %.
    if CHOICES[form].algorithm in SCALES_THE_OUTPUT and not CHOICES[form].train_on_input:
        return
    model = make_model(kind, torch.bfloat16)
    layer = model.layer
    nn.init.normal_(layer.weight, std=0.2)
    network = stir(make_network(model, CHOICES[form]), 0.05)
    network.eval()
    adapter = only(network)
    adapter.shrink(1e-3 * layer.weight.float().norm() / adapter.delta().norm())
    x = make_input(kind, torch.bfloat16, rows=800 if kind == "linear" else 60)
    exact_bias = None if layer.bias is None else layer.bias.float()
    still = through(layer, x.float(), layer.weight.float(), exact_bias)
    wanted = through(layer, x.float(), adapter.delta().float(), adapter.bias_delta())
    network.inject()

    came = model(x).float() - still

    assert float((came * wanted).sum() / wanted.square().sum()) == pytest.approx(1.0, abs=0.03)


@EVERY
@FORMS
def test_eject_restores_the_model_bit_for_bit(form, kind):
    model, x = make_model(kind), make_input(kind)
    before, state, names = model(x), copy.deepcopy(model.state_dict()), set(model.layer.__dict__)
    network = stir(make_network(model, CHOICES[form]))
    network.inject()
    network.inject()
    assert not torch.equal(model(x), before)
    assert list(model.state_dict()) == list(state)  # the adapter is no part of the base

    network.eject()
    network.eject()

    assert torch.equal(model(x), before)
    assert set(model.layer.__dict__) == names
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@EVERY
@FORMS
def test_save_load_save_is_byte_equal_from_shapes_alone(form, kind, dtype):
    model = make_model(kind)
    network = stir(make_network(model, CHOICES[form]))
    first = save(network.tensors(dtype))

    elsewhere = make_model(kind, seed=9)
    again = from_file({"unet": elsewhere}, load(first), {})
    second = save(again.tensors(dtype))

    assert second == first
    assert isinstance(only(network), type(only(again)))  # a DyLoRA's file is that of a LoRA
    tolerance = 1e-6 if dtype == torch.float32 else 3e-2
    assert only(again).size.scale == pytest.approx(only(network).size.scale)
    elsewhere.load_state_dict(model.state_dict())  # some changes are made of the base weight
    wanted = only(network).delta()
    assert (only(again).delta() - wanted).norm() <= tolerance * wanted.norm()


@EVERY
@FORMS
def test_alpha_in_the_file_tells_the_trained_scale(form, kind):
    choice = CHOICES[form]
    network = stir(make_network(make_model(kind), choice))
    tensors = network.tensors(torch.float16)
    size = only(network).size
    if size.alpha is None:
        assert not any(name.endswith(".alpha") for name in tensors)
        return
    (alpha,) = (tensor for name, tensor in tensors.items() if name.endswith(".alpha"))

    assert alpha.dtype == torch.float32
    assert alpha.shape == ()
    spatial = kind == "conv3x3"
    rank = choice.conv_rank if spatial and choice.conv_rank else choice.rank
    asked = choice.conv_alpha if spatial and choice.conv_alpha else choice.alpha
    if size.rank is None:
        assert size.scale == 1.0
    else:
        assert size.rank == rank
        divisor = rank**0.5 if choice.rs_lora else rank
        assert float(alpha) / rank == pytest.approx((asked or rank) / divisor, rel=1e-6)


@EVERY
@FORMS
def test_strength_multiplies_the_change_and_zero_is_the_base(form, kind):
    model, x = make_model(kind), make_input(kind)
    base = model(x)
    network = stir(make_network(model, CHOICES[form]))
    network.inject()
    whole = model(x) - base

    for strength in (-1.0, 0.5, 2.0):
        network.set_strength(strength)
        torch.testing.assert_close(model(x) - base, strength * whole, rtol=2e-3, atol=2e-4)
    network.set_strength(0)
    assert torch.equal(model(x), base)


@EVERY
@FORMS
def test_training_state_goes_back_exactly(form, kind):
    model = make_model(kind)
    network = stir(make_network(model, CHOICES[form]))
    other = make_network(make_model(kind), CHOICES[form], seed=99)

    other.load_training_state(network.training_state())

    for one, wanted in zip(other.parameters(), network.parameters(), strict=True):
        assert torch.equal(one, wanted)
    assert save(other.tensors()) == save(network.tensors())


@torch.no_grad()
@EVERY
@FORMS
def test_max_norm_meets_the_limit_and_reports_where_nothing_was_scaled(form, kind):
    model = make_model(kind)
    network = stir(make_network(model, CHOICES[form]))
    adapter = before_magnitudes(only(network))
    direction = adapter.delta() / adapter.delta().norm()
    norm = float(adapter.delta().norm())

    scaled, mean, largest = network.apply_max_norm(2 * norm).numbers()
    assert (scaled, mean, largest) == (
        0,
        pytest.approx(norm, rel=1e-4),
        pytest.approx(norm, rel=1e-4),
    )
    assert float(adapter.delta().norm()) == pytest.approx(norm)

    scaled, mean, largest = network.apply_max_norm(norm / 3).numbers()
    assert (scaled, mean, largest) == (
        1,
        pytest.approx(norm / 3, rel=1e-4),
        pytest.approx(norm / 3, rel=1e-4),
    )
    assert float(adapter.delta().norm()) == pytest.approx(norm / 3, rel=1e-4)
    if CHOICES[form].algorithm not in ROTATIONS:  # half a turn points elsewhere
        torch.testing.assert_close(adapter.delta(), direction * norm / 3, rtol=1e-3, atol=1e-5)


DROPS = {
    "activation": {"activation": 0.4},
    "rank": {"rank": 0.5},
    "module": {"module": 0.5},
    "all": {"activation": 0.2, "rank": 0.2, "module": 0.2},
}


def applicable(form: str, drop: str) -> bool:
    full = CHOICES[form].rank in ("full", 100)
    if CHOICES[form].algorithm in NO_RANK:
        return drop == "module"
    drawn = CHOICES[form].algorithm == "dylora"
    return not ((full or drawn) and drop in ("rank", "all"))


@pytest.mark.parametrize("drop", DROPS)
@EVERY
@FORMS
def test_dropouts_act_in_training_only_and_repeat_under_checkpointing(form, kind, drop):
    if not applicable(form, drop):
        pytest.skip("refused: no rank to drop")
    model, x = make_model(kind), make_input(kind).requires_grad_()
    network = stir(make_network(model, with_dropouts(CHOICES[form], **DROPS[drop])))
    network.inject()
    network.eval()
    still = model(x)
    plain = stir(make_network(make_model(kind), CHOICES[form]))
    torch.testing.assert_close(only(plain).delta(), only(network).delta())

    network.train()
    differs = 0
    for step in range(1, 9):
        network.begin(step=step, first_sample=0, samples=3)
        out = model(x)
        grads = torch.autograd.grad(out.square().sum(), [x, *network.parameters()])
        again = checkpoint(model, x, use_reentrant=False)
        repeated = torch.autograd.grad(again.square().sum(), [x, *network.parameters()])
        assert torch.equal(out, again)
        assert all(torch.equal(a, b) for a, b in zip(grads, repeated, strict=True))
        differs += not torch.equal(out, still)
    assert differs >= 2

    network.eval()
    assert torch.equal(model(x), still)
    torch.testing.assert_close(only(plain).delta(), only(network).delta())


@pytest.mark.parametrize("drop", ["activation", "rank", "module"])
@EVERY
@pytest.mark.parametrize(
    "form", ["lora", "locon tucker", "loha", "loha tucker narrow scalar", "lokr low", "lokr tucker"]
)
def test_a_step_in_smaller_parts_sees_the_same_draws(form, kind, drop):
    model, x = make_model(kind), make_input(kind, rows=4)
    network = stir(make_network(model, with_dropouts(CHOICES[form], **DROPS[drop])))
    network.inject()
    network.train()

    network.begin(step=7, batch=0, first_sample=0, samples=4)
    whole = model(x)
    parts = []
    for number, first in enumerate((0, 1, 3)):
        rows = x[first : (1, 3, 4)[number]]
        network.begin(step=7, batch=number, first_sample=first, samples=len(rows))
        parts.append(model(rows))

    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("drop", [None, "all"])
@EVERY
@FORMS
def test_training_under_autocast_gives_fp32_gradients(form, kind, drop, dtype):
    if drop and not applicable(form, drop):
        pytest.skip("refused: no rank to drop")
    choice = with_dropouts(CHOICES[form], **DROPS[drop]) if drop else CHOICES[form]
    model, x = make_model(kind, dtype), make_input(kind).requires_grad_()
    network = stir(make_network(model, choice))
    network.inject()
    network.train()
    network.begin(step=2, samples=3)

    with torch.autocast("cpu", dtype):
        out = model(x)
    out.float().sum().backward()

    assert out.dtype == dtype
    assert all(parameter.grad is not None for parameter in network.parameters())
    assert all(parameter.grad.dtype == torch.float32 for parameter in network.parameters())
    assert x.grad is not None


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@EVERY
@pytest.mark.parametrize("form", ["lora", "loha", "lokr full"])
def test_two_networks_on_one_model_add_up_and_leave_in_any_order(form, kind, order):
    model, x = make_model(kind), make_input(kind)
    base = model(x)
    networks = [stir(make_network(model, CHOICES[form]), seed=seed) for seed in (1, 2)]
    alone = []
    for network in networks:
        network.inject()
        alone.append(model(x) - base)
        network.eject()
    for network in networks:
        network.inject()
    torch.testing.assert_close(model(x) - base, alone[0] + alone[1], rtol=2e-3, atol=2e-4)

    networks[order[0]].eject()
    torch.testing.assert_close(model(x) - base, alone[order[1]], rtol=2e-3, atol=2e-4)
    networks[order[1]].eject()
    assert torch.equal(model(x), base)


@EVERY
@FORMS
def test_the_start_depends_on_seed_and_module_name_alone(form, kind):
    one = make_network(make_model(kind), CHOICES[form], seed=3).training_state()
    same = make_network(make_model(kind, seed=8), CHOICES[form], seed=3).training_state()
    other = make_network(make_model(kind), CHOICES[form], seed=4).training_state()

    of_the_base = {name for name in one if name.endswith(".dora_scale")}
    from_singular_values = CHOICES[form].algorithm == "t-lora" and CHOICES[form].use_data_init
    if from_singular_values:
        of_the_base = {name for name in one if one[name].dim() > 0}
    assert all(torch.equal(one[name], same[name]) for name in set(one) - of_the_base)
    assert all(not torch.equal(one[name], same[name]) for name in of_the_base)
    assert all(torch.equal(one[name], other[name]) for name in of_the_base)
    differs = any(not torch.equal(one[name], other[name]) for name in one)
    drawn = CHOICES[form].algorithm not in NOTHING_DRAWN and not from_singular_values
    assert differs == drawn
