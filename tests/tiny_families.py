"""Genuine Stable Diffusion 2 and XL models of random weights, small enough for tests.

`write_tiny(path, family)` and `write_tiny_folder(folder, family)` serve all three families alike;
Stable Diffusion 1 is that of tests/tiny.py. Pictures 128 x 128 in all of them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tests import tiny

Family = Literal["sd1", "sd2", "sdxl"]
FAMILIES: tuple[Family, ...] = ("sd1", "sd2", "sdxl")
TEXT_ENCODER_2 = tiny.TEXT_ENCODER | {
    "hidden_size": 32,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "projection_dim": 32,
    "hidden_act": "gelu",
    "pad_token_id": 0,
}
UNETS: dict[str, dict[str, Any]] = {
    "sd1": tiny.UNET,
    "sd2": tiny.UNET
    | {
        "attention_head_dim": [2, 4, 4, 4],
        "use_linear_projection": True,
        "cross_attention_dim": 64,
    },
    "sdxl": tiny.UNET
    | {
        "block_out_channels": (32, 64, 64),
        "attention_head_dim": [2, 4, 8],
        "use_linear_projection": True,
        "cross_attention_dim": 96,
        "down_block_types": ("DownBlock2D",) + ("CrossAttnDownBlock2D",) * 2,
        "up_block_types": ("CrossAttnUpBlock2D",) * 2 + ("UpBlock2D",),
        "transformer_layers_per_block": [1, 1, 2],
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 32 + 6 * 8,
    },
}
VAES = {
    "sd1": tiny.VAE,
    "sd2": tiny.VAE,
    "sdxl": tiny.VAE | {"scaling_factor": 0.13025, "force_upcast": True},
}
TEXT_ENCODERS: dict[str, tuple[dict[str, Any], ...]] = {
    "sd1": (tiny.TEXT_ENCODER,),
    "sd2": (tiny.TEXT_ENCODER | {"hidden_act": "gelu", "pad_token_id": 0},),
    "sdxl": (tiny.TEXT_ENCODER, TEXT_ENCODER_2),
}
TEXT_NAMES = ("text_encoder", "text_encoder_2")
PIPELINES = {
    "sd1": "StableDiffusionPipeline",
    "sd2": "StableDiffusionPipeline",
    "sdxl": "StableDiffusionXLPipeline",
}


@dataclass(frozen=True, slots=True)
class FamilyModules:
    """The parts, as their libraries build them."""

    family: Family
    unet: Any
    vae: Any
    text_encoder: Any
    text_encoder_2: Any = None


def model_config(family: Family) -> dict[str, Any]:
    """What shapes cannot tell; stored in the single file's header."""
    told: dict[str, Any] = {
        "unet": {
            name: UNETS[family][name]
            for name in ("attention_head_dim", "norm_num_groups", "sample_size")
        },
        "vae": {"norm_num_groups": 4},
    }
    for name, config in zip(TEXT_NAMES, TEXT_ENCODERS[family], strict=False):
        told[name] = {"num_attention_heads": config["num_attention_heads"]}
    return told


def family_modules(
    family: Family, seed: int = 0, *, in_channels: int = 4, linear: bool | None = None
) -> FamilyModules:
    """The parts with weights drawn from `seed`; the global generator is left as it was.

    `linear` tells whether the U-Net's projections are linear layers or 1 x 1 convolutions.
    """
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    sizes = UNETS[family] | {"in_channels": in_channels}
    if linear is not None:
        sizes["use_linear_projection"] = linear
    classes = (CLIPTextModel, CLIPTextModelWithProjection)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(**sizes)
        vae = AutoencoderKL(**VAES[family])
        encoders = [
            cls(CLIPTextConfig(**config))
            for cls, config in zip(classes, TEXT_ENCODERS[family], strict=False)
        ]
        for encoder in encoders:
            # The default table is so narrow that all captions would look alike.
            torch.nn.init.normal_(encoder.get_input_embeddings().weight, std=0.5)
    modules = [module.eval() for module in (unet, vae, *encoders)]
    return FamilyModules(family, *modules)


