"""What magnitudes of a DoRA ask of a whole file. No torch."""

from __future__ import annotations

from collections.abc import Mapping

from engine.errors import Problem
from engine.networks.kinds import algorithm_of
from engine.networks.shapes import WITH_DORA

SCALE = "dora_scale"
NAMED = 3
"""Modules that a message names before it counts the rest."""
ModuleShapes = Mapping[str, tuple[int, ...]]


def mixed_dora(components: Mapping[str, Mapping[str, ModuleShapes]]) -> list[Problem]:
    """Components with magnitudes on some modules only, or on both axes.

    Takes, for each component and module name, tensor suffix to shape. Modules of algorithms that have
    no magnitudes do not count.
    """
    problems = []
    for component, modules in components.items():
        able = {
            name: shapes for name, shapes in modules.items() if algorithm_of(shapes) in WITH_DORA
        }
        without = [name for name, shapes in able.items() if SCALE not in shapes]
        if without and len(without) < len(able):
            problems.append(
                Problem(
                    f"{len(without)} of {len(able)} modules of {component} have no magnitudes; "
                    "a DoRA has them on all or none.",
                    where=_named(without),
                )
            )
        by_input = [name for name, shapes in able.items() if _axis(shapes) == "input"]
        by_output = [name for name, shapes in able.items() if _axis(shapes) == "output"]
        if by_input and by_output:
            fewer = min(by_input, by_output, key=len)
            problems.append(
                Problem(
                    f"Magnitudes of {component} belong to inputs in {len(by_input)} modules and "
                    f"to outputs in {len(by_output)}; a DoRA has one axis.",
                    where=_named(fewer),
                )
            )
    return problems


def _axis(shapes: ModuleShapes) -> str | None:
    """As far as the shape tells: a single magnitude, and one of a list, belong to either axis."""
    shape = shapes.get(SCALE, ())
    if len(shape) < 2 or shape[0] == shape[1]:
        return None
    return "input" if shape[0] == 1 else "output"


def _named(names: list[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")
