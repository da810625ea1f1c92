"""What is special about Diag-OFT and BOFT: turns, their limit, what a file holds, sizes that fit."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load, save
from torch import nn
from torch.utils.checkpoint import checkpoint

from engine.errors import RecipeError
from engine.networks.boft import butterfly_steps, product_of_stages, stage_order
from engine.networks.choice import Choice
from engine.networks.network import build, from_file
from engine.networks.rotation import Turned, cayley, clip, skew, turned_part
from tests.engine.networks.layers import (
    ResnetBlock2D,
    Transformer2DModel,
    make_input,
    make_model,
    make_network,
    stir,
)


def rotation(blocks):
    """R = (I + Q)(I - Q)^-1 of one block, by a general solver."""
    q = blocks - blocks.T
    one = torch.eye(len(q), dtype=q.dtype)
    return torch.linalg.solve((one - q).T, (one + q).T).T


def dense_diag_oft(blocks, weight):
    """R_k^T W_k, row by row."""
    size = blocks.shape[1]
    rows = [
        rotation(block).T @ weight[k * size : (k + 1) * size].flatten(1)
        for k, block in enumerate(blocks)
    ]
    return torch.cat(rows).view(weight.shape)


def dense_boft(blocks, weight):
    """Stages with rows looked up one by one: (c g k) -> (c k g)."""
    stages, _, size, _ = blocks.shape
    rows = weight.flatten(1).clone()
    out = len(rows)
    for stage in range(stages):
        k_size = 2**stage * size // 2
        order = [
            c * 2 * k_size + g * k_size + k
            for c in range(out // (2 * k_size))
            for k in range(k_size)
            for g in range(2)
        ]
        mixed = rows.clone()
        for number, block in enumerate(blocks[stage]):
            own = order[number * size : (number + 1) * size]
            mixed[own] = rotation(block) @ rows[own]
        rows = mixed
    return rows.view(weight.shape)


def one_layer(outputs, *, conv=False):
    torch.manual_seed(0)
    layer = nn.Conv2d(6, outputs, 3, padding=1) if conv else nn.Linear(6, outputs)
    model = ResnetBlock2D(layer) if conv else Transformer2DModel(layer)
    return model.double().requires_grad_(False)


def fp64_adapter(model, choice):
    network = stir(build({"unet": model}, replace(choice, targets="unet-only"), seed=1), 0.2)
    (adapter,) = network.adapters.values()
    return network, adapter.double()


@pytest.mark.parametrize("conv", [False, True])
@pytest.mark.parametrize(
    ("choice", "outputs"),
    [
        (Choice("diag-oft", 4, 1.0), 24),
        (Choice("diag-oft", 64, 1.0), 24),
        (Choice("boft", 2, 1.0), 32),
        (Choice("boft", 6, 1.0), 48),
        (Choice("boft", 6, 1.0), 768),
        (Choice("boft", 24, 1.0), 24),
    ],
)
def test_the_change_is_that_of_the_formula_row_by_row(choice, outputs, conv):
    model = one_layer(outputs, conv=conv)
    _, adapter = fp64_adapter(model, choice)
    dense = dense_diag_oft if choice.algorithm == "diag-oft" else dense_boft
    weight = model.layer.weight

    wanted = dense(adapter.oft_blocks.detach(), weight) - weight

    torch.testing.assert_close(adapter.delta().detach(), wanted, rtol=1e-10, atol=1e-12)
    assert wanted.norm() > 0.1


def test_turns_are_orthogonal_and_not_their_own_transpose():
    _, adapter = fp64_adapter(one_layer(24), Choice("diag-oft", 4, 1.0))
    (turn,) = adapter._own_turns()
    one = torch.eye(4, dtype=turn.dtype)
    whole = (turn + one).detach()

    torch.testing.assert_close(whole @ whole.transpose(1, 2), one.expand_as(whole))
    assert (whole - whole.transpose(1, 2)).norm() > 0.1


@pytest.mark.parametrize("rescaled", [False, True])
@pytest.mark.parametrize("algorithm", ["diag-oft", "boft"])
def test_the_rescale_comes_last_and_strength_is_linear(algorithm, rescaled):
    model = one_layer(24)
    network, adapter = fp64_adapter(model, Choice(algorithm, 6, 1.0, rescaled=rescaled))
    dense = dense_diag_oft if algorithm == "diag-oft" else dense_boft
    weight, x = model.layer.weight, torch.randn(5, 6, dtype=torch.float64)
    turned = dense(adapter.oft_blocks.detach(), weight)
    if rescaled:
        assert adapter.rescale.shape == (24, 1)
        turned = adapter.rescale.detach() * turned

    network.inject()
    for strength in (0.3, 1.0, 1.7):
        network.set_strength(strength)
        wanted = x @ (weight + strength * (turned - weight)).T + model.layer.bias
        torch.testing.assert_close(model(x), wanted)


@pytest.mark.parametrize("places", ["tokens", "images"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("stages", "size", "largest"), [(1, 6, 128), (5, 4, 8), (5, 4, 4)])
def test_the_node_that_saves_its_output_alone_equals_autograd(stages, size, largest, bias, places):
    steps = butterfly_steps(stages, size, largest)
    outputs = 2 ** (stages - 1) * size
    torch.manual_seed(0)
    shape = (7, outputs) if places == "tokens" else (3, outputs, 7)
    y = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    offset = torch.randn(outputs, dtype=torch.float64) if bias else None
    blocks = torch.randn(stages, outputs // size, size, size, dtype=torch.float64) * 0.3
    blocks.requires_grad_()

    def turns():
        ordered = stage_order(cayley(skew(blocks)))
        ends = [0]
        for step in steps:
            ends.append(ends[-1] + step.mixed.bit_length() - 1)
        return tuple(
            product_of_stages(ordered[start:end], step)
            for start, end, step in zip(ends, ends[1:], steps, strict=False)
        )

    probe = torch.randn(shape, dtype=torch.float64)
    own = y if offset is None else y - (offset if places == "tokens" else offset[:, None])
    wanted = y + turned_part(own, turns(), steps)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: saved.append(tensor.shape) or tensor, lambda tensor: tensor
    ):
        found = Turned.apply(y, offset, steps, *(turn.detach() for turn in turns()))
    assert saved.count(shape) == 1
    found = Turned.apply(y, offset, steps, *turns())

    torch.testing.assert_close(found, wanted)
    grads = torch.autograd.grad((found * probe).sum(), [y, blocks])
    expected = torch.autograd.grad((wanted * probe).sum(), [y, blocks])
    torch.testing.assert_close(grads, expected)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("algorithm", ["diag-oft", "boft"])
def test_both_memory_layouts_of_images_give_the_same(algorithm, layout):
    model = one_layer(24, conv=True)
    network, adapter = fp64_adapter(model, Choice(algorithm, 6, 1.0))
    x = torch.randn(2, 6, 5, 4, dtype=torch.float64)
    weight = model.layer.weight + adapter.delta().detach()
    wanted = nn.functional.conv2d(x, weight, model.layer.bias, padding=1)
    model.to(memory_format=layout)
    network.inject()

    out = model(x.to(memory_format=layout).requires_grad_())

    torch.testing.assert_close(out.detach().contiguous(), wanted.detach())
    out.square().sum().backward()
    assert adapter.oft_blocks.grad.any()


def test_frozen_inputs_and_recomputed_segments_train_the_blocks():
    network, adapter = fp64_adapter(one_layer(32), Choice("boft", 2, 1.0))
    x = torch.randn(5, 6, dtype=torch.float64)
    model = Transformer2DModel(adapter.layer)
    network.inject()
    network.train()
    (plain,) = torch.autograd.grad(model(x).square().sum(), [adapter.oft_blocks])
    again = checkpoint(model, x, use_reentrant=False)
    (repeated,) = torch.autograd.grad(again.square().sum(), [adapter.oft_blocks])

    assert plain.any()
    assert torch.equal(plain, repeated)


# The limit -----------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["diag-oft", "boft"])
def test_the_limit_is_the_constraint_times_the_outputs_over_all_blocks(algorithm):
    choice = Choice(algorithm, 18, 1.0, constraint=0.01)
    network = stir(make_network(make_model("linear"), choice))
    (adapter,) = network.adapters.values()
    q = skew(adapter.oft_blocks.detach())
    limit = 0.01 * 36

    assert q.norm() > 2 * limit
    assert float((q * clip(q, adapter.limit())).norm()) == pytest.approx(limit, rel=1e-5)
    assert clip(q * 1e-3, adapter.limit()) == 1.0
    assert clip(torch.zeros_like(q), adapter.limit()) == 1.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [1e-4, 0.3])
@pytest.mark.parametrize("algorithm", ["diag-oft", "boft"])
def test_a_file_holds_the_clipped_blocks_and_saves_to_the_same_bytes(algorithm, size, dtype):
    choice = Choice(algorithm, 18, 1.0, constraint=0.01, rescaled=True)
    model = make_model("linear")
    network = stir(make_network(model, choice), size)
    (adapter,) = network.adapters.values()
    first = save(network.tensors(dtype))

    for with_limit in (choice, None):
        again = from_file({"unet": model}, load(first), {}, choice=with_limit)
        assert save(again.tensors(dtype)) == first
        (other,) = again.adapters.values()
        wanted = adapter.delta()
        tolerance = 1e-5 if dtype == torch.float32 else 2e-2
        assert (other.delta() - wanted).norm() < tolerance * wanted.norm()

    tensors = load(first)
    assert float(tensors["lora_unet_layer.alpha"]) == 0.0
    assert tensors["lora_unet_layer.alpha"].dtype == torch.float32
    assert tensors["lora_unet_layer.rescale"].dtype == torch.float32
    clipped = not torch.equal(tensors["lora_unet_layer.oft_blocks"], adapter.oft_blocks.to(dtype))
    assert clipped == (size == 0.3)


def test_the_training_state_holds_blocks_and_limit_as_they_are_trained():
    choice = Choice("diag-oft", 4, 1.0, constraint=0.01)
    network = stir(make_network(make_model("linear"), choice))
    state = network.training_state()
    (adapter,) = network.adapters.values()
    other = make_network(make_model("linear"), replace(choice, constraint=0.0))

    other.load_training_state(state)

    assert torch.equal(state["lora_unet_layer.oft_blocks"], adapter.oft_blocks.detach())
    assert save(other.tensors()) == save(network.tensors())


def test_blocks_beyond_the_limit_still_learn_their_direction():
    network = stir(make_network(make_model("linear"), Choice("diag-oft", 4, 1.0, constraint=1e-3)))
    network.inject()
    (adapter,) = network.adapters.values()
    adapter.layer(make_input("linear")).square().sum().backward()
    grad = adapter.oft_blocks.grad

    assert grad.any()
    # Along the blocks themselves nothing changes: the norm is at the limit already.
    along = (grad * adapter.oft_blocks).sum().abs()
    assert along < 1e-3 * grad.norm() * adapter.oft_blocks.norm()


# Sizes ---------------------------------------------------------------------------------------


def test_every_layer_without_a_butterfly_is_named_with_the_nearest_size():
    model = nn.ModuleDict(
        {
            "even": Transformer2DModel(nn.Linear(6, 16)),
            "large": Transformer2DModel(nn.Linear(6, 30)),
            "odd": Transformer2DModel(nn.Linear(6, 15)),
        }
    )

    with pytest.raises(RecipeError) as caught:
        build({"unet": model}, Choice("boft", 8, 1.0, "unet-only"), seed=0)

    large, odd = caught.value.problems
    assert large.where == "large.layer"
    assert "30" in (large.remedy or "")
    assert "override" in (large.remedy or "")
    assert odd.where == "odd.layer"
    assert "odd" in (odd.remedy or "")


@pytest.mark.parametrize(
    ("outputs", "valid"),
    [(4, 2), (1024, 2), (768, 6), (3072, 6), (320, 10), (10240, 10), (960, 30), (1920, 30)],
)
def test_the_smallest_size_that_a_layer_takes(outputs, valid):
    from engine.networks.factors import smallest_butterfly

    assert smallest_butterfly(outputs) == valid


@pytest.mark.parametrize(
    "shape", [(5, 4, 4), (6, 4, 3), (9, 4), (2, 12, 3, 3), (2, 2, 18, 18, 1), (1, 2, 18, 18)]
)
def test_blocks_that_do_not_fit_the_layer_are_refused(shape):
    from engine.networks.boft import Boft
    from engine.networks.diag_oft import DiagOft

    kind = DiagOft if len(shape) == 3 else Boft
    with pytest.raises(ValueError, match="oft_blocks"):
        kind.check_blocks(36, shape)


def test_a_fused_butterfly_has_few_steps_that_reach_every_output():
    for outputs, size in ((1280, 10), (320, 10), (10240, 10), (768, 12), (4096, 64)):
        stages = (outputs // size).bit_length()
        steps = butterfly_steps(stages, size)
        mixed = 1
        for step in steps:
            assert step.outer * step.mixed * step.inner * step.width == outputs
            assert step.inner == mixed
            mixed *= step.mixed
        assert mixed * size // 2 == outputs
        assert len(steps) <= 4
