"""Sizes of a Stable Diffusion model, read from tensor shapes or configurations. No torch.

What shapes cannot tell (attention heads, normalisation groups, the side it was trained at) comes
from the family's configuration, unless the file's header says otherwise under `lyctui.model_config`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from engine.models.headers import Tensors
from engine.models.recognise import FAMILY_TITLES, TEXT_PARTS, UNET, VAE

CONFIGS_PATH = Path(__file__).parent / "configs"
CONFIG_KEY = "lyctui.model_config"
PARTS = ("unet", "vae", "text_encoder")
SECOND_TEXT = "text_encoder_2"
TOLD_BY_HEADER = {
    "unet": ("attention_head_dim", "norm_num_groups", "sample_size"),
    "vae": ("norm_num_groups", "sample_size"),
    "text_encoder": ("num_attention_heads",),
    SECOND_TEXT: ("num_attention_heads",),
}
TOLD_AS_LIST = "attention_head_dim"
"""One number, or one for each level."""
LARGEST_TOLD = 1 << 16
MOST_LEVELS = 16
MOST_LAYERS = 128
"""Of a text encoder, or in a block of U-Net or VAE: a name can claim any number, and all are built."""
SIZE_CONDITIONS = 6
"""Numbers that SDXL embeds beside the pooled text: engine/models/family.py, `Conditioning.sizes_B6`."""
SD2_512 = "stable-diffusion-v2-512"
SD2_512_SIDE = 64
OPEN_CLIP_LAYER = r"transformer\.resblocks\.(\d+)\."
SD2_LAYERS = 23

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
    if family == "sd2" and is_sd2_512(metadata):
        told["unet"] = {"sample_size": SD2_512_SIDE} | told["unet"]
    prefixes = {"unet": UNET, "vae": VAE, **TEXT_PARTS[family]}
    parts: dict[str, Config] = {}
    for part, prefix in prefixes.items():
        own = {
            name.removeprefix(prefix): info.shape
            for name, info in tensors.items()
            if name.startswith(prefix)
        }
        known = family_config(family, part)
        absent = part == "vae" and not own
        parts[part] = known | ({} if absent else _sizes(family, part, own)) | told[part]
    if SECOND_TEXT in parts:
        numbers = int(parts["unet"]["projection_class_embeddings_input_dim"])
        rest = numbers - int(parts[SECOND_TEXT]["projection_dim"])
        parts["unet"]["addition_time_embed_dim"] = rest // SIZE_CONDITIONS
    return checked(Architecture(family, **parts))


def is_sd2_512(metadata: Mapping[str, str]) -> bool:
    """Whether a header says that it is the 512 model of Stable Diffusion 2: the shapes do not tell."""
    architecture = metadata.get("modelspec.architecture", "").strip()
    return architecture.startswith(SD2_512) or (
        not architecture and metadata.get("modelspec.resolution", "").strip() == "512x512"
    )


def _sizes(family: str, part: str, shapes: Shapes) -> Config:
    readers = {"unet": unet_sizes, "vae": vae_sizes}
    try:
        sizes = readers.get(part, text_sizes)(shapes)
        if part == "unet" and family_config(family, part)["use_linear_projection"]:
            # Some single files hold these layers as 1 x 1 convolutions, which compute the same.
            sizes["use_linear_projection"] = True
        if family == "sd2" and part == "text_encoder" and sizes["num_hidden_layers"] != SD2_LAYERS:
            # The U-Net reads the last layer but one; files that were a folder once lack the last.
            sizes["num_hidden_layers"] -= 1
        return sizes
    except UnusualShape:
        raise
    except (KeyError, IndexError, ValueError, StopIteration) as error:
        words = part.replace("_", " ")
        raise UnusualShape(f"{words} is not built like {FAMILY_TITLES[family]}'s") from error


def from_configs(family: str, configs: Mapping[str, Mapping[str, Any]]) -> Architecture:
    """Architecture of a diffusers folder; only keys that the family's own files have are taken."""
    parts: dict[str, Config] = {}
    for part in ("unet", "vae", *TEXT_PARTS[family]):
        known = family_config(family, part)
        given = configs.get(part, {})
        parts[part] = known | {name: given[name] for name in known if given.get(name) is not None}
    return checked(Architecture(family, **parts))


