"""Text-encoder layers that lie behind the one whose output is read: they learn nothing. No torch."""

from __future__ import annotations

import re
from collections.abc import Iterable

from engine.models.architecture import Architecture
from engine.networks.presets import LayerLike

LAYER = re.compile(r"(?:text_model\.)?encoder\.layers\.(\d+)\.")
FINAL_NORM = re.compile(r"(?:text_model\.)?final_layer_norm")
SDXL_SKIPS = 1
"""Layers of SDXL's first text encoder that are never read."""


def unread_notices(
    layers: Iterable[LayerLike], sizes: Architecture, clip_skip: int
) -> tuple[str, ...]:
    """How many of the planned text-encoder modules get no gradient, where there are any."""
    text = [layer for layer in layers if layer.component != "unet"]
    count = sum(unread(layer, sizes, clip_skip) for layer in text)
    if not count:
        return ()
    two = sizes.text_encoder_2 is not None
    reads = "SDXL" if two else f"model.clip_skip {clip_skip}"
    which = "first text encoder" if two else "text encoder"
    return (
        f"{count} of {len(text)} text-encoder modules lie behind the layer of the {which} that"
        f" {reads} reads: they learn nothing, and stay in the file for the programs that expect"
        " them.",
    )


def unread(layer: LayerLike, sizes: Architecture, clip_skip: int) -> bool:
    """Whether nothing that the U-Net sees depends on this layer."""
    two = sizes.text_encoder_2 is not None
    if layer.component == "te2":
        return False  # the pooled vector is taken from behind its last layer
    if FINAL_NORM.fullmatch(layer.path):
        return two  # Stable Diffusion 1 and 2 norm whatever layer is read
    found = LAYER.match(layer.path)
    if found is None:
        return False
    skips = SDXL_SKIPS if two else clip_skip - 1
    return int(found[1]) >= int(sizes.text_encoder["num_hidden_layers"]) - skips
