"""Which layers a preset takes: the reference counts at full size, mistakes in words."""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
from torch import nn

from engine.errors import RecipeError
from engine.models.architecture import full_size
from engine.models.shapes import layer_shapes
from engine.networks.choice import Choice, Dropouts
from engine.networks.network import build
from engine.networks.overrides import Override, resolve
from engine.networks.presets import PRESETS, LayerLike, selected
from engine.networks.shapes import planned_tensors
from engine.networks.targets import real_layers, why_skipped
from tests.engine.networks.layers import ResnetBlock2D, Transformer2DModel

COUNTS: dict[str, tuple[tuple[int, int], tuple[int, int], int, int, int]] = {
    # U-Net of SD1 and SD2, of SDXL, each without and with norms; CLIP-L, ViT-H and bigG.
    "full": ((282, 390), (792, 1047), 72, 138, 192),
    "full-lin": ((230, 338), (752, 1007), 72, 138, 192),
    "attn-mlp": ((192, 256), (722, 943), 72, 138, 192),
    "attn-only": ((128, 128), (560, 560), 48, 92, 128),
    "unet-only": ((282, 390), (792, 1047), 0, 0, 0),
    "unet-transformer-only": ((192, 256), (722, 943), 0, 0, 0),
    "unet-convblock-only": ((88, 132), (68, 102), 0, 0, 0),
    "unet-up-blocks": ((108, 144), (372, 486), 0, 0, 0),
    "te-only": ((0, 0), (0, 0), 72, 138, 192),
    "ia3": ((80, 80), (350, 350), 36, 69, 96),
}
FAMILIES = ("sd1", "sd2", "sdxl")


def counts(targets: str, family: str, *, norms: bool) -> dict[str, int]:
    """What the table says of a family, without the parts that have nothing."""
    classic, xl, clip_l, vit_h, big_g = COUNTS[targets]
    wanted = {
        "sd1": {"unet": classic[norms], "te": clip_l},
        "sd2": {"unet": classic[norms], "te": vit_h},
        "sdxl": {"unet": xl[norms], "te": clip_l, "te2": big_g},
    }[family]
    return {component: count for component, count in wanted.items() if count}


@pytest.fixture(scope="module")
def models() -> dict[str, dict[str, nn.Module]]:
    """The real U-Nets and text encoders, without weights."""
    from accelerate import init_empty_weights
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    xl_unet = {
        "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 10),
        "attention_head_dim": (5, 10, 20),
        "cross_attention_dim": 2048,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    }
    clip_l = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12}
    vit_h = {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16}
    big_g = {"hidden_size": 1280, "intermediate_size": 5120, "num_attention_heads": 20}
    with init_empty_weights():
        return {
            "sd1": {
                "unet": UNet2DConditionModel(cross_attention_dim=768),
                "te": CLIPTextModel(CLIPTextConfig(**clip_l)),
            },
            "sd2": {
                "unet": UNet2DConditionModel(
                    cross_attention_dim=1024,
                    attention_head_dim=(5, 10, 20, 20),
                    use_linear_projection=True,
                ),
                "te": CLIPTextModel(CLIPTextConfig(**vit_h, num_hidden_layers=23)),
            },
            "sdxl": {
                "unet": UNet2DConditionModel(**xl_unet),
                "te": CLIPTextModel(CLIPTextConfig(**clip_l)),
                "te2": CLIPTextModelWithProjection(
                    CLIPTextConfig(**big_g, num_hidden_layers=32, projection_dim=1280)
                ),
            },
        }


def told(layers: Iterable[LayerLike]) -> list[tuple[Any, ...]]:
    return [
        (x.component, x.path, x.out, x.in_, x.kernel, x.classes, x.kind, x.bias) for x in layers
    ]


def test_every_preset_has_its_reference_counts():
    assert set(COUNTS) == set(PRESETS)


