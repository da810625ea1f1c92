"""DyLoRA: the drawn rank, what learns, and files of any of its ranks."""

from __future__ import annotations

import inspect
from collections import Counter
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from engine.errors import NetworkFileError, RecipeError
from engine.networks.choice import Choice
from engine.networks.dropout import Moment
from engine.networks.dylora import Dylora, drawn_blocks, truncated
from engine.networks.lora import DOWN, UP, Lora
from engine.networks.network import build, from_file
from engine.networks.shapes import block_problem, planned_tensors
from engine.networks.targets import real_layers
from tests.engine.networks.layers import (
    KINDS,
    Transformer2DModel,
    make_input,
    make_model,
    make_network,
    stir,
    with_dropouts,
)

EVERY = pytest.mark.parametrize("kind", KINDS)
DYLORA = Choice("dylora", 6, 3.0, block_size=2)


def only(network):
    (adapter,) = network.adapters.values()
    return adapter


def cut_chain(layer, x, up, down, rank, scale):
    """scale * up[:, :r] down[:r] x, by slices."""
    up, down = up[:, :rank], down[:rank]
    if isinstance(layer, nn.Linear):
        return scale * F.linear(F.linear(x, down), up)
    hidden = F.conv2d(x, down, None, layer.stride, layer.padding, layer.dilation)
    return scale * F.conv2d(hidden, up)


@pytest.mark.parametrize("rs", [False, True])
@EVERY
def test_training_is_the_slice_of_the_drawn_rank_at_its_own_scale(kind, rs):
    model, x = make_model(kind, torch.float64), make_input(kind, torch.float64)
    base = model(x)
    network = stir(make_network(model, replace(DYLORA, rs_lora=rs)))
    adapter = only(network).double()
    network.inject()
    network.train()
    seen = set()
    for step in range(1, 12):
        network.begin(step=step)
        rank = adapter.drawn_rank()
        seen.add(rank)
        scale = 3.0 / (rank**0.5 if rs else rank)
        wanted = cut_chain(model.layer, x, adapter.weight(UP), adapter.weight(DOWN), rank, scale)
        torch.testing.assert_close(model(x) - base, wanted, rtol=1e-6, atol=1e-9)
    assert seen == {2, 4, 6}