def family_state(modules: FamilyModules) -> dict[str, Any]:
    """All tensors under the names of the family's original single-file layout.

    Stable Diffusion 2 has OpenCLIP's last layer too, which nobody reads.
    """
    import torch

    from engine.models import original_layout as layout

    parts = [modules.unet.state_dict(), modules.vae.state_dict(), modules.text_encoder.state_dict()]
    if modules.family == "sd1":
        state = layout.to_original_layout(*parts)
    elif modules.family == "sd2":
        state = layout.to_sd2_layout(*parts, torch.cat) | _unread(modules.text_encoder.config)
    else:
        state = layout.to_sdxl_layout(*parts, modules.text_encoder_2.state_dict(), torch.cat)
    return {name: tensor.contiguous() for name, tensor in state.items()}


def _unread(config: Any) -> dict[str, Any]:
    import torch

    width, inner = config.hidden_size, config.intermediate_size
    shapes = {
        "attn.in_proj_weight": (3 * width, width),
        "attn.in_proj_bias": (3 * width,),
        "attn.out_proj.weight": (width, width),
        "attn.out_proj.bias": (width,),
        "ln_1.weight": (width,),
        "ln_1.bias": (width,),
        "ln_2.weight": (width,),
        "ln_2.bias": (width,),
        "mlp.c_fc.weight": (inner, width),
        "mlp.c_fc.bias": (inner,),
        "mlp.c_proj.weight": (width, inner),
        "mlp.c_proj.bias": (width,),
    }
    start = "cond_stage_model.model."
    last = f"{start}transformer.resblocks.{config.num_hidden_layers}."
    return {
        **{last + name: torch.full(shape, 7.0) for name, shape in shapes.items()},
        start + "text_projection": torch.full((width, width), 7.0),
        start + "logit_scale": torch.tensor(4.6),
    }


def write_tiny(
    path: Path,
    family: Family,
    *,
    seed: int = 0,
    prediction: Literal["epsilon", "v"] = "epsilon",
    marker: Literal["tensor", "metadata"] = "tensor",
    dtype: str = "float32",
    metadata: dict[str, str] | None = None,
    in_channels: int = 4,
    linear: bool | None = None,
) -> Path:
    """Write the single-file form. v-prediction is told by a marker tensor or by the metadata."""
    import torch
    from safetensors.torch import save_file

    state = family_state(family_modules(family, seed, in_channels=in_channels, linear=linear))
    state = {name: tensor.to(getattr(torch, dtype)) for name, tensor in state.items()}
    header = {"format": "pt", "lyctui.model_config": json.dumps(model_config(family))}
    header |= metadata or {}
    if prediction == "v" and marker == "tensor":
        state["v_pred"] = torch.tensor([])
    elif prediction == "v":
        header["modelspec.prediction_type"] = "v"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, path, metadata=header)
    return path


def write_tiny_sd2(path: Path, **options: Any) -> Path:
    """`write_tiny` of Stable Diffusion 2."""
    return write_tiny(path, "sd2", **options)


def write_tiny_sdxl(path: Path, **options: Any) -> Path:
    """`write_tiny` of Stable Diffusion XL."""
    return write_tiny(path, "sdxl", **options)


def write_tiny_folder(
    folder: Path,
    family: Family,
    *,
    seed: int = 0,
    prediction: Literal["epsilon", "v"] | None = "epsilon",
    in_channels: int = 4,
) -> Path:
    """Write the diffusers folder form, without tokenizer files; None leaves the scheduler out."""
    from diffusers import DDIMScheduler

    modules = family_modules(family, seed, in_channels=in_channels)
    names = ("unet", "vae", *TEXT_NAMES[: len(TEXT_ENCODERS[family])])
    for name in names:
        getattr(modules, name).save_pretrained(folder / name)
    if prediction is not None:
        DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            clip_sample=False,
            prediction_type={"epsilon": "epsilon", "v": "v_prediction"}[prediction],
        ).save_pretrained(folder / "scheduler")
    index = {"_class_name": PIPELINES[family]}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder
