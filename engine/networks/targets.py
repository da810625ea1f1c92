"""The layers of real modules, told as a plan tells them, and those that a network cannot change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import nn

from engine.networks.base import kernel_of, layer_weight
from engine.networks.choice import Kernel


@dataclass(frozen=True, slots=True)
class RealLayer:
    """One linear or convolution layer of a model."""

    component: str
    path: str
    out: int
    in_: int
    kernel: Kernel
    classes: tuple[str, ...]
    module: nn.Module

    @property
    def bias(self) -> bool:
        """Whether the layer has a bias."""
        return self.module.bias is not None


def real_layers(components: Mapping[str, nn.Module]) -> tuple[RealLayer, ...]:
    """Every Linear and Conv2d, in the order of the modules' own lists."""
    return tuple(
        layer for name, root in components.items() for layer in _layers_below(name, root, "", ())
    )


def _layers_below(
    component: str, module: nn.Module, path: str, classes: tuple[str, ...]
) -> Iterator[RealLayer]:
    if isinstance(module, nn.Linear | nn.Conv2d):
        weight = layer_weight(module)
        out, in_ = int(weight.shape[0]), int(weight.shape[1])
        yield RealLayer(component, path, out, in_, kernel_of(module), classes, module)
        return
    inside = (*classes, type(module).__name__)
    for name, child in module.named_children():
        yield from _layers_below(component, child, f"{path}.{name}" if path else name, inside)


def why_skipped(layer: RealLayer) -> str | None:
    """Why a layer cannot be adapted, or None."""
    if not isinstance(layer.module, nn.Conv2d):
        return None
    if layer.module.groups != 1:
        return "it is a grouped convolution"
    if layer.module.padding_mode != "zeros":
        return f"it pads with {layer.module.padding_mode}"
    return None
