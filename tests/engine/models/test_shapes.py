"""The table of layers against the real modules, on the meta device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import nn

from engine.models.architecture import Architecture, full_size
from engine.models.detect import inspect_model
from engine.models.shapes import LayerShape, layer_shapes

CONTAINERS = {"ModuleList", "Sequential"}


def real_modules(architecture: Architecture) -> dict[str, nn.Module]:
    """The parts that a network may change, without weights."""
    from accelerate import init_empty_weights
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    second = architecture.text_encoder_2
    with init_empty_weights():
        unet = UNet2DConditionModel.from_config(architecture.unet)
        text_encoder = CLIPTextModel(CLIPTextConfig(**architecture.text_encoder))
        if second is None:
            return {"unet": unet, "te": text_encoder}
        other = CLIPTextModelWithProjection(CLIPTextConfig(**second))
    return {"unet": unet, "te": text_encoder, "te2": other}


def real_shapes(architecture: Architecture) -> list[LayerShape]:
    shapes = []
    for component, root in real_modules(architecture).items():
        modules = dict(root.named_modules())
        for path, module in modules.items():
            if not isinstance(module, nn.Linear | nn.Conv2d | nn.GroupNorm | nn.LayerNorm):
                continue
            norm = isinstance(module, nn.GroupNorm | nn.LayerNorm)
            ends = [index for index, letter in enumerate(path) if letter == "."]
            around = [type(modules[path[:end]]).__name__ for end in ends]
            classes = tuple(x for x in (type(root).__name__, *around) if x not in CONTAINERS)
            out, in_, *kernel = (*module.weight.shape, 1) if norm else module.weight.shape
            bias = module.bias is not None
            shapes.append(
                LayerShape(component, path, out, in_, tuple(kernel), classes, bias, norm)  # type: ignore[arg-type]
            )
    return shapes


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_full_size_equals_the_real_modules(family: str) -> None:
    architecture = full_size(family)
    assert list(layer_shapes(architecture)) == real_shapes(architecture)


def test_tiny_equals_the_real_modules(tiny_file: Path) -> None:
    architecture = inspect_model(tiny_file).architecture
    assert architecture is not None
    assert list(layer_shapes(architecture)) == real_shapes(architecture)


@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize("depths", [2, [1, 2, 3]])
def test_other_depths_and_projections_equal_the_real_modules(
    linear: bool, depths: int | list[int]
) -> None:
    base = full_size("sd1")
    unet = base.unet | {
        "block_out_channels": [32, 64, 96],
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "layers_per_block": 1,
        "transformer_layers_per_block": depths,
        "use_linear_projection": linear,
    }
    architecture = Architecture("sd1", unet, base.vae, base.text_encoder)
    assert list(layer_shapes(architecture)) == real_shapes(architecture)


@pytest.mark.parametrize(
    ("family", "unet", "norms"), [("sd1", 282, 109), ("sd2", 282, 109), ("sdxl", 794, 256)]
)
def test_layers_of_the_published_models(family: str, unet: int, norms: int) -> None:
    """conv_norm_out is one more than the norms that can be trained, SDXL's added embedding two."""
    shapes = [x for x in layer_shapes(full_size(family)) if x.component == "unet"]
    assert sum(shape.kind != "norm" for shape in shapes) == unet
    assert sum(shape.kind == "norm" for shape in shapes) == norms


@pytest.mark.parametrize(
    ("family", "millions"), [("sd1", 859.52), ("sd2", 865.91), ("sdxl", 2567.46)]
)
def test_the_layers_hold_all_parameters_of_the_published_unets(
    family: str, millions: float
) -> None:
    """Every weight and bias of these models is in a layer of the table."""
    shapes = [x for x in layer_shapes(full_size(family)) if x.component == "unet"]
    total = sum(shape.weights + (shape.out if shape.bias else 0) for shape in shapes)
    assert round(total / 1e6, 2) == millions


@pytest.mark.parametrize(
    ("family", "component", "millions"),
    [
        ("sd1", "te", 123.06),
        ("sd2", "te", 340.39),
        ("sdxl", "te", 123.06),
        ("sdxl", "te2", 694.66),
    ],
)
def test_the_layers_and_embeddings_hold_all_parameters_of_the_text_encoders(
    family: str, component: str, millions: float
) -> None:
    architecture = full_size(family)
    config = architecture.text_encoder_2 if component == "te2" else architecture.text_encoder
    assert config is not None
    rows = config["vocab_size"] + config["max_position_embeddings"]
    shapes = [x for x in layer_shapes(architecture) if x.component == component]
    total = sum(shape.weights + (shape.out if shape.bias else 0) for shape in shapes)
    assert round((total + rows * config["hidden_size"]) / 1e6, 2) == millions


