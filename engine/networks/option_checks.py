"""Options that a network's modules cannot follow, from planned shapes. No torch.

Before the start the plan asks this, and `build` asks it again of the real layers.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from engine.errors import Problem, RecipeError
from engine.networks.choice import Choice
from engine.networks.override_checks import PATH
from engine.networks.presets import LayerLike
from engine.networks.shapes import Shapes

MOST_NAMED = 3
Planned = tuple[LayerLike, Choice, Shapes]
"""A layer, what was chosen for it, and the shapes that this comes to."""


def check_options(planned: Collection[Planned], choice: Choice) -> list[str]:
    """Sentences about options that only some modules follow.

    Raises RecipeError with every option that cannot be meant so.
    """
    whole = [(layer, own) for layer, own, shapes in planned if _both_whole(shapes)]
    problems = _scale_problems(whole, choice) + _dropout_problems(whole, planned, choice)
    if problems:
        raise RecipeError(*problems)
    return _rank_notes(whole, choice) + _split_notes(planned)


def _scale_problems(whole: Sequence[tuple[LayerLike, Choice]], choice: Choice) -> list[Problem]:
    paths = [layer.path for layer, own in whole if own.rs_lora]
    if not paths:
        return []
    return [
        Problem(
            f"Where both factors are full the scale is 1: {_modules(paths)}.",
            where=_named(paths),
            path="network.rs_lora" if choice.rs_lora else PATH,
            remedy="Switch rs_lora off, or choose a smaller rank.",
        )
    ]


def _dropout_problems(
    whole: Sequence[object], planned: Collection[Planned], choice: Choice
) -> list[Problem]:
    if choice.dropouts.rank == 0 or not whole or len(whole) < len(planned):
        return []
    return [
        Problem(
            "There is no rank to drop: both factors are full in every module.",
            path="network.rank_dropout",
            remedy="Set it to 0, or choose a smaller rank.",
        )
    ]


def _rank_notes(whole: Sequence[tuple[LayerLike, Choice]], choice: Choice) -> list[str]:
    """Modules without a rank to drop, or with one that is too large to limit anything."""
    if whole and choice.dropouts.rank > 0:
        paths = [layer.path for layer, _ in whole]
        return [
            f"Rank dropout does not apply to {_modules(paths)}, both factors are full:"
            f" {_named(paths, 1)}."
        ]
    paths = [layer.path for layer, own in whole if own.rank_of(layer.kernel) != "full"]
    if not paths:
        return []
    return [
        f"The rank no longer limits {_modules(paths)}, both factors are full: {_named(paths, 1)}."
    ]


def _split_notes(planned: Collection[Planned]) -> list[str]:
    """Splitting both factors of a LoKr is said to do nothing where it does nothing anywhere."""
    asked = [shapes for _, own, shapes in planned if own.decompose_both and _is_lokr(shapes)]
    if not asked or any("lokr_w1_a" in shapes for shapes in asked):
        return []
    return [
        "Splitting both factors has no effect: the rank is at least half of the first factor's"
        " larger side in every module, so that this factor stays whole."
    ]


def _is_lokr(shapes: Shapes) -> bool:
    return "lokr_w1" in shapes or "lokr_w1_a" in shapes


def _both_whole(shapes: Shapes) -> bool:
    return "lokr_w1" in shapes and "lokr_w2" in shapes


def _modules(paths: Sequence[str]) -> str:
    return f"{len(paths)} module{'' if len(paths) == 1 else 's'}"


def _named(paths: Sequence[str], most: int = MOST_NAMED) -> str:
    more = f" and {len(paths) - most} more" if len(paths) > most else ""
    return ", ".join(paths[:most]) + more
