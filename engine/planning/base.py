"""How large the base is: parameters, channels and the side it was made for."""

from __future__ import annotations

from dataclasses import dataclass

from engine.models.architecture import Architecture, Config, full_size
from engine.models.detect import ModelFacts
from engine.models.shapes import layer_shapes

UNKNOWN = "sd1"
"""The family whose sizes stand for a base that nothing is known of yet."""


@dataclass(frozen=True, slots=True)
class BaseSize:
    """What a plan needs to know of a base model's size."""

    family: str
    unet_parameters: int
    te_parameters: int
    """Of all text encoders together."""
    resolution: int
    """Side of the pictures it was made for."""
    architecture: Architecture | None
    """None where the file must be loaded to know; then the sizes are the family's usual ones."""

    @property
    def sizes(self) -> Architecture:
        """Its architecture, or the family's usual one."""
        return self.architecture or full_size(self.family)

    @property
    def text_encoders(self) -> int:
        """How many it has."""
        return 1 if self.sizes.text_encoder_2 is None else 2


def base_size(facts: ModelFacts | None) -> BaseSize:
    """Sizes of a base model; those of Stable Diffusion 1.5 where they are not known yet."""
    own = facts.architecture if facts is not None else None
    sizes = own or full_size(UNKNOWN)
    counted = (0, 0) if facts is None else (facts.unet_parameters, facts.te_parameters)
    unet, text = counted if own is not None else (0, 0)
    return BaseSize(
        family=sizes.family,
        unet_parameters=unet or unet_parameters(sizes),
        te_parameters=text or text_parameters(sizes),
        resolution=sizes.native_resolution,
        architecture=own,
    )


def unet_parameters(architecture: Architecture) -> int:
    """Numbers in the U-Net: all of them are in its layers."""
    return _in_layers(architecture, "unet")


def text_parameters(architecture: Architecture) -> int:
    """Numbers in all text encoders, the tables of words and places among them."""
    second = architecture.text_encoder_2
    tables = _tables(architecture.text_encoder) + (0 if second is None else _tables(second))
    return tables + _in_layers(architecture, "te") + _in_layers(architecture, "te2")


def _tables(config: Config) -> int:
    rows = int(config["vocab_size"]) + int(config["max_position_embeddings"])
    return rows * int(config["hidden_size"])


def _in_layers(architecture: Architecture, component: str) -> int:
    return sum(
        layer.weights + (layer.out if layer.bias else 0)
        for layer in layer_shapes(architecture)
        if layer.component == component
    )
