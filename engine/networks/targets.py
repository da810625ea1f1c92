"""The layers of real modules, told as a plan tells them, and those that a network cannot change."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import nn

from engine.networks.base import kernel_of, layer_weight
from engine.networks.choice import Kernel
from engine.networks.presets import Kind

CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.Sequential)
"""Lists of modules; their class names say nothing."""


@dataclass(frozen=True, slots=True)
class RealLayer:
    """One linear, convolution or norm layer of a model."""

    component: str
    path: str
    out: int
    """Outputs; of a norm its channels."""
    in_: int
    """Inputs; 1 of a norm."""
    kernel: Kernel
    classes: tuple[str, ...]
    """Classes around it, outermost first, without mere containers."""
    module: nn.Module

    @property
    def kind(self) -> Kind:
        """Norms are trained only where that is asked for."""
        if isinstance(self.module, nn.LayerNorm | nn.GroupNorm):
            return "norm"
        return "conv" if self.kernel else "linear"

    @property
    def bias(self) -> bool:
        """Whether it adds something."""
        return getattr(self.module, "bias", None) is not None


def real_layers(components: Mapping[str, nn.Module]) -> tuple[RealLayer, ...]:
    """Every Linear, Conv2d, LayerNorm and GroupNorm, in the order of the modules' own lists."""
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
    if isinstance(module, nn.LayerNorm | nn.GroupNorm):
        yield RealLayer(component, path, _channels(module), 1, (), classes, module)
        return
    if not isinstance(module, CONTAINERS):
        classes = (*classes, type(module).__name__)
    for name, child in module.named_children():
        yield from _layers_below(component, child, f"{path}.{name}" if path else name, classes)


def _channels(norm: nn.LayerNorm | nn.GroupNorm) -> int:
    if isinstance(norm, nn.GroupNorm):
        return norm.num_channels
    return math.prod(norm.normalized_shape)


def why_skipped(layer: RealLayer) -> str | None:
    """Why a layer cannot be adapted, or None."""
    module = layer.module
    if isinstance(module, nn.Conv2d):
        if module.groups != 1:
            return "it is a grouped convolution"
        if module.padding_mode != "zeros":
            return f"it pads with {module.padding_mode}"
    if isinstance(module, nn.LayerNorm | nn.GroupNorm):
        if getattr(module, "weight", None) is None:
            return "it is a norm without weights"
        if not layer.bias:
            return "it is a norm without bias"
        if module.weight.ndim != 1:
            return "it is a norm over several axes"
    return None
