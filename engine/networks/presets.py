"""Which layers a preset takes, told from paths and enclosing classes. No torch.

The same rules choose among the real modules and among the shapes of a plan.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from engine.errors import Problem, RecipeError
from engine.networks.choice import Kernel, spans

UNET = "unet"


class LayerLike(Protocol):
    """A linear or convolution layer, real or planned."""

    @property
    def component(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def out(self) -> int: ...
    @property
    def in_(self) -> int: ...
    @property
    def kernel(self) -> Kernel: ...
    @property
    def bias(self) -> bool: ...
    @property
    def classes(self) -> tuple[str, ...]: ...


Layer = TypeVar("Layer", bound=LayerLike)


@dataclass(frozen=True, slots=True)
class Aim:
    """What one preset takes from one kind of component."""

    classes: frozenset[str] = frozenset()
    names: tuple[str, ...] = ()
    """Regular expressions; each must match a whole path."""

    def __bool__(self) -> bool:
        return bool(self.classes or self.names)

    def takes(self, layer: LayerLike) -> bool:
        """Whether a layer is below one of the classes or bears one of the names."""
        if self.classes.intersection(layer.classes):
            return True
        return any(re.fullmatch(name, layer.path) for name in self.names)


@dataclass(frozen=True, slots=True)
class Preset:
    """What a preset takes from the U-Net and from the text encoders."""

    unet: Aim
    text: Aim
    spatial: bool
    """Whether convolutions beyond one pixel are taken."""

    def aim(self, component: str) -> Aim:
        """The aim at a component."""
        return self.unet if component == UNET else self.text


NOTHING = Aim()
TRANSFORMER = frozenset({"Transformer2DModel"})
RESNET = frozenset({"ResnetBlock2D"})
SAMPLERS = frozenset({"Downsample2D", "Upsample2D"})
TIME = (r"time_embedding\.linear_1", r"time_embedding\.linear_2")
ENDS = ("conv_in", "conv_out")
WHOLE_UNET = Aim(TRANSFORMER | RESNET | SAMPLERS, ENDS + TIME)
WHOLE_TEXT = Aim(frozenset({"CLIPAttention", "CLIPSdpaAttention", "CLIPMLP"}))
TEXT_ATTENTION = Aim(frozenset({"CLIPAttention", "CLIPSdpaAttention"}))

PRESETS: dict[str, Preset] = {
    "full": Preset(WHOLE_UNET, WHOLE_TEXT, True),
    "full-lin": Preset(Aim(TRANSFORMER | RESNET, TIME), WHOLE_TEXT, False),
    "attn-mlp": Preset(Aim(TRANSFORMER), WHOLE_TEXT, False),
    "attn-only": Preset(
        Aim(frozenset({"Attention", "CrossAttention", "SelfAttention"})), TEXT_ATTENTION, False
    ),
    "unet-only": Preset(WHOLE_UNET, NOTHING, True),
    "unet-transformer-only": Preset(Aim(TRANSFORMER), NOTHING, False),
    "unet-convblock-only": Preset(Aim(RESNET | SAMPLERS, ENDS), NOTHING, True),
    "te-only": Preset(NOTHING, WHOLE_TEXT, True),
}


def selected(layers: Iterable[Layer], targets: str, *, spatial: bool = True) -> tuple[Layer, ...]:
    """Layers that a preset takes, in their own order, each once.

    Raises RecipeError for an unknown preset, and where a preset aims at a component but hits nothing.
    """
    preset = _preset(targets)
    every = {(layer.component, layer.path): layer for layer in layers}
    chosen = [
        layer
        for layer in every.values()
        if preset.aim(layer.component).takes(layer)
        and (not spans(layer.kernel) or (preset.spatial and spatial))
    ]
    components = {component for component, _ in every}
    hit = {layer.component for layer in chosen}
    missed = sorted(name for name in components if preset.aim(name) and name not in hit)
    if missed or not chosen:
        where = " and ".join(missed) or " and ".join(sorted(components)) or "an empty model"
        raise RecipeError(
            Problem(
                f"{targets} finds no layer to train in {where}.",
                path="network.targets",
                remedy="Choose other layers.",
            )
        )
    return tuple(chosen)


def _preset(targets: str) -> Preset:
    try:
        return PRESETS[targets]
    except KeyError:
        raise RecipeError(
            Problem(
                f"There is no choice of layers called {targets!r}.",
                path="network.targets",
                remedy=f"Choose one of {', '.join(PRESETS)}.",
            )
        ) from None
