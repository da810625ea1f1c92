"""Settings for some of the layers: an ordered list of patterns, the first that matches wins. No torch."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from engine.errors import Problem, RecipeError
from engine.networks.choice import Choice, Rank, spans
from engine.networks.override_checks import APPLIES, OPTIONS, PATH, SIZES, mistakes
from engine.networks.presets import (
    UNET,
    Layer,
    LayerLike,
    Preset,
    distinct,
    nearest_layer,
    preset_of,
    setting_of,
    targeted,
)

WHOLE = "The pattern must match the whole path, or be the name of a class."


@dataclass(frozen=True, slots=True)
class Override:
    """What is different in the layers of a pattern; what is not given stays as in the network."""

    pattern: str
    """A regular expression that matches a whole path, or the name of a class around the layers."""
    exclude: bool = False
    algorithm: str | None = None
    rank: Rank | None = None
    alpha: float | None = None
    conv_rank: Rank | None = None
    """0 leaves out the convolutions beyond one pixel."""
    conv_alpha: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Options of the algorithm, by their names in `Choice`."""

    def __post_init__(self) -> None:
        # A copy of its own: what is shared could change under a network.
        object.__setattr__(self, "options", dict(self.options))

    def matches(self, layer: LayerLike) -> bool:
        """Whether a layer is meant."""
        if self.pattern in layer.classes:
            return True
        return re.fullmatch(self.pattern, layer.path) is not None

    def changes(self) -> dict[str, Any]:
        """Sizes and options that are given."""
        sizes = {name: getattr(self, name) for name in SIZES}
        return {name: value for name, value in sizes.items() if value is not None} | dict(
            self.options
        )

    def applied(self, choice: Choice) -> Choice:
        """The choice for a layer that matches.

        Options that another algorithm does not know go back to their defaults.
        """
        algorithm = self.algorithm or choice.algorithm
        foreign = OPTIONS - APPLIES[algorithm] if algorithm != choice.algorithm else frozenset()
        reset = {name: Choice.__dataclass_fields__[name].default for name in foreign}
        values: dict[str, Any] = reset | dict(self.options) | self._sizes(choice)
        return replace(choice, algorithm=algorithm, **values)

    def _sizes(self, choice: Choice) -> dict[str, Any]:
        """Ranks and alphas: convolutions follow, and a new rank alone keeps alpha / rank."""
        rank = choice.rank if self.rank is None else self.rank
        alpha = self.alpha
        if alpha is None:
            alpha = _in_proportion(choice.alpha, choice.rank, rank)
        conv_rank, conv_alpha = choice.conv_rank, choice.conv_alpha
        if self.conv_rank is not None:
            conv_rank = self.conv_rank
        elif self.rank is not None and conv_rank != 0:
            conv_rank = None
        if self.conv_alpha is not None:
            conv_alpha = self.conv_alpha
        elif self.alpha is not None:
            conv_alpha = None
        elif (choice.conv_rank, choice.conv_alpha) != (conv_rank, None):
            old = choice.alpha if conv_alpha is None else conv_alpha
            new = rank if conv_rank is None else conv_rank
            conv_alpha = _in_proportion(old, choice.conv_rank or choice.rank, new)
        return {"rank": rank, "alpha": alpha, "conv_rank": conv_rank, "conv_alpha": conv_alpha}


def _in_proportion(alpha: float, old: Rank, new: Rank) -> float:
    """Alpha that keeps alpha / rank, where both ranks are numbers."""
    if old == new or old == "full" or new == "full":
        return alpha
    return alpha / old * new


def resolve(layers: Iterable[Layer], choice: Choice) -> tuple[tuple[Layer, Choice], ...]:
    """The layers that are trained, in their own order, each with the choice for it.

    Norms come with the algorithm "norm", where they are trained at all. A layer that no override
    matches has the very object `choice`. Raises RecipeError with everything that is wrong.
    """
    every = distinct(layers)
    preset = preset_of(choice.targets)
    problems = [one for override in choice.overrides for one in mistakes(override, choice)]
    problems += [
        _in_preset(one, choice)
        for override in preset.overrides
        for one in mistakes(override, choice)
    ]
    try:
        chosen = [
            layer for layer in targeted(every, preset, choice.targets) if _wanted(layer, choice)
        ]
    except RecipeError as error:
        raise RecipeError(*error.problems, *problems) from None
    if not problems:
        problems = _idle(choice.overrides, every, chosen, choice.targets)
        to_find = _to_find(preset, every)
        problems += [
            _in_preset(one, choice) for one in _idle(to_find, every, chosen, choice.targets)
        ]
    if problems:
        raise RecipeError(*problems)
    settled = _settled(chosen, choice, (*choice.overrides, *_of_preset(preset, choice)))
    problems = _contradictions(settled, PATH if choice.overrides else setting_of(preset))
    if not settled:
        what = "The overrides leave nothing to train."
        if choice.algorithm == "norm":
            what = f"There is no norm to train in the layers of {choice.targets}."
        problems = [Problem(what, path=PATH if choice.overrides else setting_of(preset))]
    if problems:
        raise RecipeError(*problems)
    return settled


