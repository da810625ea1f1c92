"""Sizes of a Stable Diffusion model, read from tensor shapes or configurations. No torch.

What shapes cannot tell (attention heads, normalisation groups, the side it was trained at) comes
from the family's configuration, unless the file's header says otherwise under `lyctui.model_config`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from engine.models.headers import Tensors
from engine.models.recognise import FAMILY_TITLES, TEXT, UNET, VAE

CONFIGS_PATH = Path(__file__).parent / "configs"
CONFIG_KEY = "lyctui.model_config"
PARTS = ("unet", "vae", "text_encoder")
SECOND_TEXT = "text_encoder_2"
TOLD_BY_HEADER = {
    "unet": ("attention_head_dim", "norm_num_groups", "sample_size"),
    "vae": ("norm_num_groups", "sample_size"),
    "text_encoder": ("num_attention_heads",),
}
LARGEST_TOLD = 1 << 16

Config = dict[str, Any]


class UnusualShape(ValueError):
    """The tensors do not form the structure that the family has; the text completes "its ..."."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """Configurations of the parts, in diffusers' and transformers' own words."""

    family: str
    unet: Config
    vae: Config
    text_encoder: Config
    text_encoder_2: Config | None = None
    """Where the family has a second one."""

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of the U-Net's levels."""
        return tuple(self.unet["block_out_channels"])

    @property
    def native_resolution(self) -> int:
        """Side in pixels of the pictures it was made for."""
        factor: int = 2 ** (len(self.vae["block_out_channels"]) - 1)
        return int(self.unet["sample_size"]) * factor


@lru_cache(maxsize=16)
def _config_text(family: str, part: str) -> str:
    return (CONFIGS_PATH / family / part / "config.json").read_text("utf-8")


def family_config(family: str, part: str) -> Config:
    """The configuration of a full-size part, a fresh copy."""
    config: Config = json.loads(_config_text(family, part))
    return config


def full_size(family: str) -> Architecture:
    """The family's own architecture, as published."""
    second = (CONFIGS_PATH / family / SECOND_TEXT).is_dir()
    parts = (*PARTS, SECOND_TEXT) if second else PARTS
    return Architecture(family, *(family_config(family, part) for part in parts))


def from_tensors(family: str, tensors: Tensors, metadata: Mapping[str, str]) -> Architecture:
    """Architecture of a single-file checkpoint; raises UnusualShape where it is another structure."""
    told = told_by_header(metadata)
    parts: dict[str, Config] = {}
    readers = {
        "unet": (UNET, unet_sizes),
        "vae": (VAE, vae_sizes),
        "text_encoder": (TEXT, text_sizes),
    }
    for part, (prefix, sizes) in readers.items():
        own = {
            name.removeprefix(prefix): info.shape
            for name, info in tensors.items()
            if name.startswith(prefix)
        }
        if not own and part == "vae":
            parts[part] = family_config(family, part) | told[part]
            continue
        try:
            parts[part] = family_config(family, part) | sizes(own) | told[part]
        except UnusualShape:
            raise
        except (KeyError, IndexError, ValueError, StopIteration) as error:
            words = part.replace("_", " ")
            raise UnusualShape(f"{words} is not built like {FAMILY_TITLES[family]}'s") from error
    return checked(Architecture(family, parts["unet"], parts["vae"], parts["text_encoder"]))


def from_configs(family: str, configs: Mapping[str, Mapping[str, Any]]) -> Architecture:
    """Architecture of a diffusers folder; only keys that the family's own files have are taken."""
    parts = []
    for part in PARTS:
        known = family_config(family, part)
        given = configs.get(part, {})
        parts.append(known | {name: given[name] for name in known if given.get(name) is not None})
    return checked(Architecture(family, *parts))


def checked(architecture: Architecture) -> Architecture:
    """The same, where its numbers fit each other; raises UnusualShape where they do not."""
    unet, vae, text = architecture.unet, architecture.vae, architecture.text_encoder
    try:
        for words, config in (("U-Net", unet), ("VAE", vae)):
            channels, groups = tuple(config["block_out_channels"]), int(config["norm_num_groups"])
            if not channels or any(count % groups for count in channels):
                raise UnusualShape(f"{words} has {channels} channels, not in {groups} groups")
            if len(channels) != len(config["down_block_types"]):
                raise UnusualShape(f"{words} has levels without channels")
        heads = unet["attention_head_dim"]
        if not isinstance(heads, int) or any(count % heads for count in architecture.channels):
            raise UnusualShape(f"U-Net's channels do not split into {heads} heads")
        if int(text["hidden_size"]) % int(text["num_attention_heads"]):
            raise UnusualShape("text encoder's width does not split into its heads")
    except (TypeError, KeyError, ZeroDivisionError, ValueError) as error:
        if isinstance(error, UnusualShape):
            raise
        raise UnusualShape("configuration is not readable") from error
    return architecture


