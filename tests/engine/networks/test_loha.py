"""What LoHa has of its own: its start, its two ways of applying the change, its draws and its memory."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn

from engine.networks import loha
from engine.networks.base import Setup
from engine.networks.loha import Loha, chains
from tests.engine.networks.layers import (
    CHOICES,
    KINDS,
    ResnetBlock2D,
    make_input,
    make_model,
    make_network,
    stir,
    with_dropouts,
)

FORMS = [
    form for form, choice in CHOICES.items() if choice.algorithm == "loha" and choice.dora == "off"
]
WAYS = {"chain": True, "dense": False}


def only(network: Any) -> Any:
    (adapter,) = network.adapters.values()
    return adapter


def written_out(adapter: Any) -> torch.Tensor:
    """The formula with loops over ranks, from the tensors of a file."""
    tensors = adapter.tensors()
    scale = float(tensors["alpha"]) / tensors["hada_w1_b"].shape[0]
    products = []
    for half in ("1", "2"):
        a, b = tensors[f"hada_w{half}_a"], tensors[f"hada_w{half}_b"]
        core = tensors.get(f"hada_t{half}")
        total = 0.0
        for i in range(b.shape[0]):
            if core is None:
                total = total + torch.outer(a[:, i], b[i])
                continue
            for j in range(b.shape[0]):
                total = total + torch.einsum("p,r,hw->prhw", a[i], b[j], core[i, j])
        products.append(total)
    return (scale * products[0] * products[1]).view(adapter.layer.weight.shape)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", FORMS)
def test_the_change_is_the_formula(form, kind):
    adapter = only(stir(make_network(make_model(kind), CHOICES[form])))

    torch.testing.assert_close(adapter.delta(), written_out(adapter), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", ["loha", "loha narrow scalar rs", "loha tucker"])
def test_both_ways_have_the_gradients_of_autograd(form, kind, way, monkeypatch):
    monkeypatch.setattr(loha, "chains", lambda *_: WAYS[way])
    model = make_model(kind, torch.float64)
    network = stir(make_network(model, CHOICES[form]))
    adapter = only(network).double()
    x = make_input(kind, torch.float64, rows=2).requires_grad_()
    inputs = [x, *network.parameters()]

    def plain() -> torch.Tensor:
        weight = model.layer.weight + adapter.delta()
        if isinstance(model.layer, nn.Linear):
            return nn.functional.linear(x, weight, model.layer.bias)
        layer = model.layer
        return nn.functional.conv2d(
            x, weight, layer.bias, layer.stride, layer.padding, layer.dilation
        )

    probe = torch.randn(plain().shape, dtype=torch.float64)
    wanted = torch.autograd.grad((plain() * probe).sum(), inputs)
    for found in (adapter.adapted(x, 1.0), model.layer(x) + adapter.change(x, 1.0)):
        torch.testing.assert_close(found, plain(), rtol=1e-9, atol=1e-9)
        grads = torch.autograd.grad((found * probe).sum(), inputs)
        torch.testing.assert_close(grads, wanted, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("form", ["loha", "loha tucker"])
def test_gradients_pass_the_numeric_check(form, way, monkeypatch):
    monkeypatch.setattr(loha, "chains", lambda *_: WAYS[way])
    layer = nn.Conv2d(3, 4, 3, stride=2, padding=1).double().requires_grad_(False)
    choice = replace(CHOICES[form], rank=2)
    network = stir(make_network(ResnetBlock2D(layer), choice))
    adapter = only(network).double()
    x = torch.randn(2, 3, 5, 4, dtype=torch.float64, requires_grad=True)
    parameters = list(network.parameters())

    # gradcheck moves the parameters themselves: the adapter sees them.
    assert torch.autograd.gradcheck(lambda x, *_: adapter.adapted(x, 0.5), (x, *parameters))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(
    ("layer", "shape"),
    [(lambda: nn.Linear(96, 80), (2, 7, 96)), (lambda: nn.Conv2d(48, 40, 3), (1, 48, 5, 5))],
    ids=["linear", "conv"],
)
def test_nothing_of_the_weights_size_is_saved(layer, shape, way, dtype, monkeypatch):
    layer = layer()
    monkeypatch.setattr(loha, "chains", lambda *_: WAYS[way])
    model = ResnetBlock2D(layer).to(dtype).requires_grad_(False)
    network = stir(make_network(model, CHOICES["loha"]))
    network.inject()
    x = torch.randn(shape).to(dtype).requires_grad_()
    known = {t.data_ptr() for t in (x, layer.weight, *network.parameters())}
    new: list[int] = []

    def seen(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.data_ptr() not in known:
            new.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(seen, lambda tensor: tensor):
        model(x)

    # One scaled outer factor, of rank 6, and nothing beside it.
    assert sum(new) <= 6 * layer.weight.shape[0] + 8


def effect(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """How much of a wanted change there is in a found one: 1 is all of it."""
    return float((found * wanted).sum() / wanted.square().sum())


@torch.no_grad()
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("relative", [1e-4, 1e-3])
def test_the_fused_output_keeps_a_small_change_of_a_half_precision_base(
    relative, dtype, way, monkeypatch
):
    monkeypatch.setattr(loha, "chains", lambda *_: WAYS[way])
    model = make_model("linear", dtype)
    network = stir(make_network(model, CHOICES["loha"]))
    adapter, weight = only(network), model.layer.weight
    adapter.shrink(relative * weight.float().std() / adapter.delta().std())
    x = torch.randn(20_000, 24).to(dtype)
    base = nn.functional.linear(x.float(), weight.float(), model.layer.bias.float())
    wanted = nn.functional.linear(x.float(), adapter.delta())

    tolerance = 0.05 if relative < 1e-3 else 0.01
    found = adapter.adapted(x, 1.0).float() - base
    assert effect(found, wanted) == pytest.approx(1, abs=tolerance)
    folded = nn.functional.linear(x, weight + adapter.delta().to(dtype), model.layer.bias)
    if dtype == torch.bfloat16:  # the test sees what it is for
        assert effect(folded.float() - base, wanted) < 0.8


def test_the_start_is_normal_with_the_spreads_of_lycoris():
    model = nn.Module()
    layer = nn.Conv2d(400, 300, 3).requires_grad_(False)
    for scalar in (False, True):
        choice = replace(CHOICES["loha tucker"], rank=20, scalar=scalar)
        shapes = {
            "hada_t1": (20, 20, 3, 3),
            "hada_w1_a": (20, 300),
            "hada_w1_b": (20, 400),
            "hada_t2": (20, 20, 3, 3),
            "hada_w2_a": (20, 300),
            "hada_w2_b": (20, 400),
        }
        drawn = Loha.fresh("x", layer, shapes, 3, choice)
        spreads = {suffix: float(tensor.std()) for suffix, tensor in drawn.items()}
        wanted = {"hada_w1_a": 0.1, "hada_w1_b": 1.0, "hada_w2_b": 1.0}
        wanted |= {"hada_t1": 0.1, "hada_t2": 0.1, "hada_w2_a": 0.1 if scalar else 0.0}
        assert spreads == pytest.approx(wanted, rel=0.05)
        assert all(abs(float(tensor.mean())) < 0.05 for tensor in drawn.values())
    assert not list(model.parameters())


@torch.no_grad()
def test_max_norm_scales_w1_a_alone():
    network = stir(make_network(make_model("conv3x3"), CHOICES["loha tucker"]))
    before = {suffix: t.clone() for suffix, t in only(network).state().items()}
    norm = float(only(network).delta().norm())

    network.apply_max_norm(norm / 4)

    after = only(network).state()
    changed = {suffix for suffix in before if not torch.equal(before[suffix], after[suffix])}
    assert changed == {"hada_w1_a"}
    torch.testing.assert_close(after["hada_w1_a"], before["hada_w1_a"] / 4, rtol=1e-4, atol=0)


@torch.no_grad()
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", KINDS)
def test_dropped_ranks_are_missing_in_both_products_the_same_whichever_way_runs(
    kind, way, monkeypatch
):
    monkeypatch.setattr(loha, "chains", lambda *_: WAYS[way])
    model, x = make_model(kind), make_input(kind)
    network = stir(make_network(model, with_dropouts(CHOICES["loha tucker"], rank=0.5)))
    plain = only(stir(make_network(make_model(kind), CHOICES["loha tucker"])))
    adapter = only(network)
    network.train()
    outputs = []
    for step in range(4):
        network.begin(step=step, samples=3)
        a1, b1, a2, b2 = adapter._pairs(dropped=True)
        whole1, _, whole2, _ = plain._pairs()
        for a, whole in ((a1, whole1), (a2, whole2)):
            kept = a.abs().sum(0) > 0
            torch.testing.assert_close(a[:, kept], 2 * whole[:, kept])
        outputs.append(adapter.change(x, 1.0))
        dense = ((a1 @ b1) * (a2 @ b2) * adapter.scale()).view(model.layer.weight.shape)
        wanted = (
            nn.functional.linear(x, dense)
            if kind == "linear"
            else nn.functional.conv2d(
                x, dense, None, model.layer.stride, model.layer.padding, model.layer.dilation
            )
        )
        torch.testing.assert_close(outputs[-1], wanted, rtol=1e-3, atol=1e-4)
    assert any(not torch.equal(one, other) for one, other in pairwise(outputs))


@torch.no_grad()
def test_the_mean_over_many_dropped_ranks_is_the_whole_change():
    network = stir(make_network(make_model("linear"), with_dropouts(CHOICES["loha"], rank=0.3)))
    adapter = only(network)
    network.train()
    total = torch.zeros_like(adapter.delta())
    for step in range(3000):
        network.begin(step=step)
        a1, b1, a2, b2 = adapter._pairs(dropped=True)
        total += (a1 @ b1) * (a2 @ b2) * adapter.scale()

    assert effect(total / 3000, adapter.delta()) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(
    ("rank", "shape", "tokens", "wanted"),
    [
        (4, (320, 320), 32768, True),
        (4, (320, 320, 3, 3), 8192, True),
        (16, (320, 320), 32768, False),
        (16, (320, 320), 64, True),  # building the change costs more than the few tokens
        (16, (1280, 1280), 2048, True),
        (64, (320, 320), 4096, False),
    ],
)
def test_the_narrow_chain_is_taken_where_it_is_less_work(rank, shape, tokens, wanted):
    assert chains(rank, torch.Size(shape), tokens, torch.bfloat16) == wanted


BROKEN = {
    "a factor is missing": ("hada_t2", None),
    "another rank": ("hada_w2_a", (5, 36)),
    "a plain outer factor": ("hada_w1_a", (36, 6)),
    "another layer": ("hada_w1_b", (6, 25)),
}


@pytest.mark.parametrize("what", BROKEN)
def test_tensors_that_do_not_fit_are_named(what):
    model = make_model("conv3x3")
    tensors = only(make_network(model, CHOICES["loha tucker"])).tensors()
    suffix, shape = BROKEN[what]
    tensors.pop(suffix)
    if shape:
        tensors[suffix] = torch.zeros(shape)

    with pytest.raises(ValueError, match=suffix):
        Loha.from_tensors("x", model.layer, tensors, Setup())
