"""A genuine Stable Diffusion 1 model of random weights, small enough for tests.

Same structure and names as the real one: four levels, two layers a block, cross-attention in three
of them, an 8x autoencoder, a CLIP text model with the real vocabulary. Pictures 128 x 128.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

UNET = {
    "sample_size": 16,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (32, 64, 64, 64),
    "layers_per_block": 2,
    "cross_attention_dim": 64,
    "attention_head_dim": 4,
    "norm_num_groups": 8,
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
}
VAE = {
    "sample_size": 128,
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "block_out_channels": (16, 32, 32, 32),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "scaling_factor": 0.18215,
}
TEXT_ENCODER = {
    "vocab_size": 49408,
    "hidden_size": 64,
    "intermediate_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 77,
    "projection_dim": 64,
    "hidden_act": "quick_gelu",
    "bos_token_id": 49406,
    "eos_token_id": 49407,
    "pad_token_id": 49407,
}
MODEL_CONFIG = {
    "unet": {"attention_head_dim": 4, "norm_num_groups": 8, "sample_size": 16},
    "vae": {"norm_num_groups": 4},
    "text_encoder": {"num_attention_heads": 4},
}
"""What shapes cannot tell; stored in the single file's header."""


@dataclass(frozen=True, slots=True)
class TinyModules:
    """The three parts, as their libraries build them."""

    unet: Any
    vae: Any
    text_encoder: Any


def tiny_modules(seed: int = 0, *, in_channels: int = 4) -> TinyModules:
    """The parts with weights drawn from `seed`; the global generator is left as it was."""
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(**{**UNET, "in_channels": in_channels})
        vae = AutoencoderKL(**VAE)
        text_encoder = CLIPTextModel(CLIPTextConfig(**TEXT_ENCODER))
        # The default table is so narrow that all captions would look alike.
        torch.nn.init.normal_(text_encoder.get_input_embeddings().weight, std=0.5)
    return TinyModules(unet.eval(), vae.eval(), text_encoder.eval())


def tiny_state(modules: TinyModules) -> dict[str, Any]:
    """All tensors under the names of the original single-file layout."""
    from engine.models.original_layout import to_original_layout

    state = to_original_layout(
        modules.unet.state_dict(), modules.vae.state_dict(), modules.text_encoder.state_dict()
    )
    return {name: tensor.contiguous() for name, tensor in state.items()}


def write_tiny_sd1(
    path: Path,
    *,
    seed: int = 0,
    prediction: Literal["epsilon", "v"] = "epsilon",
    marker: Literal["tensor", "metadata"] = "tensor",
    dtype: str = "float32",
    metadata: dict[str, str] | None = None,
    in_channels: int = 4,
) -> Path:
    """Write the single-file form. v-prediction is told by a marker tensor or by the metadata."""
    import torch
    from safetensors.torch import save_file

    state = tiny_state(tiny_modules(seed, in_channels=in_channels))
    state = {name: tensor.to(getattr(torch, dtype)) for name, tensor in state.items()}
    header = {"format": "pt", "lyctui.model_config": json.dumps(MODEL_CONFIG), **(metadata or {})}
    if prediction == "v" and marker == "tensor":
        state["v_pred"] = torch.tensor([])
    elif prediction == "v":
        header["modelspec.prediction_type"] = "v"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, path, metadata=header)
    return path


def write_tiny_sd1_folder(
    folder: Path, *, seed: int = 0, prediction: Literal["epsilon", "v"] = "epsilon"
) -> Path:
    """Write the diffusers folder form of the same model, without tokenizer files."""
    from diffusers import DDIMScheduler

    modules = tiny_modules(seed)
    modules.unet.save_pretrained(folder / "unet")
    modules.vae.save_pretrained(folder / "vae")
    modules.text_encoder.save_pretrained(folder / "text_encoder")
    DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        prediction_type={"epsilon": "epsilon", "v": "v_prediction"}[prediction],
    ).save_pretrained(folder / "scheduler")
    index = {
        "_class_name": "StableDiffusionPipeline",
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder
