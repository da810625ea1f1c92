"""Names of modules and tensors in a file that a tool writes. No torch.

Which path has which name comes from the tables of the engine; here they are chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from engine.errors import NetworkFileError, Problem
from engine.inert import inert
from engine.models.architecture import full_size
from engine.models.shapes import layer_shapes
from engine.networks.layout_keys import DOWN, MAGNITUDE, UP
from engine.networks.names import (
    PREFIXES,
    PREFIXES_OF_TWO,
    TEXT_ROOT,
    Place,
    file_names,
    flat_name,
    name_table,
)
from engine.tools.requests import Names
from engine.unet_names import original_unet_names

PEFT_PARTS = {"unet": "unet", "te": "text_encoder", "te2": "text_encoder_2"}
PEFT_SUFFIXES = {
    DOWN: "lora_A.weight",
    UP: "lora_B.weight",
    # Without the last word transformers takes it for another tensor, and keeps what it began with.
    MAGNITUDE: "lora_magnitude_vector.weight",
}
"""Alpha has no tensor there: it goes into the metadata."""


@dataclass(frozen=True, slots=True)
class Layers:
    """The layers of a base model, as far as names go."""

    family: str
    kernels: Mapping[Place, tuple[int, ...]]
    """Kernel of each layer; empty where it is no convolution."""
    table: Mapping[str, Place] = field(repr=False)
    """Every name a file may use, to its layer."""

    @staticmethod
    def of(family: str, kernels: Mapping[Place, tuple[int, ...]]) -> Layers:
        """With the table of names."""
        return Layers(family, kernels, name_table(kernels))


def usual_layers(family: str) -> Layers:
    """Those of the family's published models; names and kernels are those of any width."""
    kernels: dict[Place, tuple[int, ...]] = {}
    for layer in layer_shapes(full_size(family)):
        component, path = layer.component, layer.path
        if component != "unet" and not path.startswith(TEXT_ROOT):
            path = TEXT_ROOT + path
        kernels[component, path] = layer.kernel
    return Layers.of(family, kernels)


def namer(names: Names, layers: Layers) -> Callable[[Place], str]:
    """Name of a layer in a style, without the tensor's suffix; "keep" is none of them."""
    sdxl = layers.family == "sdxl"
    if names == "kohya":
        return file_names(layers.kernels, sdxl=sdxl).__getitem__
    if names == "peft":
        return lambda place: f"{PEFT_PARTS[place[0]]}.{place[1]}"
    prefixes = PREFIXES_OF_TWO if sdxl else PREFIXES
    original: Callable[[str], str] = str
    if names == "sgm":
        original = original_unet_names(path for part, path in layers.kernels if part == "unet")

    def named(place: Place) -> str:
        component, path = place
        return flat_name(prefixes[component], original(path) if component == "unet" else path)

    return named


def key_of(names: Names, module: str, suffix: str) -> str:
    """Name of a tensor; raises NetworkFileError for what PEFT's layout does not hold."""
    if names != "peft":
        return f"{module}.{suffix}"
    if suffix not in PEFT_SUFFIXES:
        raise NetworkFileError(
            Problem(
                f"PEFT's names are for LoRA only, and this has {inert(suffix)}.",
                where=inert(module),
                remedy="Add --to lora, or choose other names.",
            )
        )
    return f"{module}.{PEFT_SUFFIXES[suffix]}"