@EVERY
def test_outside_training_all_ranks_are_used_and_nothing_is_drawn(kind):
    model, x = make_model(kind), make_input(kind)
    base = model(x)
    network = stir(make_network(model, DYLORA))
    adapter = only(network)
    network.inject()
    network.eval()
    wanted = cut_chain(model.layer, x, adapter.weight(UP), adapter.weight(DOWN), 6, 3.0 / 6)
    for step in range(1, 6):
        network.begin(step=step)
        torch.testing.assert_close(model(x) - base, wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("detach", [True, False])
@EVERY
def test_only_the_last_drawn_block_learns_unless_all_may(kind, detach):
    model, x = make_model(kind, torch.float64), make_input(kind, torch.float64)
    network = stir(make_network(model, replace(DYLORA, detach_lower=detach)))
    adapter = only(network).double()
    network.inject()
    network.train()
    seen = set()
    for step in range(1, 12):
        network.begin(step=step)
        rank = adapter.drawn_rank()
        seen.add(rank)
        up, down = adapter.weight(UP), adapter.weight(DOWN)
        grads = torch.autograd.grad(model(x).square().sum(), [up, down])

        plain = [tensor.detach().clone().requires_grad_() for tensor in (up, down)]
        still = make_model(kind, torch.float64)
        out = still(x) + cut_chain(still.layer, x, *plain, rank, 3.0 / rank)
        wanted = torch.autograd.grad(out.square().sum(), plain)
        first = rank - 2 if detach else 0
        for found, other, axis in zip(grads, wanted, (1, 0), strict=True):
            learns = torch.zeros(6, dtype=torch.float64)
            learns[first:rank] = 1
            shape = [1] * found.dim()
            shape[axis] = 6
            torch.testing.assert_close(found, other * learns.view(shape), rtol=1e-6, atol=1e-9)
            per_rank = found.transpose(0, axis).flatten(1).abs().sum(1)
            assert (per_rank > 0).tolist() == learns.bool().tolist()
    assert seen == {2, 4, 6}


def test_draws_are_even_and_depend_on_seed_step_and_planned_batch_alone():
    counted = Counter(drawn_blocks(Moment(seed=1, step=step), 4) for step in range(4000))
    assert set(counted) == {1, 2, 3, 4}
    assert all(900 < count < 1100 for count in counted.values())

    def row(**values):
        return [drawn_blocks(Moment(**{"seed": 1, "step": step} | values), 8) for step in range(40)]

    assert row() == row(first_sample=3, samples=5, timesteps_B=torch.ones(2))
    assert row() != row(seed=2)
    assert row() != row(batch=1)
    assert {drawn_blocks(Moment(step=step), 1) for step in range(9)} == {1}


def test_the_whole_network_draws_one_rank_and_other_ranks_the_same_share():
    block = Transformer2DModel(nn.Linear(8, 8))
    block.other = nn.Linear(8, 12)
    block.conv = nn.Conv2d(8, 8, 3)
    choice = Choice("dylora", 8, 1.0, "unet-transformer-only", block_size=2)
    network = build({"unet": block}, choice, seed=4)
    one, other = network.adapters.values()
    small = build({"unet": block}, replace(choice, rank=4, alpha=1.0), seed=4)
    half = next(iter(small.adapters.values()))
    for step in range(1, 20):
        network.begin(step=step)
        small.begin(step=step)
        assert one.drawn_rank() == other.drawn_rank()
        assert half.drawn_rank() == -(-one.drawn_rank() // 4) * 2


@EVERY
def test_parts_of_a_planned_batch_keep_its_rank(kind):
    model, x = make_model(kind), make_input(kind, rows=4)
    network = stir(make_network(model, with_dropouts(DYLORA, activation=0.3)))
    network.inject()
    network.train()
    ranks = set()
    for batch in range(6):
        network.begin(step=7, batch=batch, first_sample=4 * batch, samples=4)
        ranks.add(only(network).drawn_rank())
        whole = model(x)
        parts = []
        for first, last in ((0, 1), (1, 4)):
            start = 4 * batch + first
            network.begin(step=7, batch=batch, first_sample=start, samples=last - first)
            parts.append(model(x[first:last]))
        torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-4, atol=1e-5)
    assert len(ranks) > 1


@EVERY
def test_shapes_do_not_depend_on_the_draw(kind):
    network = stir(make_network(make_model(kind), DYLORA))
    adapter = only(network)
    network.train()
    shapes = set()
    for step in range(1, 12):
        network.begin(step=step)
        shapes.add(tuple(factor.shape for factor in adapter._factors(1.0, torch.float32)))
    assert len(shapes) == 1
    assert ".item()" not in inspect.getsource(Dylora)


@pytest.mark.parametrize("rs", [False, True])
@pytest.mark.parametrize("rank", [2, 4, 6])
@EVERY
def test_a_file_cut_to_fewer_ranks_is_what_was_trained_at_that_rank(kind, rank, rs):
    model, x = make_model(kind), make_input(kind)
    base = model(x)
    network = stir(make_network(model, replace(DYLORA, rs_lora=rs)))
    adapter = only(network)
    network.inject()
    network.train()
    step = next(
        step for step in range(99) if network.begin(step=step) or adapter.drawn_rank() == rank
    )
    network.begin(step=step)
    trained = model(x) - base
    network.eject()

    small = truncated(adapter.tensors(), rank, rs_lora=rs)
    named = {f"{adapter.name}.{suffix}": tensor for suffix, tensor in small.items()}
    again = from_file({"unet": model}, named, {})
    again.inject()

    assert only(again).size.rank == rank
    assert small["alpha"].dtype == torch.float32
    if not rs:
        assert float(small["alpha"]) == 3.0
    torch.testing.assert_close(model(x) - base, trained, rtol=1e-3, atol=1e-4)


def test_a_file_can_be_cut_to_ranks_that_it_has():
    tensors = only(make_network(make_model("linear"), DYLORA)).tensors()
    for rank in (0, 7):
        with pytest.raises(ValueError, match="between 1 and 6"):
            truncated(tensors, rank)


@EVERY
def test_its_file_is_a_loras_and_goes_on_as_a_dylora_where_that_is_chosen(kind):
    model = make_model(kind)
    network = stir(make_network(model, replace(DYLORA, detach_lower=False)))
    tensors = network.tensors()
    plain = make_network(make_model(kind), Choice("lora", 6, 3.0))
    assert {name: tensor.shape for name, tensor in tensors.items()} == {
        name: tensor.shape for name, tensor in plain.tensors().items()
    }

    assert type(only(from_file({"unet": model}, tensors, {}))) is Lora
    other = from_file({"unet": model}, tensors, {}, choice=replace(DYLORA, detach_lower=False))
    again = only(other)
    assert type(again) is Dylora
    assert (again.block_size, again.detach_lower) == (2, False)
    assert other.tensors().keys() == tensors.keys()
    assert all(torch.equal(other.tensors()[name], tensors[name]) for name in tensors)


def test_a_file_whose_ranks_are_no_whole_blocks_is_refused():
    model = make_model("linear")
    tensors = make_network(model, DYLORA).tensors()
    with pytest.raises(NetworkFileError, match="blocks of 4 do not make up the rank 6"):
        from_file({"unet": model}, tensors, {}, choice=replace(DYLORA, block_size=4))

    conv = make_model("conv3x3")
    tucker = make_network(conv, Choice("locon", 4, 2.0, tucker=True)).tensors()
    with pytest.raises(NetworkFileError, match="no tucker"):
        from_file({"unet": conv}, tucker, {}, choice=DYLORA)


def test_sizes_that_are_no_whole_blocks_are_told_with_the_nearest_that_are():
    problem = block_problem(30, 4, "network.rank")
    assert problem is not None
    assert problem.path == "network.block_size"
    assert str(problem) == (
        "Blocks of 4 do not make up the rank 30. "
        "Set network.block_size to 3 or 5, or network.rank to 28 or 32."
    )
    larger = block_problem(4, 8, "network.conv_rank")
    assert larger is not None
    assert larger.remedy == "Set network.block_size to 4, or network.conv_rank to 8."
    assert block_problem(32, 4, "network.rank") is None


def test_the_plan_and_the_network_refuse_such_sizes_and_only_where_they_are_used():
    model = Transformer2DModel(nn.Linear(8, 8))
    model.again = nn.Linear(8, 8)
    model.conv = nn.Conv2d(8, 8, 3)
    layers = real_layers({"unet": model})
    wrong = Choice("dylora", 6, 1.0, "unet-transformer-only", block_size=4)

    with pytest.raises(RecipeError) as caught:
        planned_tensors(layers, wrong)
    assert [problem.path for problem in caught.value.problems] == ["network.block_size"]
    with pytest.raises(RecipeError, match="Blocks of 4 do not make up the rank 6"):
        build({"unet": model}, wrong, seed=0)
    unused = replace(wrong, rank=8, conv_rank=6)
    assert planned_tensors(layers, unused)


def test_lora_plus_reaches_the_up_factors():
    adapter = only(make_network(make_model("linear"), DYLORA))
    assert adapter.plus_parameters() == (adapter.weight(UP),)
