"""Which family of base models a network file is for, told from names, shapes and metadata. No torch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from engine.errors import Problem
from engine.networks.layouts import Found, Shapes
from engine.networks.names import is_sdxl
from engine.networks.presets import LayerLike

TITLES = {
    "sd1": "a network of Stable Diffusion 1",
    "sd2": "a network of Stable Diffusion 2",
    "sdxl": "an SDXL network",
}
BASES = {"sd1": "Stable Diffusion 1", "sd2": "Stable Diffusion 2", "sdxl": "SDXL"}
BY_CONTEXT = {768: "sd1", 1024: "sd2", 2048: "sdxl"}
"""Width of the text that cross-attention reads."""
BY_TEXT_WIDTH = {768: "sd1", 1024: "sd2"}
"""Width of the only text encoder."""
SDXL_NAMES = re.compile(
    r"lora_te2_|(lora_unet|lycoris)_(add_embedding|label_emb)_"
    # Its transformers are up to ten blocks deep, those of the others one.
    r"|(lora_unet|lycoris)_.*_transformer_blocks_[1-9]_"
)
READS_TEXT = re.compile(r"(lora_unet|lycoris)_.*attn2_to_[kv]")
TEXT_INPUT = re.compile(r"lora_te_.*(self_attn_[qkv]_proj|mlp_fc1)")
DEEP_TEXT = re.compile(r"lora_te_text_model_encoder_layers_(1[2-9]|2\d)_")
"""The text encoder of Stable Diffusion 1 has 12 layers, that of 2 has 23."""


def family_of_file(modules: Iterable[Found], metadata: Mapping[str, str]) -> str | None:
    """The family by what the tensors are; else by what the metadata say; None where neither tells."""
    modules = tuple(modules)
    if any(SDXL_NAMES.match(module.name) for module in modules):
        return "sdxl"
    found = (_by_context(module) for module in modules)
    told = next((family for family in found if family), None) or _told(metadata)
    if told is not None:
        return told
    # Last: SDXL's first text encoder is that of Stable Diffusion 1, and may be called the same.
    found = (_by_text(module) for module in modules)
    return next((family for family in found if family), None)


def _by_context(module: Found) -> str | None:
    if READS_TEXT.fullmatch(module.name):
        return BY_CONTEXT.get(_input_width(module.shapes) or 0)
    return None


def _by_text(module: Found) -> str | None:
    if DEEP_TEXT.match(module.name):
        return "sd2"
    if TEXT_INPUT.fullmatch(module.name):
        return BY_TEXT_WIDTH.get(_input_width(module.shapes) or 0)
    return None


def _input_width(shapes: Shapes) -> int | None:
    """Input side of a linear layer, from the tensors of its change."""
    for suffix in ("lora_down.weight", "diff", "hada_w1_b", "a2.weight", "q_layer.weight"):
        if len(shapes.get(suffix, ())) >= 2:
            return shapes[suffix][1]
    left = shapes.get("lokr_w1", shapes.get("lokr_w1_b", ()))
    right = shapes.get("lokr_w2", shapes.get("lokr_w2_b", ()))
    return left[1] * right[1] if len(left) >= 2 and len(right) >= 2 else None


def _told(metadata: Mapping[str, str]) -> str | None:
    version = metadata.get("ss_base_model_version", "")
    architecture = metadata.get("modelspec.architecture", "")
    if version.startswith("sdxl") or architecture.startswith("stable-diffusion-xl"):
        return "sdxl"
    if version.startswith("sd_v2") or metadata.get("ss_v2") == "True":
        return "sd2"
    if architecture.startswith("stable-diffusion-v2"):
        return "sd2"
    if version.startswith("sd_v1") or architecture.startswith("stable-diffusion-v1"):
        return "sd1"
    return None


def family_of_layers(layers: Iterable[LayerLike]) -> str | None:
    """The family of a base model; None for one of unusual sizes."""
    layers = tuple(layers)
    if is_sdxl((layer.component, layer.path) for layer in layers):
        return "sdxl"
    for layer in layers:
        if layer.component == "unet" and layer.path.endswith("attn2.to_k"):
            return BY_CONTEXT.get(layer.in_)
    for layer in layers:
        if layer.component == "te" and layer.path.endswith("q_proj"):
            return BY_TEXT_WIDTH.get(layer.in_)
    return None


def wrong_family(family: str | None, base: str | None) -> Problem | None:
    """Why a file does not go with a base model; None where it may.

    A base of unusual sizes is not SDXL (that is told by its layers) and may be either of the others.
    """
    if family is None or family == base or (base is None and family != "sdxl"):
        return None
    whose = f"of {BASES[base]}" if base else "not SDXL"
    return Problem(
        f"This is {TITLES[family]}; the base model is {whose}.",
        remedy=f"Give a network of the base's family, or a base of {BASES[family]}.",
        path="network.weights",
    )