def checked(architecture: Architecture) -> Architecture:
    """The same, where its numbers fit each other; raises UnusualShape where they do not."""
    unet, vae = architecture.unet, architecture.vae
    try:
        for words, config in (("U-Net", unet), ("VAE", vae)):
            channels, groups = tuple(config["block_out_channels"]), int(config["norm_num_groups"])
            if not channels or any(count % groups for count in channels):
                raise UnusualShape(f"{words} has {channels} channels, not in {groups} groups")
            if len(channels) != len(config["down_block_types"]):
                raise UnusualShape(f"{words} has levels without channels")
            if not 0 < int(config["layers_per_block"]) <= MOST_LAYERS:
                raise UnusualShape(f"{words} has {config['layers_per_block']} layers in a block")
        _check_levels(unet, architecture.channels)
        _check_text(architecture)
    except (TypeError, KeyError, ZeroDivisionError, ValueError) as error:
        if isinstance(error, UnusualShape):
            raise
        raise UnusualShape("configuration is not readable") from error
    return architecture


def _check_text(architecture: Architecture) -> None:
    """What the text encoders give is as wide as what the U-Net reads."""
    unet, second = architecture.unet, architecture.text_encoder_2
    encoders = [text for text in (architecture.text_encoder, second) if text is not None]
    if any(int(text["hidden_size"]) % int(text["num_attention_heads"]) for text in encoders):
        raise UnusualShape("text encoder's width does not split into its heads")
    if any(not 0 < int(text["num_hidden_layers"]) <= MOST_LAYERS for text in encoders):
        raise UnusualShape("text encoder has more layers than any that is known")
    width, read = sum(int(text["hidden_size"]) for text in encoders), unet["cross_attention_dim"]
    if width != read:
        raise UnusualShape(f"U-Net reads text of width {read}, its text encoder gives {width}")
    if second is not None:
        numbers = second["projection_dim"] + SIZE_CONDITIONS * unet["addition_time_embed_dim"]
        read = unet["projection_class_embeddings_input_dim"]
        if numbers != read:
            raise UnusualShape(f"U-Net reads a vector of {read} numbers, not of {numbers}")


def _check_levels(unet: Config, channels: tuple[int, ...]) -> None:
    """Heads are one number for all levels, or one for each; so are transformer blocks."""
    heads = each_level(unet["attention_head_dim"], len(channels))
    if any(count % own for count, own in zip(channels, heads, strict=True)):
        raise UnusualShape(f"U-Net's channels do not split into {unet['attention_head_dim']} heads")
    depths = each_level(unet.get("transformer_layers_per_block", 1), len(channels))
    if max(depths) > MOST_LAYERS:
        raise UnusualShape(f"U-Net has {max(depths)} transformer blocks in a row")


def each_level(told: Any, levels: int) -> tuple[int, ...]:
    """A number that a configuration gives for all levels or for each; raises UnusualShape else."""
    each = (told,) * levels if isinstance(told, int) else tuple(told)
    if len(each) != levels or not all(type(value) is int and value > 0 for value in each):
        raise UnusualShape("U-Net has levels of different make")
    return each


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
        told[part] = {name: values[name] for name in names if _believable(name, values.get(name))}
    return told


def _believable(name: str, value: Any) -> bool:
    if name == TOLD_AS_LIST and isinstance(value, list):
        return 0 < len(value) <= MOST_LEVELS and all(_believable("", own) for own in value)
    return type(value) is int and 0 < value <= LARGEST_TOLD


Shapes = Mapping[str, tuple[int, ...]]


def count_of(names: Shapes, pattern: str) -> int:
    """One more than the highest number that the pattern's group finds; 0 for none."""
    found = (re.match(pattern, name) for name in names)
    return max((int(match[1]) + 1 for match in found if match), default=0)