@pytest.mark.parametrize("norms", [False, True], ids=["plain", "train_norm"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("targets", PRESETS)
def test_reference_counts_on_the_real_modules_and_in_the_plan(models, targets, family, norms):
    choice = Choice("lora", 4, 1.0, targets, train_norm=norms)
    real = [layer for layer, _ in resolve(real_layers(models[family]), choice)]
    planned = [layer for layer, _ in resolve(layer_shapes(full_size(family)), choice)]

    assert Counter(layer.component for layer in real) == counts(targets, family, norms=norms)
    assert told(real) == told(planned)
    assert len({(layer.component, layer.path) for layer in real}) == len(real)


@pytest.mark.parametrize("family", FAMILIES)
def test_all_layers_of_the_real_modules_are_those_of_the_plan(models, family):
    assert told(real_layers(models[family])) == told(layer_shapes(full_size(family)))


@pytest.mark.parametrize("targets", PRESETS)
def test_layers_come_in_the_models_order_and_once_however_often_they_are_given(targets):
    layers = layer_shapes(full_size("sd1"))
    once = selected(layers, targets)

    assert selected((*layers, *layers), targets) == once
    assert list(once) == sorted(once, key=layers.index)


def test_norms_are_taken_only_inside_targeted_blocks():
    choice = Choice("lora", 4, 1.0, "full", train_norm=True)
    norms = [x for x, own in resolve(layer_shapes(full_size("sd1")), choice) if x.kind == "norm"]

    assert {x.component for x in norms} == {"unet"}
    assert "conv_norm_out" not in {x.path for x in norms}
    assert all({"Transformer2DModel", "ResnetBlock2D"} & set(x.classes) for x in norms)


def test_a_name_takes_no_norm_and_a_norm_is_no_hit(tmp_path):
    path = tmp_path / "named.toml"
    path.write_text("[unet]\nnames = ['mid_block.*']", "utf-8")
    layers = [layer for layer in layer_shapes(full_size("sd1")) if layer.component == "unet"]
    choice = Choice("lora", 4, 1.0, str(path), train_norm=True)
    assert {layer.kind for layer, _ in resolve(layers, choice)} == {"linear", "conv"}

    only_norms = Transformer2DModel(nn.LayerNorm(4))
    with pytest.raises(RecipeError, match="attn-mlp finds no layer to train in unet"):
        resolve(real_layers({"unet": only_norms}), Choice("lora", 4, 1.0, train_norm=True))


def test_norms_come_with_their_own_algorithm_and_the_rest_with_the_networks():
    choice = Choice("lora", 4, 1.0, "full", train_norm=True)
    for layer, own in resolve(layer_shapes(full_size("sd1")), choice):
        assert own is choice if layer.kind != "norm" else own.algorithm == "norm"


def test_a_network_of_norms_alone_takes_nothing_else():
    choice = Choice("norm", "full", 1.0, "unet-transformer-only")
    settled = resolve(layer_shapes(full_size("sd1")), choice)

    assert len(settled) == 64
    assert {layer.kind for layer, _ in settled} == {"norm"}
    with pytest.raises(RecipeError, match="no norm to train in the layers of attn-only"):
        resolve(layer_shapes(full_size("sd1")), replace(choice, targets="attn-only"))


def test_convolutions_beyond_one_pixel_are_left_out_with_conv_rank_zero():
    choice = Choice("lora", 4, 1.0, "unet-convblock-only", conv_rank=0)
    settled = resolve(layer_shapes(full_size("sd1")), choice)

    # 22 time projections and 14 shortcuts of one pixel are left of 88.
    assert len(settled) == 36
    assert {layer.kernel for layer, _ in settled} == {(), (1, 1)}


def test_ia3_scales_inputs_of_the_feed_forward_only():
    layers = layer_shapes(full_size("sdxl"))
    on_input = [
        x.path
        for x, own in resolve(layers, Choice("ia3", "full", 1.0, "ia3"))
        if own.train_on_input
    ]

    assert len(on_input) == 70 + 12 + 32
    assert all(path.endswith((".ff.net.2", ".mlp.fc2")) for path in on_input)
    other = resolve(layers, Choice("lora", 4, 1.0, "ia3"))
    assert not any(own.train_on_input for _, own in other)


def test_two_resolutions_do_not_influence_each_other():
    layers = layer_shapes(full_size("sd1"))
    plain = Choice("ia3", "full", 1.0, "full")
    before = resolve(layers, plain)
    changed = replace(plain, targets="ia3", overrides=(Override("Attention", exclude=True),))
    first = resolve(layers, changed)

    assert resolve(layers, plain) == before
    assert resolve(layers, changed) == first
    assert {len(before), len(first)} == {354, 16 + 36}


def test_unknown_presets_are_told_with_the_nearest():
    with pytest.raises(RecipeError, match=r"called 'attn_mlp'\. Did you mean attn-mlp\? Choose"):
        selected(layer_shapes(full_size("sd1")), "attn_mlp")


def test_norms_that_cannot_be_trained_are_named_with_the_reason():
    block = Transformer2DModel(nn.LayerNorm(4, elementwise_affine=False))
    block.without_bias = nn.LayerNorm(4, bias=False)
    block.wide = nn.LayerNorm((4, 4))
    block.groups = nn.GroupNorm(2, 4, affine=False)
    block.good = nn.GroupNorm(2, 4)
    reasons = {layer.path: why_skipped(layer) for layer in real_layers({"unet": block})}

    assert reasons == {
        "layer": "it is a norm without weights",
        "without_bias": "it is a norm without bias",
        "wide": "it is a norm over several axes",
        "groups": "it is a norm without weights",
        "good": None,
    }


MEBIBYTE = 2**20
GUIDE_SIZES = [
    # algorithm, preset, rank, factor, MiB in guide 003
    ("lora", "attn-mlp", 1, -1, 1.7),
    ("lora", "attn-mlp", 8, -1, 9.5),
    ("lora", "attn-only", 32, -1, 18),
    ("lora", "attn-mlp", 32, -1, 37),
    ("lora", "attn-mlp", 64, -1, 73),
    ("loha", "attn-only", 16, -1, 18),
    ("loha", "attn-mlp", 16, -1, 37),
    ("loha", "attn-mlp", 32, -1, 73),
    ("lokr", "attn-mlp", 1, -1, 940 / 1024),
    ("lokr", "attn-mlp", "full", -1, 1.6),
    ("lokr", "attn-mlp", 8, 4, 2.8),
    ("lokr", "attn-mlp", "full", 8, 12),
    ("lokr", "attn-only", "full", 4, 15),
    ("lokr", "attn-mlp", "full", 4, 43),
    ("full", "attn-only", "full", -1, 233),
    ("full", "attn-mlp", "full", -1, 673),
]


@pytest.mark.parametrize(("algorithm", "targets", "rank", "factor", "wanted"), GUIDE_SIZES)
def test_file_sizes_of_sd1_are_those_of_the_guide(algorithm, targets, rank, factor, wanted):
    """The guide's files carry header and metadata too: 0.4 to 1.8 MiB above the tensors."""
    choice = Choice(algorithm, rank, 1.0, targets, factor=factor)
    planned = planned_tensors(layer_shapes(full_size("sd1")), choice)
    tensors = sum(2 * math.prod(shape) for shape in planned.values()) / MEBIBYTE

    assert 0.4 < wanted - tensors < 1.8


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
        "Rank dropout does not apply to 1 module,"
        in build({"unet": block}, choice, seed=0).skipped[0]
    )
    plain = build({"unet": block}, Choice("lokr", 3, 1.0), seed=0)
    assert "The rank no longer limits 1 module, both factors are full: layer" in plain.skipped[0]
    with pytest.raises(RecipeError, match="1 module"):
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
