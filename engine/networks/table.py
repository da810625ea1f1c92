"""The algorithms there are, and how a module of any of them is made."""

from __future__ import annotations

from torch import nn

from engine.networks.base import Adapter, Setup, Tensors
from engine.networks.boft import Boft
from engine.networks.choice import Choice
from engine.networks.diag_oft import DiagOft
from engine.networks.dora import Dora
from engine.networks.dora_rules import SCALE
from engine.networks.dylora import Dylora
from engine.networks.full import Full
from engine.networks.glora import Glora
from engine.networks.ia3 import Ia3
from engine.networks.loha import Loha
from engine.networks.lokr import Lokr
from engine.networks.lora import Lora
from engine.networks.norm import Norm
from engine.networks.shapes import WITH_DORA, Shapes
from engine.networks.t_lora import TLora

ALGORITHMS: dict[str, type[Adapter]] = {
    "lora": Lora,
    "locon": Lora,
    "loha": Loha,
    "lokr": Lokr,
    "dylora": Dylora,
    "glora": Glora,
    "diag-oft": DiagOft,
    "boft": Boft,
    "ia3": Ia3,
    "full": Full,
    "norm": Norm,
    "t-lora": TLora,
}
"""By the name a recipe gives it."""


def create(name: str, layer: nn.Module, shapes: Shapes, choice: Choice, setup: Setup) -> Adapter:
    """A fresh module of the chosen algorithm; it changes nothing yet."""
    kind = ALGORITHMS[choice.algorithm]
    if choice.dora == "off" or choice.algorithm not in WITH_DORA:
        return kind.create(name, layer, shapes, choice, setup)
    within = {suffix: shape for suffix, shape in shapes.items() if suffix != SCALE}
    return Dora.over(kind.create(name, layer, within, choice, setup), choice.dora)


def read(
    algorithm: str,
    name: str,
    layer: nn.Module,
    tensors: Tensors,
    setup: Setup,
    choice: Choice | None = None,
) -> Adapter:
    """The module that these tensors hold; raises ValueError where they do not fit the layer."""
    if algorithm == "lora" and choice is not None and choice.algorithm == "dylora":
        # Its files are those of a plain LoRA: only the choice tells how they go on.
        algorithm = "dylora"
    within = {suffix: tensor for suffix, tensor in tensors.items() if suffix != SCALE}
    adapter = ALGORITHMS[algorithm].from_tensors(name, layer, within, setup, choice)
    if SCALE not in tensors:
        return adapter
    if algorithm not in WITH_DORA:
        raise ValueError(f"it has {SCALE}, which goes with {', '.join(sorted(WITH_DORA))}")
    return Dora.wrap(adapter, tensors)
