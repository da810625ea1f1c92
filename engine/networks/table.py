"""The algorithms there are, and how a module of any of them is made."""

from __future__ import annotations

from torch import nn

from engine.networks.base import Adapter, Setup, Tensors
from engine.networks.choice import Choice
from engine.networks.lokr import Lokr
from engine.networks.lora import Lora
from engine.networks.shapes import Shapes

ALGORITHMS: dict[str, type[Adapter]] = {"lora": Lora, "locon": Lora, "lokr": Lokr}
"""By the name a recipe gives it."""


def create(
    name: str, layer: nn.Module, shapes: Shapes, choice: Choice, setup: Setup
) -> Adapter:
    """A fresh module of the chosen algorithm; it changes nothing yet."""
    return ALGORITHMS[choice.algorithm].create(name, layer, shapes, choice, setup)


def read(
    algorithm: str,
    name: str,
    layer: nn.Module,
    tensors: Tensors,
    setup: Setup,
    choice: Choice | None = None,
) -> Adapter:
    """The module that these tensors hold; raises ValueError where they do not fit the layer."""
    return ALGORITHMS[algorithm].from_tensors(name, layer, tensors, setup, choice)