def test_kinds_and_weights_of_single_layers() -> None:
    shapes = {(x.component, x.path): x for x in layer_shapes(full_size("sdxl"))}
    block = "down_blocks.2.attentions.1.transformer_blocks.9"

    assert shapes["unet", "conv_in"].kind == "conv"
    assert shapes["unet", "conv_in"].weights == 320 * 4 * 9
    assert shapes["unet", f"{block}.attn2.to_k"].in_ == 2048
    assert not shapes["unet", f"{block}.attn2.to_k"].bias
    assert shapes["unet", f"{block}.norm2"].kind == "norm"
    assert shapes["unet", f"{block}.norm2"].weights == 1280
    assert shapes["te2", "text_projection"].kind == "linear"
    assert shapes["unet", "add_embedding.linear_1"].in_ == 2816


@pytest.mark.parametrize(
    ("family", "counts"),
    [
        # Tensors of the published files, without position numbers, logit_scale, and of SD2 the last
        # layer and the projection, which are not read: v1-5, v2-1_768, sd_xl_base_1.0.
        ("sd1", {"unet": 686, "vae": 248, "text": 196}),
        ("sd2", {"unet": 686, "vae": 248, "text": 292 - 12}),
        ("sdxl", {"unet": 1680, "vae": 248, "text": 196 + 389}),
    ],
)
def test_single_files_of_full_size_convert_onto_the_real_modules(
    family: str, counts: dict[str, int]
) -> None:
    """From header to module without a name that is missing or left over; no numbers are needed."""
    import torch
    from diffusers.loaders.single_file_utils import (
        convert_ldm_unet_checkpoint,
        convert_ldm_vae_checkpoint,
    )

    from engine.models.architecture import from_tensors
    from engine.models.headers import TensorInfo
    from engine.models.parts import build_text_encoder, compare
    from engine.models.recognise import TEXT_PARTS, UNET, VAE, recognise

    architecture = full_size(family)
    state = published_names(architecture)
    told = {name: TensorInfo("F16", tuple(tensor.shape)) for name, tensor in state.items()}
    assert recognise(told).family == family
    found = from_tensors(family, told, {})
    assert list(layer_shapes(found)) == list(layer_shapes(architecture))
    assert (found.vae, found.native_resolution) == (
        architecture.vae,
        architecture.native_resolution,
    )

    texts = {name: tensor for name, tensor in state.items() if not name.startswith((UNET, VAE))}
    assert counts == {
        "unet": sum(name.startswith(UNET) for name in state),
        "vae": sum(name.startswith(VAE) for name in state),
        "text": len(texts),
    }
    reals = real_modules(architecture)
    for expected, converted in (
        (reals["unet"].state_dict(), convert_ldm_unet_checkpoint(dict(state), found.unet)),
        (real_vae(architecture).state_dict(), convert_ldm_vae_checkpoint(dict(state), found.vae)),
    ):
        compare("part", expected, converted, "", squeeze=True)
        assert converted.keys() == expected.keys()
    for part, prefix in TEXT_PARTS[family].items():
        own = {n.removeprefix(prefix): t for n, t in texts.items() if n.startswith(prefix)}
        config = getattr(found, part)
        second = part == "text_encoder_2"
        built = build_text_encoder(own, config, torch.float16, "", projected=second)
        wanted = reals["te2" if second else "te"].state_dict()
        assert {n: t.shape for n, t in built.state_dict().items()} == {
            n: t.shape for n, t in wanted.items()
        }


def real_vae(architecture: Architecture) -> nn.Module:
    from accelerate import init_empty_weights
    from diffusers import AutoencoderKL

    with init_empty_weights():
        vae: nn.Module = AutoencoderKL.from_config(architecture.vae)
    return vae


def published_names(architecture: Architecture) -> dict[str, Any]:
    """The single file of a full-size model, on the meta device."""
    import torch

    from engine.models import original_layout as layout

    parts = {name: module.state_dict() for name, module in real_modules(architecture).items()}
    vae = real_vae(architecture).state_dict()
    match architecture.family:
        case "sd1":
            return layout.to_original_layout(parts["unet"], vae, parts["te"])
        case "sd2":
            return layout.to_sd2_layout(parts["unet"], vae, parts["te"], torch.cat)
        case _:
            return layout.to_sdxl_layout(parts["unet"], vae, parts["te"], parts["te2"], torch.cat)