def _wanted(layer: LayerLike, choice: Choice) -> bool:
    """Norms only where they are asked for; nothing else where only they are."""
    if layer.kind == "norm":
        return choice.train_norm or choice.algorithm == "norm"
    return choice.algorithm != "norm"


def _settled(
    layers: Iterable[Layer], choice: Choice, overrides: tuple[Override, ...]
) -> tuple[tuple[Layer, Choice], ...]:
    """The first override that matches decides; equal layers share one choice."""
    norm = replace(choice, algorithm="norm") if choice.algorithm != "norm" else choice
    choices = {place: override.applied(choice) for place, override in enumerate(overrides)}
    settled = []
    for layer in layers:
        place = next((at for at, one in enumerate(overrides) if one.matches(layer)), None)
        if place is not None and overrides[place].exclude:
            continue
        own = choice if place is None else choices[place]
        if layer.kind == "norm":
            own = norm
        elif spans(layer.kernel) and own.conv_rank == 0:
            continue
        settled.append((layer, own))
    return tuple(settled)


def _of_preset(preset: Preset, choice: Choice) -> tuple[Override, ...]:
    """What a preset says itself comes after the network's own overrides."""
    if choice.algorithm != "ia3":
        return preset.overrides
    on_input = (Override(name, options={"train_on_input": True}) for name in preset.on_input)
    return (*preset.overrides, *on_input)


def _to_find(preset: Preset, layers: Collection[LayerLike]) -> tuple[Override, ...]:
    """A preset's overrides, unless a part that it aims at is not trained here at all."""
    kinds = {layer.component == UNET for layer in layers}
    aimed = {kind for kind, aim in ((True, preset.unet), (False, preset.text)) if aim}
    return preset.overrides if aimed <= kinds else ()


def _concerns(override: Override, layer: LayerLike) -> bool:
    """Whether an override can change anything in a layer: norms can only be left out."""
    return (override.exclude or layer.kind != "norm") and override.matches(layer)


def _in_preset(problem: Problem, choice: Choice) -> Problem:
    """A mistake in an override that stands in the preset's file."""
    where = ", ".join(filter(None, (choice.targets, problem.where)))
    return replace(problem, where=where, path="network.targets_file")


def _idle(
    overrides: Iterable[Override],
    every: Collection[LayerLike],
    chosen: Collection[LayerLike],
    targets: str,
) -> list[Problem]:
    """Words for overrides that match none of the trained layers."""
    problems = []
    for override in overrides:
        if any(_concerns(override, layer) for layer in chosen):
            continue
        outside = next((layer.path for layer in every if override.matches(layer)), None)
        hint = (
            f"It matches layers that are not trained, such as {outside}."
            if outside is not None
            else f"{nearest_layer(override.pattern, chosen)} {WHOLE}"
        )
        problems.append(
            Problem(
                f"The override '{override.pattern}' matches no layer of {targets}.",
                path=PATH,
                remedy=hint,
            )
        )
    return problems


def _contradictions(settled: Iterable[tuple[LayerLike, Choice]], path: str) -> list[Problem]:
    """DoRA is on all layers of a component or on none, and on one axis: consumers ask for that."""
    axes: dict[str, dict[str, str]] = {}
    for layer, own in settled:
        if layer.kind != "norm":
            axis = own.dora if "dora" in APPLIES[own.algorithm] else "off"
            axes.setdefault(layer.component, {}).setdefault(axis, layer.path)
    return [
        Problem(
            f"DoRA must be the same in all layers of {component}: "
            + ", ".join(f"{axis} in {path}" for axis, path in found.items())
            + ".",
            path=path,
            remedy="Set dora alike everywhere, or leave the other layers out.",
        )
        for component, found in axes.items()
        if len(found) > 1
    ]
