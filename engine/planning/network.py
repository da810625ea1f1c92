"""How many numbers a network will hold, and its file's bytes, before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass

from engine.models.architecture import full_size
from engine.models.shapes import layer_shapes
from engine.networks.shapes import file_bytes, module_count, parameter_count, planned_tensors
from engine.planning.base import BaseSize
from engine.planning.rules import network_choice, trained_components
from engine.settings import Recipe


@dataclass(frozen=True, slots=True)
class NetworkSize:
    """A network's size."""

    modules: int
    parameters: int
    file_bytes: int


def network_size(recipe: Recipe, base: BaseSize) -> NetworkSize:
    """Size of the network of a filled recipe on a base; on the family's usual one if unknown."""
    trained = trained_components(recipe)
    layers = [
        layer
        for layer in layer_shapes(base.architecture or full_size(base.family))
        if layer.component in trained
    ]
    choice = network_choice(recipe.network)
    tensors = planned_tensors(layers, choice)
    return NetworkSize(
        modules=module_count(tensors),
        parameters=parameter_count(tensors, scalar=choice.scalar),
        file_bytes=file_bytes(tensors, recipe.save.precision),
    )
