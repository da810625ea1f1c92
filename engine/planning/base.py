"""How large the base is: parameters, channels and the side it was made for."""

from __future__ import annotations

from dataclasses import dataclass

from engine.models.architecture import Architecture, full_size
from engine.models.detect import ModelFacts


@dataclass(frozen=True, slots=True)
class BaseSize:
    """What a plan needs to know of a base model's size."""

    family: str
    unet_parameters: int
    te_parameters: int
    channels: int
    """Channels of the U-Net's first level, where the pixels are."""
    resolution: int
    """Side of the pictures it was made for."""
    architecture: Architecture | None
    """None where the file must be loaded to know; then the sizes are the family's usual ones."""


def base_size(facts: ModelFacts | None) -> BaseSize:
    """Sizes of a base model; those of Stable Diffusion 1.5 where they are not known yet."""
    if facts is None or facts.architecture is None:
        usual = full_size("sd1")
        return BaseSize(
            "sd1", 859_520_964, 123_060_480, usual.channels[0], usual.native_resolution, None
        )
    own = facts.architecture
    return BaseSize(
        own.family,
        facts.unet_parameters,
        facts.te_parameters,
        own.channels[0],
        own.native_resolution,
        own,
    )
