"""Names of the original single-file Stable Diffusion 1 layout, from diffusers' names.

Pure functions over state dicts of torch tensors or numpy arrays, for any number of levels and
layers a block; the values are passed on, not copied. diffusers' `from_single_file` is the inverse.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from engine.unet_names import BLOCK_PART, MIDDLE_PART, original_unet_names, replace_start

State = Mapping[str, Any]

UNET_PREFIX = "model.diffusion_model."
VAE_PREFIX = "first_stage_model."
TEXT_ENCODER_PREFIX = "cond_stage_model.transformer.text_model."

VAE_ATTENTION = {
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}


def count_of(state: State, pattern: str) -> int:
    """One more than the highest number that the pattern's group finds in the names; 0 for none."""
    found = (re.search(pattern, name) for name in state)
    return max((int(match.group(1)) + 1 for match in found if match), default=0)


def renamed(state: State, rename: Callable[[str], str], prefix: str) -> dict[str, Any]:
    result = {prefix + rename(name): value for name, value in state.items()}
    assert len(result) == len(state), "two names became one"
    return result


def unet_to_original(state: State) -> dict[str, Any]:
    """A U-Net's state under `model.diffusion_model.`."""
    return renamed(state, original_unet_names(state), UNET_PREFIX)


def vae_to_original(state: State) -> dict[str, Any]:
    """An autoencoder's state under `first_stage_model.`; its attention becomes 1x1 convolutions."""
    levels = count_of(state, r"^decoder\.up_blocks\.(\d+)\.")

    def rename(name: str) -> str:
        coder, _, rest = name.partition(".")
        return f"{coder}.{vae_part_name(rest, levels)}" if coder in ("encoder", "decoder") else name

    attention = re.compile(r"mid_block\.attentions\.\d+\.to_.+\.weight")
    widened = {
        name: value.reshape(*value.shape, 1, 1)
        if attention.search(name) and value.ndim == 2
        else value
        for name, value in state.items()
    }
    return renamed(widened, rename, VAE_PREFIX)


def vae_part_name(name: str, levels: int) -> str:
    if middle := MIDDLE_PART.fullmatch(name):
        number = int(middle["index"]) + 1
        if middle["part"] == "attentions":
            return f"mid.attn_{number}.{replace_start(middle['rest'], VAE_ATTENTION)}"
        return f"mid.block_{number}.{vae_resnet_name(middle['rest'])}"
    if (block := BLOCK_PART.fullmatch(name)) is None:
        return replace_start(name, {"conv_norm_out": "norm_out"})
    number = int(block["block"])
    # The original decoder numbers its levels from the picture's side.
    level = number if block["side"] == "down" else levels - 1 - number
    place = f"{block['side']}.{level}"
    match block["part"]:
        case "downsamplers":
            return f"{place}.downsample.{block['rest']}"
        case "upsamplers":
            return f"{place}.upsample.{block['rest']}"
        case _:
            return f"{place}.block.{block['index']}.{vae_resnet_name(block['rest'])}"


def vae_resnet_name(name: str) -> str:
    return replace_start(name, {"conv_shortcut": "nin_shortcut"})


def text_encoder_to_original(state: State) -> dict[str, Any]:
    """A CLIP text model's state, with or without its `text_model.` level (transformers 5.6)."""
    return renamed(state, lambda name: name.removeprefix("text_model."), TEXT_ENCODER_PREFIX)


def to_original_layout(unet: State, vae: State, text_encoder: State) -> dict[str, Any]:
    """The whole single-file state of Stable Diffusion 1."""
    return {
        **unet_to_original(unet),
        **vae_to_original(vae),
        **text_encoder_to_original(text_encoder),
    }
