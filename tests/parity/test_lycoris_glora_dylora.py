"""GLoRA and DyLoRA beside lycoris-lora 4.1.3: the same numbers where it is right, and where it is not."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch

from engine.networks.choice import Choice
from engine.networks.network import from_file
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
pytestmark = pytest.mark.filterwarnings("ignore:.*:UserWarning:lycoris")


def theirs(kind_of: Any, model: Any, choice: Choice, **more: Any) -> Any:
    """Their module on the same layer, away from its start."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = kind_of(
            "x",
            model.layer,
            lora_dim=choice.rank,
            alpha=choice.alpha,
            use_scalar=choice.scalar,
            rs_lora=choice.rs_lora,
            **{"bypass_mode": False} | more,
        )
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return module


def loaded(model: Any, module: Any) -> Any:
    """Our adapter of their file."""
    saved = module.custom_state_dict()
    named = {f"lora_unet_layer.{suffix}": torch.as_tensor(saved[suffix]) for suffix in saved}
    (adapter,) = from_file({"unet": model}, named, {}).adapters.values()
    return adapter


GLORA = ["glora", "glora scalar"]


@torch.no_grad()
@EVERY
@pytest.mark.parametrize("form", GLORA)
def test_a_glora_of_theirs_is_the_same_change_here(lycoris, form, kind):
    model = make_model(kind)
    module = theirs(lycoris.GLoRAModule, model, CHOICES[form])
    ours = make_network(model, CHOICES[form]).tensors()
    saved = module.custom_state_dict()

    wanted = module.get_diff_weight()[0]
    torch.testing.assert_close(loaded(model, module).delta(), wanted, rtol=1e-4, atol=1e-5)
    assert {name.partition(".")[2]: tuple(tensor.shape) for name, tensor in ours.items()} == {
        suffix: tuple(tensor.shape) for suffix, tensor in saved.items()
    }
    assert float(ours["lora_unet_layer.alpha"]) == float(saved["alpha"])


@torch.no_grad()
@EVERY
@pytest.mark.parametrize("form", [*GLORA, "glora rs", "glora conv rank scalar rs"])
def test_a_glora_of_ours_is_the_same_output_there(lycoris, form, kind):
    model, x = make_model(kind), make_input(kind)
    base = model(x)
    network = stir(make_network(model, CHOICES[form]))
    network.inject()
    wanted = model(x) - base
    network.eject()
    group = {name.partition(".")[2]: tensor for name, tensor in network.tensors().items()}
    parts = [group.get(suffix) for suffix in lycoris.GLoRAModule.weight_list]

    module = lycoris.GLoRAModule.make_module_from_state_dict("x", model.layer, *parts)
    module.apply_to()
    found = model(x) - base
    module.restore()
    torch.testing.assert_close(found, wanted, rtol=2e-3, atol=2e-4)


@torch.no_grad()
@EVERY
def test_their_rs_glora_loses_the_root_of_the_rank_in_its_file(lycoris, kind):
    choice = CHOICES["glora rs"]
    model = make_model(kind)
    module = theirs(lycoris.GLoRAModule, model, choice)
    trained = module.get_diff_weight()[0]

    torch.testing.assert_close(loaded(model, module).delta() * 2, trained, rtol=1e-4, atol=1e-5)
    ours = make_network(model, choice)
    (adapter,) = ours.adapters.values()
    assert adapter.scale() == choice.alpha / 2
    assert float(ours.tensors()["lora_unet_layer.alpha"]) / 4 == adapter.scale()


@torch.no_grad()
@pytest.mark.parametrize("kind", ["linear", "conv1x1"])
def test_their_rank_dropout_of_a_glora_keeps_what_it_should_drop(lycoris, kind):
    model, x = make_model(kind), make_input(kind)
    more = {"rank_dropout": 1e-9, "bypass_mode": True}
    module = theirs(lycoris.GLoRAModule, model, CHOICES["glora"], **more)
    module.train()
    found = module.bypass_forward_diff(x)

    # Nothing is left but the base's bias, which their change adds a second time.
    bias = model.layer.bias.view([-1] if kind == "linear" else [1, -1, 1, 1])
    torch.testing.assert_close(found, bias.expand_as(found), rtol=1e-4, atol=1e-5)
    ours = stir(make_network(model, with_dropouts(CHOICES["glora"], rank=1e-9)))
    (adapter,) = ours.adapters.values()
    ours.begin(step=1, samples=3)
    kept = adapter.change(x, 1.0)
    ours.eval()
    torch.testing.assert_close(kept, adapter.change(x, 1.0))


DYLORA = Choice("dylora", 8, 4.0, block_size=2)


def their_dylora(lycoris: Any, model: Any) -> Any:
    return theirs(lycoris.dylora.DyLoraModule, model, DYLORA, block_size=DYLORA.block_size)


@torch.no_grad()
@EVERY
def test_their_dylora_file_is_as_many_times_too_weak_as_a_block_has_ranks(lycoris, kind):
    model = make_model(kind)
    module = their_dylora(lycoris, model)
    trained = module.get_diff_weight(rank=DYLORA.rank - DYLORA.block_size)[0]
    saved = module.custom_state_dict()

    found = loaded(model, module).delta()
    torch.testing.assert_close(found * DYLORA.block_size, trained, rtol=1e-4, atol=1e-5)
    assert saved["lora_up.weight"].dim() == 2  # of convolutions too
    assert theirs(lycoris.dylora.DyLoraModule, model, replace(DYLORA, alpha=4)).alpha.dtype == (
        torch.int64
    )


@torch.no_grad()
@EVERY
def test_the_scale_of_ours_is_that_of_its_file_at_full_rank(lycoris, kind):
    model, x = make_model(kind), make_input(kind)
    base = model(x)
    network = stir(make_network(model, DYLORA))
    (adapter,) = network.adapters.values()
    network.inject()
    step = next(step for step in range(99) if network.begin(step=step) or adapter.drawn_rank() == 8)
    network.begin(step=step)
    trained = model(x) - base
    network.eject()
    group = {name.partition(".")[2]: tensor for name, tensor in network.tensors().items()}
    parts = [group.get(suffix) for suffix in lycoris.LoConModule.weight_list]

    module = lycoris.LoConModule.make_module_from_state_dict("x", model.layer, *parts)
    module.apply_to()
    found = model(x) - base
    module.restore()
    torch.testing.assert_close(found, trained, rtol=2e-3, atol=2e-4)
    assert group["alpha"].dtype == torch.float32
    if kind != "linear":
        assert group["lora_up.weight"].dim() == 4


@torch.no_grad()
def test_their_dylora_draws_outside_training_and_loads_nothing(lycoris):
    model, x = make_model("linear"), make_input("linear")
    module = their_dylora(lycoris, model).eval()
    outputs = [module(x) for _ in range(24)]
    assert any(not torch.equal(outputs[0], output) for output in outputs)
    other = theirs(lycoris.dylora.DyLoraModule, model, DYLORA, block_size=2)
    before = other.up_list[0].clone()
    other.load_state_dict(
        {"lora_up.weight": torch.zeros(36, 8), "lora_down.weight": torch.zeros(8, 24)}
    )
    assert torch.equal(other.up_list[0], before)

    network = stir(make_network(model, DYLORA))
    network.inject()
    network.eval()
    ours = []
    for seed in range(24):
        network.begin(step=seed)
        ours.append(model(x))
    assert all(torch.equal(ours[0], output) for output in ours)
