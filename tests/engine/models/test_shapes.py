"""The table of layers against the real modules, on the meta device."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from engine.models.architecture import Architecture, full_size
from engine.models.detect import inspect_model
from engine.models.shapes import LayerShape, layer_shapes

CLASSES = {
    "Transformer2DModel",
    "ResnetBlock2D",
    "Downsample2D",
    "Upsample2D",
    "Attention",
    "CLIPAttention",
    "CLIPMLP",
}


def real_modules(architecture: Architecture) -> dict[str, nn.Module]:
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(architecture.unet)
        text_encoder = CLIPTextModel(CLIPTextConfig(**architecture.text_encoder))
    return {"unet": unet, "te": text_encoder}


def real_shapes(architecture: Architecture) -> list[LayerShape]:
    shapes = []
    for component, root in real_modules(architecture).items():
        modules = dict(root.named_modules())
        for path, module in modules.items():
            if not isinstance(module, nn.Linear | nn.Conv2d):
                continue
            ends = [index for index, letter in enumerate(path) if letter == "."]
            around = [type(modules[path[:end]]).__name__ for end in ends]
            out, in_, *kernel = module.weight.shape
            classes = tuple(name for name in around if name in CLASSES)
            shapes.append(LayerShape(component, path, out, in_, tuple(kernel), classes))
    return shapes


def test_full_size_equals_the_real_modules() -> None:
    architecture = full_size("sd1")
    assert list(layer_shapes(architecture)) == real_shapes(architecture)


def test_tiny_equals_the_real_modules(tiny_file: Path) -> None:
    architecture = inspect_model(tiny_file).architecture
    assert architecture is not None
    assert list(layer_shapes(architecture)) == real_shapes(architecture)


@pytest.mark.parametrize("linear", [True, False])
def test_other_depths_and_projections_equal_the_real_modules(linear: bool) -> None:
    base = full_size("sd1")
    unet = base.unet | {
        "block_out_channels": [32, 64, 96],
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "layers_per_block": 1,
        "use_linear_projection": linear,
    }
    architecture = Architecture("sd1", unet, base.vae, base.text_encoder)
    assert list(layer_shapes(architecture)) == real_shapes(architecture)


def test_counts_of_the_usual_targets() -> None:
    """The counts that other trainers report for SD1: 192 in transformers, 282 in all, 72 in CLIP-L."""
    shapes = layer_shapes(full_size("sd1"))
    unet = [shape for shape in shapes if shape.component == "unet"]
    assert len(unet) == 282
    assert sum("Transformer2DModel" in shape.classes for shape in unet) == 192
    assert sum("Attention" in shape.classes for shape in unet) == 128
    assert sum(shape.component == "te" for shape in shapes) == 72
