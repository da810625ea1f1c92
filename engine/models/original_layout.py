"""Names of the original single-file Stable Diffusion layouts, from diffusers' names.

Pure functions over state dicts of torch tensors or numpy arrays, for any number of levels and
layers a block; the values are passed on, not copied, except where OpenCLIP holds three in one.
diffusers' single-file conversions are the inverse.
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
SD2_TEXT_PREFIX = "cond_stage_model.model."
SDXL_TEXT_PREFIX = "conditioner.embedders.0.transformer.text_model."
SDXL_TEXT_2_PREFIX = "conditioner.embedders.1.model."
OPEN_CLIP = {
    "embeddings.position_embedding.weight": "positional_embedding",
    "embeddings.token_embedding": "token_embedding",
    "final_layer_norm": "ln_final",
    "text_projection.weight": "text_projection",
}
OPEN_CLIP_LAYER = {
    "self_attn": "attn",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
}
LAYER = re.compile(r"encoder\.layers\.(?P<index>\d+)\.(?P<rest>.+)")
QUERY = re.compile(r"(?P<place>.+)\.q_proj\.(?P<kind>weight|bias)")

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


def open_clip_to_original(
    state: State, join: Callable[[list[Any]], Any], prefix: str = ""
) -> dict[str, Any]:
    """A CLIP text model's state under OpenCLIP's names; `join` lays queries, keys and values together.

    The projection, where there is one, is stored transposed.
    """
    own = {name.removeprefix("text_model."): value for name, value in state.items()}
    result: dict[str, Any] = {}
    for name, value in own.items():
        if query := QUERY.fullmatch(name):
            three = [own[f"{query['place']}.{x}_proj.{query['kind']}"] for x in "qkv"]
            place = _open_clip_name(query["place"])
            result[f"{prefix}{place}.in_proj_{query['kind']}"] = join(three)
        elif ".k_proj." not in name and ".v_proj." not in name:
            turned = value.T if name == "text_projection.weight" else value
            result[prefix + _open_clip_name(name)] = turned
    return result


def _open_clip_name(name: str) -> str:
    if layer := LAYER.fullmatch(name):
        rest = replace_start(layer["rest"], OPEN_CLIP_LAYER)
        return f"transformer.resblocks.{layer['index']}.{rest}"
    return replace_start(name, OPEN_CLIP)


def to_original_layout(unet: State, vae: State, text_encoder: State) -> dict[str, Any]:
    """The whole single-file state of Stable Diffusion 1."""
    return {
        **unet_to_original(unet),
        **vae_to_original(vae),
        **text_encoder_to_original(text_encoder),
    }


def to_sd2_layout(
    unet: State, vae: State, text_encoder: State, join: Callable[[list[Any]], Any]
) -> dict[str, Any]:
    """The whole single-file state of Stable Diffusion 2; its text encoder lacks the unread last layer."""
    return {
        **unet_to_original(unet),
        **vae_to_original(vae),
        **open_clip_to_original(text_encoder, join, SD2_TEXT_PREFIX),
    }


def to_sdxl_layout(
    unet: State,
    vae: State,
    text_encoder: State,
    text_encoder_2: State,
    join: Callable[[list[Any]], Any],
) -> dict[str, Any]:
    """The whole single-file state of Stable Diffusion XL."""
    first = renamed(text_encoder, lambda name: name.removeprefix("text_model."), SDXL_TEXT_PREFIX)
    return {
        **unet_to_original(unet),
        **vae_to_original(vae),
        **first,
        **open_clip_to_original(text_encoder_2, join, SDXL_TEXT_2_PREFIX),
    }
