"""Which layers a preset takes: the reference counts at full size, mistakes in words."""

from typing import Any

import pytest
import torch
from torch import nn

from engine.errors import RecipeError
from engine.networks.choice import Choice, Dropouts
from engine.networks.network import build
from engine.networks.presets import PRESETS, selected
from engine.networks.targets import real_layers
from tests.engine.networks.layers import ResnetBlock2D, Transformer2DModel

COUNTS = {
    "full": (282, 72),
    "full-lin": (230, 72),
    "attn-mlp": (192, 72),
    "attn-only": (128, 48),
    "unet-only": (282, 0),
    "unet-transformer-only": (192, 0),
    "unet-convblock-only": (88, 0),
    "te-only": (0, 72),
}


@pytest.fixture(scope="module")
def sd1() -> dict[str, Any]:
    """The real U-Net and CLIP-L of Stable Diffusion 1, without weights."""
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(cross_attention_dim=768)
        clip = CLIPTextModel(
            CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_attention_heads=12)
        )
    return {"unet": unet, "te": clip}


@pytest.mark.parametrize("targets", PRESETS)
def test_counts_of_sd1_are_the_reference_counts(sd1, targets):
    chosen = selected(real_layers(sd1), targets)
    names = [(layer.component, layer.path) for layer in chosen]
    counted = tuple(sum(name == part for name, _ in names) for part in ("unet", "te"))

    assert counted == COUNTS[targets]
    assert len(set(names)) == len(names)


def test_the_plan_of_the_models_chooses_the_same_layers(sd1):
    from engine.models.architecture import full_size
    from engine.models.shapes import layer_shapes

    planned = layer_shapes(full_size("sd1"))
    for targets in PRESETS:
        real = {(x.component, x.path) for x in selected(real_layers(sd1), targets)}
        assert {(x.component, x.path) for x in selected(planned, targets)} == real


def test_a_preset_that_finds_nothing_is_an_error():
    class Strange(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

    with pytest.raises(RecipeError, match="attn-mlp finds no layer to train in unet"):
        build({"unet": Strange()}, Choice("lora", 4, 1.0), seed=0)
    with pytest.raises(RecipeError, match="no choice of layers called 'everything'"):
        build({"unet": Strange()}, Choice("lora", 4, 1.0, "everything"), seed=0)


def test_one_component_without_a_hit_is_an_error_too():
    # A rename in a library once made trainers leave out the text encoder without a word.
    good = Transformer2DModel(nn.Linear(4, 4))
    with pytest.raises(RecipeError, match="in te"):
        build({"unet": good, "te": nn.Sequential(nn.Linear(4, 4))}, Choice("lora", 2, 1.0), seed=0)


def test_layers_that_cannot_be_adapted_are_named():
    block = ResnetBlock2D(nn.Conv2d(4, 4, 3, groups=2))
    block.other = nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular")
    block.good = nn.Conv2d(4, 4, 3)
    network = build({"unet": block}, Choice("lora", 2, 1.0, "unet-only"), seed=0)

    assert list(network.adapters) == ["lora_unet_good"]
    assert "layer is left out: it is a grouped convolution" in network.skipped
    assert "other is left out: it pads with circular" in network.skipped


def test_options_that_fit_no_module_are_refused_together_with_their_settings():
    block = Transformer2DModel(nn.Linear(8, 8))
    choice = Choice("lokr", "full", 1.0, rs_lora=True, dropouts=Dropouts(rank=0.2))
    with pytest.raises(RecipeError) as caught:
        build({"unet": block}, choice, seed=0)

    assert [one.path for one in caught.value.problems] == [
        "network.rs_lora",
        "network.rank_dropout",
    ]
    assert "layer" in caught.value.problems[0].where


def test_options_that_fit_some_modules_are_noted_by_name():
    block = Transformer2DModel(nn.Linear(8, 8))
    block.large = nn.Linear(64, 64)
    choice = Choice("lokr", 3, 1.0, dropouts=Dropouts(rank=0.2))

    assert (
        "rank_dropout does not apply to 1 modules"
        in build({"unet": block}, choice, seed=0).skipped[0]
    )
    plain = build({"unet": block}, Choice("lokr", 3, 1.0), seed=0)
    assert "the rank no longer limits 1 modules, both factors are full: layer" in plain.skipped[0]
    with pytest.raises(RecipeError, match="1 modules"):
        build({"unet": block}, Choice("lokr", 3, 1.0, rs_lora=True), seed=0)


def test_parameters_come_in_a_stable_order_by_component():
    network = build(
        {
            "unet": Transformer2DModel(nn.Linear(4, 6)),
            "te": type("CLIPMLP", (Transformer2DModel,), {})(nn.Linear(8, 8)),
        },
        Choice("lora", 2, 1.0, scalar=True),
        seed=0,
    )

    assert [tuple(p.shape) for p in network.parameters("unet")] == [(6, 2), (2, 4), ()]
    assert [tuple(p.shape) for p in network.parameters("te")] == [(8, 2), (2, 8), ()]
    assert len(list(network.parameters())) == 6