def unet_sizes(shapes: Shapes) -> Config:
    """Sizes of a U-Net in the original layout: input blocks are resnets ended by downsamplers."""
    first = shapes["input_blocks.0.0.weight"]
    levels: list[list[tuple[int, bool]]] = [[]]
    depths = [0]
    for index in range(1, count_of(shapes, r"input_blocks\.(\d+)\.")):
        if f"input_blocks.{index}.0.op.weight" in shapes:
            levels.append([])
            depths.append(0)
            continue
        channels = shapes[f"input_blocks.{index}.0.in_layers.2.weight"][0]
        depth = _depth(shapes, f"input_blocks.{index}.1")
        levels[-1].append((channels, depth > 0))
        depths[-1] = max(depths[-1], depth)
    layers = {len(level) for level in levels}
    if len(layers) != 1 or any(len(set(level)) != 1 for level in levels):
        raise UnusualShape("U-Net has levels of different make")
    cross = next(shape[1] for name, shape in shapes.items() if name.endswith("attn2.to_k.weight"))
    projection = next(shape for name, shape in shapes.items() if name.endswith(".1.proj_in.weight"))
    return {
        "in_channels": first[1],
        "out_channels": shapes["out.2.weight"][0],
        "block_out_channels": [level[0][0] for level in levels],
        "layers_per_block": layers.pop(),
        "cross_attention_dim": cross,
        "down_block_types": ["CrossAttnDownBlock2D" if d else "DownBlock2D" for d in depths],
        "up_block_types": ["CrossAttnUpBlock2D" if d else "UpBlock2D" for d in depths[::-1]],
        "use_linear_projection": len(projection) == 2,
        **_transformer_depths(shapes, depths),
        **_size_condition(shapes),
    }


def _depth(shapes: Shapes, place: str) -> int:
    """Transformer blocks of the attention at a place; 0 where there is none."""
    return count_of(shapes, rf"{re.escape(place)}\.transformer_blocks\.(\d+)\.")


def _transformer_depths(shapes: Shapes, depths: Sequence[int]) -> Config:
    """What diffusers calls transformer_layers_per_block; left out where it is 1 everywhere.

    A level without attention counts 1. The middle has as many blocks as the last level.
    """
    told = [depth or 1 for depth in depths]
    told[-1] = _depth(shapes, "middle_block.1") or told[-1]
    return {} if set(told) == {1} else {"transformer_layers_per_block": told}


def _size_condition(shapes: Shapes) -> Config:
    """Width of the vector condition; its embeddings' width follows when the pooled text is known."""
    added = shapes.get("label_emb.0.0.weight")
    return {} if added is None else {"projection_class_embeddings_input_dim": added[1]}


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
    """Sizes of a CLIP text model under transformers' names, with or without `text_model.`, or OpenCLIP's."""
    own = {name.removeprefix("text_model."): shape for name, shape in shapes.items()}
    if "positional_embedding" in own:
        return _open_clip_sizes(own)
    width = own["embeddings.token_embedding.weight"][1]
    return {
        "vocab_size": own["embeddings.token_embedding.weight"][0],
        "hidden_size": width,
        "projection_dim": width,
        "intermediate_size": own["encoder.layers.0.mlp.fc1.weight"][0],
        "num_hidden_layers": count_of(own, r"encoder\.layers\.(\d+)\."),
        "max_position_embeddings": own["embeddings.position_embedding.weight"][0],
    }


def _open_clip_sizes(shapes: Shapes) -> Config:
    vocabulary, width = shapes["token_embedding.weight"]
    projection = shapes.get("text_projection", (width, width))
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "projection_dim": projection[1],
        "intermediate_size": shapes["transformer.resblocks.0.mlp.c_fc.weight"][0],
        "num_hidden_layers": count_of(shapes, OPEN_CLIP_LAYER),
        "max_position_embeddings": shapes["positional_embedding"][0],
    }