def told_by_header(metadata: Mapping[str, str]) -> dict[str, Config]:
    """The few numbers that a header may tell; anything else in it is not looked at."""
    try:
        said = json.loads(metadata.get(CONFIG_KEY, "{}"))
    except (ValueError, RecursionError):
        said = {}
    told: dict[str, Config] = {}
    for part, names in TOLD_BY_HEADER.items():
        values = said.get(part) if isinstance(said, dict) else None
        values = values if isinstance(values, dict) else {}
        told[part] = {
            name: values[name]
            for name in names
            if type(values.get(name)) is int and 0 < values[name] <= LARGEST_TOLD
        }
    return told


Shapes = Mapping[str, tuple[int, ...]]


def count_of(names: Shapes, pattern: str) -> int:
    """One more than the highest number that the pattern's group finds; 0 for none."""
    found = (re.match(pattern, name) for name in names)
    return max((int(match[1]) + 1 for match in found if match), default=0)


def unet_sizes(shapes: Shapes) -> Config:
    """Sizes of a U-Net in the original layout: input blocks are resnets ended by downsamplers."""
    first = shapes["input_blocks.0.0.weight"]
    levels: list[list[tuple[int, bool]]] = [[]]
    for index in range(1, count_of(shapes, r"input_blocks\.(\d+)\.")):
        if f"input_blocks.{index}.0.op.weight" in shapes:
            levels.append([])
            continue
        channels = shapes[f"input_blocks.{index}.0.in_layers.2.weight"][0]
        levels[-1].append((channels, f"input_blocks.{index}.1.norm.weight" in shapes))
    layers = {len(level) for level in levels}
    if len(layers) != 1 or any(len(set(level)) != 1 for level in levels):
        raise UnusualShape("U-Net has levels of different make")
    attended = [level[0][1] for level in levels]
    cross = next(shape[1] for name, shape in shapes.items() if name.endswith("attn2.to_k.weight"))
    projection = next(shape for name, shape in shapes.items() if name.endswith(".1.proj_in.weight"))
    return {
        "in_channels": first[1],
        "out_channels": shapes["out.2.weight"][0],
        "block_out_channels": [level[0][0] for level in levels],
        "layers_per_block": layers.pop(),
        "cross_attention_dim": cross,
        "down_block_types": ["CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attended],
        "up_block_types": ["CrossAttnUpBlock2D" if a else "UpBlock2D" for a in attended[::-1]],
        "use_linear_projection": len(projection) == 2,
    }


def vae_sizes(shapes: Shapes) -> Config:
    """Sizes of an autoencoder in the original layout."""
    levels = count_of(shapes, r"encoder\.down\.(\d+)\.")
    channels = [shapes[f"encoder.down.{level}.block.0.conv1.weight"][0] for level in range(levels)]
    return {
        "in_channels": shapes["encoder.conv_in.weight"][1],
        "out_channels": shapes["decoder.conv_out.weight"][0],
        "latent_channels": shapes["decoder.conv_in.weight"][1],
        "block_out_channels": channels,
        "layers_per_block": count_of(shapes, r"encoder\.down\.0\.block\.(\d+)\."),
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
    }


def text_sizes(shapes: Shapes) -> Config:
    """Sizes of a CLIP text model, with or without its `text_model.` level."""
    own = {name.removeprefix("text_model."): shape for name, shape in shapes.items()}
    width = own["embeddings.token_embedding.weight"][1]
    return {
        "vocab_size": own["embeddings.token_embedding.weight"][0],
        "hidden_size": width,
        "projection_dim": width,
        "intermediate_size": own["encoder.layers.0.mlp.fc1.weight"][0],
        "num_hidden_layers": count_of(own, r"encoder\.layers\.(\d+)\."),
        "max_position_embeddings": own["embeddings.position_embedding.weight"][0],
    }
