"""Names of the original Stable Diffusion U-Net (CompVis, Stability's SGM), from diffusers' names. No torch.

Pure functions over dotted names, for any number of levels and layers a block. The original holds
one flat list a side: layers + 1 entries a block, down- and upsamplers counted in.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
BLOCK_PART = re.compile(
    r"(?P<side>down|up)_blocks\.(?P<block>\d+)\."
    r"(?P<part>resnets|attentions|downsamplers|upsamplers)\.(?P<index>\d+)\.(?P<rest>.+)"
)
MIDDLE_PART = re.compile(r"mid_block\.(?P<part>resnets|attentions)\.(?P<index>\d+)\.(?P<rest>.+)")


def original_unet_names(names: Iterable[str]) -> Callable[[str], str]:
    """The renaming for the U-Net that has these names, of its parameters or of all its layers.

    What tells is the number of layers a block, and which upward blocks have attention: their
    upsampler stands third in its entry, that of the others second.
    """
    names = tuple(names)
    found = (re.match(r"down_blocks\.0\.resnets\.(\d+)\.", name) for name in names)
    layers = max((int(match.group(1)) + 1 for match in found if match), default=0)
    up = (re.match(r"up_blocks\.(\d+)\.attentions\.", name) for name in names)
    attended_up = frozenset(int(match.group(1)) for match in up if match)

    def rename(name: str) -> str:
        if middle := MIDDLE_PART.fullmatch(name):
            return _middle_name(middle)
        if block := BLOCK_PART.fullmatch(name):
            return _block_name(block, layers, attended_up)
        return replace_start(name, ENDS)

    return rename


def replace_start(name: str, table: Mapping[str, str]) -> str:
    """`name` with its first module renamed by the table; the table's longest entry wins."""
    for old in sorted(table, key=len, reverse=True):
        if name == old or name.startswith(old + "."):
            return table[old] + name[len(old) :]
    return name


def _middle_name(middle: re.Match[str]) -> str:
    index = int(middle["index"])
    if middle["part"] == "attentions":
        return f"middle_block.{2 * index + 1}.{middle['rest']}"
    return f"middle_block.{2 * index}.{replace_start(middle['rest'], RESNET)}"


def _block_name(block: re.Match[str], layers: int, attended_up: frozenset[int]) -> str:
    side, first = ("input_blocks", 1) if block["side"] == "down" else ("output_blocks", 0)
    number, index, rest = int(block["block"]), int(block["index"]), block["rest"]
    place = first + number * (layers + 1)
    match block["part"]:
        case "resnets":
            return f"{side}.{place + index}.0.{replace_start(rest, RESNET)}"
        case "attentions":
            return f"{side}.{place + index}.1.{rest}"
        case "downsamplers":
            return f"{side}.{place + layers}.0.{replace_start(rest, {'conv': 'op'})}"
        case _:
            slot = 2 if number in attended_up else 1
            return f"{side}.{place + layers}.{slot}.{rest}"
