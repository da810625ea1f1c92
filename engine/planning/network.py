"""What a network will be, before anything is loaded: size, file, who reads it, what does not fit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from engine.errors import Problem, RecipeError
from engine.models.shapes import layer_shapes
from engine.networks.choice import Choice
from engine.networks.consumers import Consumer, Verdict, attention_of, parts_of, readers
from engine.networks.names import Place
from engine.networks.option_checks import check_options
from engine.networks.presets import LayerLike
from engine.networks.shapes import (
    Shape,
    file_bytes,
    names_of,
    parameter_count,
    planned_layers,
    tensors_of,
    with_shapes,
)
from engine.planning.base import BaseSize
from engine.planning.rules import network_choice, trained_components
from engine.planning.unread import unread_notices
from engine.settings import Recipe


@dataclass(frozen=True, slots=True)
class NetworkSize:
    """A network's size, and what else its shapes tell."""

    modules: int
    parameters: int
    file_bytes: int
    readers: dict[Consumer, Verdict]
    """What each program does with the file."""
    problems: tuple[Problem, ...] = ()
    """Options that no module can follow."""
    notices: tuple[str, ...] = ()
    """Options that only some modules follow, and modules that learn nothing."""


def network_size(recipe: Recipe, base: BaseSize) -> NetworkSize:
    """The network of a filled recipe on a base; on the family's usual one if unknown.

    Raises RecipeError with every layer and every override that the recipe does not fit.
    """
    trained = trained_components(recipe)
    layers = layer_shapes(base.sizes)
    names = names_of(layers)
    choice = network_choice(recipe.network)
    chosen = planned_layers([layer for layer in layers if layer.component in trained], choice)
    planned = with_shapes(chosen)
    tensors = tensors_of(planned, names)
    problems: tuple[Problem, ...] = ()
    notices: list[str] = []
    try:
        notices = check_options(planned, choice)
    except RecipeError as error:
        problems = error.problems
    return NetworkSize(
        modules=len(planned),
        parameters=parameter_count(chosen),
        file_bytes=file_bytes(tensors, recipe.save.precision),
        readers=planned_readers(tensors, chosen, names, base.family),
        problems=problems,
        notices=(
            *notices,
            *unread_notices(
                (layer for layer, _ in chosen), base.sizes, recipe.model.clip_skip or 1
            ),
        ),
    )


def planned_readers(
    tensors: Mapping[str, Shape],
    planned: Iterable[tuple[LayerLike, Choice]],
    names: Mapping[Place, str],
    family: str,
) -> dict[Consumer, Verdict]:
    """What each program does with a planned network, from its tensors' names and shapes.

    `names` are those of all layers of the base.
    """
    modules: dict[str, dict[str, Shape]] = {}
    for key, shape in tensors.items():
        name, _, suffix = key.partition(".")
        modules.setdefault(name, {})[suffix] = shape
    on_input = {names[layer.component, layer.path] for layer, own in planned if own.train_on_input}
    return readers(parts_of(modules, on_input=on_input), attention_of(modules, family))
