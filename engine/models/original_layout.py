"""Names of the original single-file Stable Diffusion 1 layout, from diffusers' names.

Pure functions over state dicts of torch tensors or numpy arrays, for any number of levels and
layers a block; the values are passed on, not copied. diffusers' `from_single_file` is the inverse.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

State = Mapping[str, Any]

UNET_PREFIX = "model.diffusion_model."
VAE_PREFIX = "first_stage_model."
TEXT_ENCODER_PREFIX = "cond_stage_model.transformer.text_model."

UNET_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
UNET_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
VAE_ATTENTION = {
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}
BLOCK_PART = re.compile(
    r"(?P<side>down|up)_blocks\.(?P<block>\d+)\."
    r"(?P<part>resnets|attentions|downsamplers|upsamplers)\.(?P<index>\d+)\.(?P<rest>.+)"
)
MIDDLE_PART = re.compile(r"mid_block\.(?P<part>resnets|attentions)\.(?P<index>\d+)\.(?P<rest>.+)")


def count_of(state: State, pattern: str) -> int:
    """One more than the highest number that the pattern's group finds in the names; 0 for none."""
    found = (re.search(pattern, name) for name in state)
    return max((int(match.group(1)) + 1 for match in found if match), default=0)


def replace_start(name: str, table: Mapping[str, str]) -> str:
    """`name` with its first module renamed by the table; the table's longest entry wins."""
    for old in sorted(table, key=len, reverse=True):
        if name == old or name.startswith(old + "."):
            return table[old] + name[len(old) :]
    return name


def renamed(state: State, rename: Callable[[str], str], prefix: str) -> dict[str, Any]:
    result = {prefix + rename(name): value for name, value in state.items()}
    assert len(result) == len(state), "two names became one"
    return result


def unet_to_original(state: State) -> dict[str, Any]:
    """A U-Net's state under `model.diffusion_model.`."""
    layers = count_of(state, r"^down_blocks\.0\.resnets\.(\d+)\.")
    attended_up = {
        int(match.group(1))
        for match in (re.match(r"up_blocks\.(\d+)\.attentions\.", name) for name in state)
        if match
    }

    def rename(name: str) -> str:
        if middle := MIDDLE_PART.fullmatch(name):
            return middle_name(middle)
        if (block := BLOCK_PART.fullmatch(name)) is None:
            return replace_start(name, UNET_ENDS)
        return unet_block_name(block, layers, attended_up)

    return renamed(state, rename, UNET_PREFIX)


def middle_name(middle: re.Match[str]) -> str:
    index = int(middle["index"])
    if middle["part"] == "attentions":
        return f"middle_block.{2 * index + 1}.{middle['rest']}"
    return f"middle_block.{2 * index}.{replace_start(middle['rest'], UNET_RESNET)}"


def unet_block_name(block: re.Match[str], layers: int, attended_up: set[int]) -> str:
    """Both sides are one list there: layers + 1 entries a block, up and down samplers counted in."""
    down = block["side"] == "down"
    side, first = ("input_blocks", 1) if down else ("output_blocks", 0)
    number, index, rest = int(block["block"]), int(block["index"]), block["rest"]
    place = first + number * (layers + 1)
    match block["part"]:
        case "resnets":
            return f"{side}.{place + index}.0.{replace_start(rest, UNET_RESNET)}"
        case "attentions":
            return f"{side}.{place + index}.1.{rest}"
        case "downsamplers":
            return f"{side}.{place + layers}.0.{replace_start(rest, {'conv': 'op'})}"
        case _:
            slot = 2 if number in attended_up else 1
            return f"{side}.{place + layers}.{slot}.{rest}"


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
