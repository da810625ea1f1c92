"""T-LoRA's own promises: where it starts, what a timestep leaves of it, and that nothing cancels."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from engine.errors import NetworkFileError
from engine.networks.base import Setup
from engine.networks.choice import Choice
from engine.networks.network import Network, build, from_file
from engine.networks.shapes import BASE_FACTORS
from engine.networks.t_lora import TLora, active_ranks, as_lora
from engine.networks.t_lora_start import FACTORS, LAMBDA, P, Q
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

EVERY = pytest.mark.parametrize("kind", KINDS)
CHOICE = CHOICES["t-lora"]


def only(network: Network) -> Any:
    (adapter,) = network.adapters.values()
    return adapter


def at(network: Network, *timesteps: int, step: int = 1) -> None:
    network.begin(step=step, samples=len(timesteps), timesteps_B=torch.tensor(timesteps))


def matrices(adapter: Any) -> list[Tensor]:
    names = (*FACTORS, *BASE_FACTORS)
    found = [adapter.weight(n) if n in FACTORS else adapter.fixed(n) for n in names]
    return [tensor.detach().double().flatten(1) for tensor in found]


def dense(adapter: Any, ranks: int) -> Tensor:
    """dW with the first ranks only, one rank after the other, in fp64."""
    q, p, values, q0, p0, values0 = matrices(adapter)
    total = torch.zeros(p.shape[0], q.shape[1], dtype=torch.float64)
    for rank in range(ranks):
        total += values[0, rank] * torch.outer(p[:, rank], q[rank])
        total -= values0[0, rank] * torch.outer(p0[:, rank], q0[rank])
    return (total * adapter.size.scale).view(adapter.layer.weight.shape)


def run_with(model: nn.Module, x: Tensor, weight: Tensor) -> Tensor:
    """The layer with another weight and no bias."""
    layer: Any = model.layer
    if isinstance(layer, nn.Linear):
        return nn.functional.linear(x, weight)
    return nn.functional.conv2d(x, weight, None, layer.stride, layer.padding, layer.dilation)


@EVERY
@pytest.mark.parametrize(("sig_type", "start"), [("principal", 0), ("middle", 10), ("last", 20)])
def test_it_starts_at_singular_values_of_the_base(kind, sig_type, start):
    model = make_model(kind)
    adapter = only(make_network(model, replace(CHOICE, sig_type=sig_type)))
    weight = model.layer.weight.flatten(1).double()
    if kind == "conv3x3":
        start = {"principal": 0, "middle": 16, "last": 32}[sig_type]

    q, p, values, *fixed = matrices(adapter)

    wanted = torch.linalg.svdvals(weight)[start : start + 4]
    torch.testing.assert_close(values[0], wanted, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(p.t() @ p, torch.eye(4, dtype=torch.float64), rtol=0, atol=1e-5)
    torch.testing.assert_close(q @ q.t(), torch.eye(4, dtype=torch.float64), rtol=0, atol=1e-5)
    torch.testing.assert_close(p.t() @ weight, wanted[:, None] * q, rtol=1e-3, atol=1e-5)
    assert all(torch.equal(one, two) for one, two in zip((q, p, values), fixed, strict=True))


def test_a_drawn_start_has_the_deviation_of_one_over_the_rank():
    model = nn.Module()
    model.layer = nn.Linear(400, 300)
    model.requires_grad_(False)
    layer = model.layer
    shapes = {Q: (8, 400), P: (300, 8), LAMBDA: (1, 8)}
    weights = TLora.fresh(
        "lora_unet_a", layer, shapes, 3, Choice("t-lora", 8, 1.0, use_data_init=False)
    )

    # The largest singular value of a matrix of normal numbers is sqrt(rows) + sqrt(columns) deviations.
    assert float(weights[LAMBDA][0, 0]) == pytest.approx((20 + math.sqrt(300)) / 8, rel=0.05)


def test_ranks_beyond_those_of_the_layer_stay_unused():
    layer = nn.Linear(20, 3).requires_grad_(False)
    shapes = {Q: (5, 20), P: (3, 5), LAMBDA: (1, 5)}

    weights = TLora.fresh("lora_unet_a", layer, shapes, 0, Choice("t-lora", 5, 5.0))

    assert weights[LAMBDA].count_nonzero() == 3
    assert weights[Q].isfinite().all()
    torch.testing.assert_close(weights[P] * weights[LAMBDA] @ weights[Q], layer.weight)


@torch.no_grad()
@EVERY
def test_the_change_is_the_difference_of_both_products(kind):
    adapter = only(stir(make_network(make_model(kind), CHOICE)))

    torch.testing.assert_close(adapter.delta().double(), dense(adapter, 4), rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@EVERY
def test_a_first_small_step_survives_half_precision(kind, dtype):
    model = make_model(kind, dtype)
    network = stir(make_network(model, CHOICE), 1e-4)
    adapter, x = only(network), make_input(kind, dtype)
    wanted = run_with(model, x.double(), dense(adapter, 4))
    q, p, values, q0, p0, values0 = (tensor.to(dtype) for tensor in matrices(adapter))
    naive = ((p * values) @ q - (p0 * values0) @ q0) * adapter.size.scale
    lost = run_with(model, x.double(), naive.double().view(model.layer.weight.shape))

    found = adapter.change(x, 1.0).double()

    assert dense(adapter, 4).norm() < 2e-3 * model.layer.weight.double().norm()
    assert (found - wanted).norm() / wanted.norm() < 0.02
    assert (lost - wanted).norm() / wanted.norm() > 0.3


@pytest.mark.parametrize(
    ("ranks", "least", "power"), [(16, 1, 1.0), (8, 2, 0.5), (4, 4, 2.0), (3, 9, 1.0)]
)
def test_ranks_fall_with_the_noise_as_the_paper_says(ranks, least, power):
    found = active_ranks(torch.arange(1000), 1000, ranks, min_rank=least, mask_alpha=power)

    # int() as in the authors' code
    least = min(least, ranks)
    wanted = [
        min(int(((1000 - t) / 1000) ** power * (ranks - least)) + least, ranks) for t in range(1000)
    ]
    assert found.tolist() == wanted
    assert found[0] == ranks
    assert found.min() == least


@torch.no_grad()
@pytest.mark.parametrize("training", [True, False])
@EVERY
def test_each_sample_has_the_ranks_of_its_own_timestep(kind, training):
    model, x = make_model(kind), make_input(kind, rows=4)
    network = stir(make_network(model, CHOICE))
    network.train(training)
    base = model(x)
    network.inject()

    at(network, 0, 999, 600, 300)
    change = model(x) - base

    for row, ranks in enumerate((4, 1, 2, 3)):
        wanted = run_with(model, x[row : row + 1].double(), dense(only(network), ranks))
        torch.testing.assert_close(change[row : row + 1].double(), wanted, rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_rows_of_one_sample_share_its_timestep():
    model, x = make_model("linear"), make_input("linear", rows=2)
    network = stir(make_network(model, CHOICE))
    network.inject()
    at(network, 0, 999)
    two = model(x)

    four = model(x.repeat(2, 1, 1))

    torch.testing.assert_close(four, two.repeat(2, 1, 1))
    assert not torch.allclose(two[0], model(x.flip(0))[1])


@torch.no_grad()
def test_one_timestep_stands_for_every_row():
    model, x = make_model("linear"), make_input("linear", rows=3)
    network = stir(make_network(model, CHOICE))
    network.inject()
    at(network, 600, 600, 600)
    wanted = model(x)

    at(network, 600)

    assert torch.equal(model(x), wanted)


@torch.no_grad()
@EVERY
def test_without_timesteps_all_ranks_act(kind):
    model, x = make_model(kind), make_input(kind)
    base = model(x)
    network = stir(make_network(model, CHOICE))
    network.inject()
    at(network, 999, 999, 999)
    masked = model(x)

    network.begin(step=1)

    wanted = run_with(model, x.double(), dense(only(network), 4))
    torch.testing.assert_close((model(x) - base).double(), wanted, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(masked, model(x))


def test_a_masked_start_changes_nothing_and_masked_ranks_do_not_learn():
    model, x = make_model("linear"), make_input("linear")
    base = model(x)
    network = make_network(model, CHOICE)
    network.inject()
    at(network, 999, 600, 999)

    found = model(x)
    found.square().sum().backward()

    assert torch.equal(found, base)
    learning = only(network).weight(LAMBDA).grad != 0
    assert learning.tolist() == [[True, True, False, False]]
    assert only(network).weight(Q).grad.abs().sum(1).bool().tolist() == [True, True, False, False]


@torch.no_grad()
def test_a_text_encoder_has_no_timestep():
    module = nn.Module()
    module.CLIPAttention = None
    layer = nn.Linear(8, 8).requires_grad_(False)
    shapes = {Q: (2, 8), P: (8, 2), LAMBDA: (1, 2)}
    setup = Setup()
    adapter = TLora.create("lora_te_text_model_a", layer, shapes, Choice("t-lora", 2, 2.0), setup)
    for parameter in adapter.own_parameters():
        parameter.add_(torch.randn(parameter.shape))
    x = torch.randn(2, 3, 8)
    wanted = adapter(x)

    setup.moment.timesteps_B = torch.tensor([999, 999])

    assert torch.equal(adapter(x), wanted)


@EVERY
def test_masks_and_dropouts_repeat_under_checkpointing(kind):
    model, x = make_model(kind), make_input(kind).requires_grad_()
    network = stir(make_network(model, with_dropouts(CHOICE, activation=0.3, rank=0.3)))
    network.inject()
    network.train()
    at(network, 0, 999, 300)

    out = model(x)
    grads = torch.autograd.grad(out.square().sum(), [x, *network.parameters()])
    again = checkpoint(model, x, use_reentrant=False)
    repeated = torch.autograd.grad(again.square().sum(), [x, *network.parameters()])

    assert torch.equal(out, again)
    assert all(torch.equal(one, two) for one, two in zip(grads, repeated, strict=True))


def test_dropouts_leave_a_fresh_network_at_the_base():
    # Both products drop the same numbers, so that they still cancel.
    model, x = make_model("linear"), make_input("linear")
    base = model(x)
    network = make_network(model, with_dropouts(CHOICE, activation=0.5, rank=0.5))
    network.inject()
    network.train()
    at(network, 0, 500, 999)

    assert torch.equal(model(x), base)


@torch.no_grad()
@EVERY
def test_max_norm_is_written_through_alpha_and_survives_a_resume_exactly(kind):
    model, x = make_model(kind), make_input(kind)
    network = stir(make_network(model, CHOICE))
    before = {name: t.clone() for name, t in network.tensors().items()}
    limit = float(only(network).delta().norm()) / 3
    network.apply_max_norm(limit)
    network.inject()
    wanted = model(x)
    network.eject()

    tensors = network.tensors(torch.float16)
    other = make_network(model, CHOICE, seed=8)
    other.load_training_state(network.training_state())
    other.inject()

    assert torch.equal(model(x), wanted)
    assert save(other.tensors()) == save(network.tensors())
    alpha = "lora_unet_layer.alpha"
    assert float(tensors[alpha]) == pytest.approx(float(before[alpha]) / 3, rel=1e-4)
    assert all(torch.equal(tensors[name], before[name]) for name in tensors if name != alpha)
    again = only(from_file({"unet": make_model(kind)}, tensors, {}))
    assert float(again.delta().norm()) == pytest.approx(limit, rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_all_six_factors_are_fp32_in_the_file(dtype):
    tensors = stir(make_network(make_model("linear"), CHOICE)).tensors(dtype)

    assert len(tensors) == 7
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}


def without_fixed(network: Network) -> dict[str, Tensor]:
    return {n: t for n, t in network.tensors().items() if n.partition(".")[2] not in BASE_FACTORS}


@torch.no_grad()
@pytest.mark.parametrize("sig_type", ["principal", "last", "middle"])
@EVERY
def test_a_file_without_fixed_factors_gets_them_from_its_base(kind, sig_type):
    model = make_model(kind)
    network = stir(make_network(model, replace(CHOICE, sig_type=sig_type)), 0.01)

    adapter = only(from_file({"unet": make_model(kind)}, without_fixed(network), {}))

    assert adapter.derived
    torch.testing.assert_close(adapter.delta(), only(network).delta(), rtol=1e-3, atol=1e-5)
    assert not only(from_file({"unet": model}, network.tensors(), {})).derived


@pytest.mark.parametrize("case", ["another base", "drawn"])
def test_a_file_without_fixed_factors_is_refused_where_they_cannot_be_found(case):
    choice = CHOICES["t-lora drawn"] if case == "drawn" else CHOICE
    network = stir(make_network(make_model("linear"), choice), 0.01)
    base = make_model("linear", seed=0 if case == "drawn" else 7)

    with pytest.raises(NetworkFileError, match="began at another base or at random factors"):
        from_file({"unet": base}, without_fixed(network), {})


def test_a_file_with_some_of_the_fixed_factors_is_refused():
    network = make_network(make_model("linear"), CHOICE)
    tensors = {n: t for n, t in network.tensors().items() if not n.endswith("base_lambda")}

    with pytest.raises(NetworkFileError, match="without the rest"):
        from_file({"unet": make_model("linear")}, tensors, {})


@torch.no_grad()
@pytest.mark.parametrize("size", [1e-4, 0.3])
@EVERY
def test_its_export_is_a_lora_of_twice_the_rank_that_keeps_the_change_in_fp16(kind, size):
    model = make_model(kind)
    network = stir(make_network(model, CHOICE), size)
    adapter = only(network)
    wanted = dense(adapter, 4)

    lora = as_lora(adapter.tensors())
    half = {suffix: tensor.half() for suffix, tensor in lora.items()}

    assert float(lora["alpha"]) == 2 * adapter.size.alpha
    assert lora["lora_down.weight"].shape[0] == 8
    for tensors, limit in ((lora, 1e-5), (half, 1e-3)):
        found = read("lora", "x", model.layer, tensors, Setup()).delta().double()
        assert (found - wanted).norm() / wanted.norm() < limit
    if size == 1e-4:
        q, p, values, q0, p0, values0 = (tensor.half().double() for tensor in matrices(adapter))
        naive = ((p * values) @ q - (p0 * values0) @ q0) * adapter.size.scale
        assert (naive.view(wanted.shape) - wanted).norm() / wanted.norm() > 0.3


def test_the_export_of_a_layer_with_few_outputs_keeps_its_rank():
    layer = nn.Linear(20, 3).requires_grad_(False)
    shapes = {Q: (5, 20), P: (3, 5), LAMBDA: (1, 5)}
    adapter = TLora.create("lora_unet_a", layer, shapes, Choice("t-lora", 5, 5.0), Setup())
    with torch.no_grad():
        for parameter in adapter.own_parameters():
            parameter.add_(torch.randn(parameter.shape))

    lora = as_lora(adapter.tensors())

    assert lora["lora_up.weight"].shape == (3, 10)
    torch.testing.assert_close(
        read("lora", "x", layer, lora, Setup()).delta(), adapter.delta(), rtol=1e-4, atol=1e-4
    )


def test_the_export_needs_the_fixed_factors():
    tensors = only(make_network(make_model("linear"), CHOICE)).tensors()
    del tensors["base_p.weight"]

    with pytest.raises(ValueError, match=r"base_p\.weight"):
        as_lora(tensors)


@EVERY
def test_the_penalty_pulls_both_factors_back_to_orthogonal_ones(kind):
    assert make_network(make_model(kind), CHOICE).penalty() is None
    network = make_network(make_model(kind), replace(CHOICE, orthogonality=0.5))
    fresh = network.penalty()
    assert fresh is not None
    assert fresh.detach() < 1e-8

    stir(network)
    found = network.penalty()

    q, p, *_ = matrices(only(network))
    wanted = 0.0
    for gram in (p.t() @ p, q @ q.t()):
        wanted += sum((gram[i, j] - float(i == j)) ** 2 for i in range(4) for j in range(4))
    assert found.item() == pytest.approx(0.5 * float(wanted), rel=1e-4)
    found.backward()
    assert only(network).weight(Q).grad.any()


def test_every_layer_of_a_network_is_masked_by_the_same_timesteps():
    class Transformer2DModel(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.two(self.one(x))

    model = Transformer2DModel().requires_grad_(False)
    network = build({"unet": model}, replace(CHOICE, rank=2, targets="unet-only"), seed=0)
    stir(network)
    network.inject()
    x = torch.randn(1, 8)
    at(network, 999)
    low = model(x)
    for adapter in network.adapters.values():
        with torch.no_grad():
            adapter.weight(LAMBDA)[0, 1] += 5

    assert torch.equal(model(x), low)
