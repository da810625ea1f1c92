"""LoKr's three ways of applying the change: the same numbers, little memory, the update survives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from engine.networks import lokr
from engine.networks.lokr import cheapest
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

ORDERS = ("mix first", "mix last", "dense")
WAYS = pytest.mark.parametrize("order", ORDERS)


def only(network: Any) -> Any:
    (adapter,) = network.adapters.values()
    return adapter


def plain(layer: Any, x: torch.Tensor, weight: torch.Tensor, bias: Any) -> torch.Tensor:
    if isinstance(layer, nn.Linear):
        return F.linear(x, weight, bias)
    return F.conv2d(x, weight, bias, layer.stride, layer.padding, layer.dilation)


@WAYS
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", ["lokr full", "lokr full unbalanced", "lokr tucker both scalar"])
def test_every_way_has_the_gradients_of_autograd(form, kind, order, monkeypatch):
    monkeypatch.setattr(lokr, "cheapest", lambda *_: order)
    model = make_model(kind, torch.float64)
    layer = model.layer
    network = stir(make_network(model, CHOICES[form]))
    adapter = only(network).double()
    x = make_input(kind, torch.float64, rows=2).requires_grad_()
    inputs = [x, *network.parameters()]
    wanted = plain(layer, x, layer.weight + adapter.delta(), layer.bias)
    probe = torch.randn(wanted.shape, dtype=torch.float64)
    wanted_grads = torch.autograd.grad((wanted * probe).sum(), inputs)

    for found in (adapter.adapted(x, 1.0), layer(x) + adapter.change(x, 1.0)):
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)
        grads = torch.autograd.grad((found * probe).sum(), inputs)
        torch.testing.assert_close(grads, wanted_grads, rtol=1e-8, atol=1e-9)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", ["lokr full", "lokr both unbalanced scalar", "lokr tucker"])
def test_the_change_is_the_kronecker_product(form, kind):
    adapter = only(stir(make_network(make_model(kind), CHOICES[form])))
    left, right = adapter.left() * adapter.scale(), adapter.right()
    cells = right.shape[2:].numel()
    each = [torch.kron(left, cell) for cell in right.reshape(*right.shape[:2], cells).unbind(2)]

    wanted = torch.stack(each, 2).view(adapter.layer.weight.shape)
    torch.testing.assert_close(adapter.delta(), wanted)


@WAYS
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_saved_but_the_input_and_the_halves(kind, order, monkeypatch):
    monkeypatch.setattr(lokr, "cheapest", lambda *_: order)
    layer = nn.Linear(96, 80) if kind == "linear" else nn.Conv2d(96, 80, int(kind[4]))
    network = stir(
        make_network(ResnetBlock2D(layer).requires_grad_(False), CHOICES["lokr full even"])
    )
    network.inject()
    x = torch.randn((2, 7, 96) if kind == "linear" else (1, 96, 5, 5)).requires_grad_()
    known = {t.data_ptr() for t in (x, layer.weight, *network.parameters())}
    new: list[int] = []

    def seen(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.data_ptr() not in known:
            new.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(seen, lambda tensor: tensor):
        layer(x)

    assert sum(new) <= 2 * only(network).left().numel()


def effect(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """How much of a wanted change there is in a found one: 1 is all of it."""
    return float((found * wanted).sum() / wanted.square().sum())


@WAYS
@pytest.mark.parametrize("kind", ["linear", "conv1x1"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_output_and_input_gradient_keep_a_small_change_of_a_half_precision_base(
    dtype, kind, order, monkeypatch
):
    monkeypatch.setattr(lokr, "cheapest", lambda *_: order)
    model = make_model(kind, dtype)
    layer = model.layer
    adapter = only(stir(make_network(model, CHOICES["lokr full"])))
    with torch.no_grad():
        adapter.shrink(1e-3 * layer.weight.float().std() / adapter.delta().std())
    delta, bias = adapter.delta().detach(), layer.bias.float()
    x = torch.randn((20_000, 24) if kind == "linear" else (32, 24, 25, 25)).to(dtype)
    exact_x = x.float().requires_grad_()
    base = plain(layer, exact_x, layer.weight.float(), bias)
    change = plain(layer, exact_x, delta, None)
    grad = torch.randn(base.shape).to(dtype)
    (base_grad,) = torch.autograd.grad(base, exact_x, grad.float())
    (change_grad,) = torch.autograd.grad(change, exact_x, grad.float())

    x.requires_grad_()
    found = adapter.adapted(x, 1.0)
    (found_grad,) = torch.autograd.grad(found, x, grad)

    with torch.no_grad():
        assert effect(found.float() - base, change) == pytest.approx(1, abs=0.015)
        assert effect(found_grad.float() - base_grad, change_grad) == pytest.approx(1, abs=0.015)
        # Adding to what is already rounded loses it: the test sees what it is for.
        if dtype == torch.bfloat16:
            assert effect((layer(x) + change.to(dtype)).float() - base, change) < 0.9


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_dropped_ranks_are_the_same_whichever_way_runs(kind, monkeypatch):
    model, x = make_model(kind), make_input(kind)
    network = stir(make_network(model, with_dropouts(CHOICES["lokr low"], rank=0.5)))
    network.train()
    network.begin(step=3, samples=3)
    outputs = []
    for order in ORDERS:
        monkeypatch.setattr(lokr, "cheapest", lambda *_, order=order: order)
        outputs.append(only(network).change(x, 1.0))

    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(outputs[0], outputs[2], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("left", "right", "tokens", "dtype", "wanted"),
    [
        ((4, 4), (80, 80), 32768, torch.float32, "dense"),  # one product more than the base
        ((4, 4), (80, 80), 32768, torch.bfloat16, "mix last"),  # there it would be three
        ((4, 4), (640, 80), 4096, torch.bfloat16, "mix first"),  # on the narrow side
        ((8, 8), (160, 160), 256, torch.float32, "mix first"),
        ((1, 1), (320, 320), 4096, torch.bfloat16, "dense"),  # w2 is the whole change
    ],
)
def test_the_way_with_the_least_work_is_taken(left, right, tokens, dtype, wanted):
    assert cheapest(torch.Size(left), torch.Size(right), tokens, dtype) == wanted
