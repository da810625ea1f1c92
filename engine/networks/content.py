"""What a network file holds: algorithm, ranks, alphas and targets, from its header alone. No torch."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.errors import NetworkFileError, Problem
from engine.networks.forms import forms_of
from engine.networks.headers import Header, read_header, read_scalars
from engine.networks.kinds import RANK_FROM, algorithm_of, foreign_kind
from engine.networks.layout_family import family_of_file
from engine.networks.layouts import (
    ALPHA,
    Found,
    Sorted,
    alpha_fault,
    faults,
    few,
    sort_out,
    unknown_module,
)
from engine.networks.told import NORM
from engine.networks.told import recipe_differences as recipe_differences

NO_KERNEL = frozenset({"oft_blocks", "lambda_layer"})
"""Tensors whose further axes are no kernel."""
WITHOUT_KERNEL = frozenset({"loha", "lokr", "diag-oft", "boft", "ia3"})
"""Algorithms whose tensors may not show a kernel; then the name tells."""
SPATIAL_NAME = re.compile(
    r".*_(conv|conv1|conv2|in_layers_2|out_layers_3|op)|lora_unet_(conv_in|conv_out)"
    r"|lora_unet_(input_blocks_0_0|out_2)"
)
"""Convolutions beyond one pixel, in the words of diffusers and of the original layout."""
ON_INPUT = "on_input"


@dataclass(frozen=True, slots=True)
class Module:
    """One module of a file."""

    name: str
    """As kohya's tools name it, in the style of blocks that the file has."""
    algorithm: str
    rank: int | None
    """None where no factor tells one: both factors of a LoKr full, a difference, a rotation."""
    alpha: float | None
    spatial: bool
    """Whether it is a convolution beyond one pixel."""
    forms: Mapping[str, frozenset[Any]] = field(default_factory=dict)
    """Other settings that its tensors tell, each with every value that makes these tensors."""

    @property
    def scale(self) -> float:
        """What a consumer multiplies by."""
        if self.rank is None or self.alpha is None:
            return 1.0
        return self.alpha / self.rank


@dataclass(frozen=True, slots=True)
class Content:
    """All that can be told without the weights."""

    header: Header
    foreign: Problem | None
    """What the file is, where it is none that can be trained on."""
    modules: tuple[Module, ...]
    family: str | None = None
    """Of the base models it is for: sd1, sd2, sdxl; None where nothing tells."""
    left_out: tuple[str, ...] = ()
    """What is of no module, by name, and why."""
    unknown: tuple[Problem, ...] = ()
    """Modules that make no known network."""
    sources: tuple[Found, ...] = ()
    """The modules with the places of their tensors, those unknown included."""

    @property
    def algorithms(self) -> tuple[str, ...]:
        """Algorithms by frequency."""
        counted = Counter(module.algorithm for module in self.modules)
        return tuple(name for name, _ in counted.most_common())

    @property
    def main(self) -> str | None:
        """The most frequent algorithm; norms go along with one and are none."""
        return next((name for name in self.algorithms if name != NORM), None)

    def component(self, prefix: str) -> int:
        """Modules whose name begins so."""
        return sum(module.name.startswith(prefix) for module in self.modules)


def read_content(path: Path) -> Content:
    """Look into a file; raises NetworkFileError where it is not readable at all.

    Modules that no algorithm knows are told, not refused.
    """
    header = read_header(path)
    foreign = foreign_kind(header.shapes)
    if foreign is not None:
        return Content(header, foreign, ())
    found = sort_out(header.shapes, header.metadata)
    alphas, flags = _alphas(header, found), _flags(header, found)
    modules = tuple(
        _module(module, algorithm, alphas[module.spelled], flags.get(module.spelled))
        for module in found.modules
        if (algorithm := algorithm_of(module.shapes)) is not None
    )
    unknown = [module for module in found.modules if algorithm_of(module.shapes) is None]
    family = family_of_file(found.modules, header.metadata)
    problems = tuple(few([unknown_module(module) for module in unknown]))
    return Content(
        header,
        None if modules else _nothing_known(problems),
        modules,
        family,
        found.left_out,
        problems,
        found.modules,
    )


def _nothing_known(unknown: tuple[Problem, ...]) -> Problem:
    return (
        unknown[0]
        if unknown
        else Problem(
            "This is no network file that is known; it cannot be trained on.",
            remedy="Give a LoRA or another network of the LyCORIS family.",
            path="network.weights",
        )
    )


def _alphas(header: Header, found: Sorted) -> dict[str, float | None]:
    """Alpha of each module; raises NetworkFileError where one cannot be."""
    keys = {
        module.spelled: module.tensors[ALPHA].key
        for module in found.modules
        if ALPHA in module.tensors
    }
    values = read_scalars(header, keys.values())
    problems: list[Problem] = []
    alphas: dict[str, float | None] = {}
    for module in found.modules:
        problems += faults(module)
        alpha = values.get(keys.get(module.spelled, ""), module.alpha)
        fault = None if alpha is None else alpha_fault(module, alpha)
        problems += [fault] if fault is not None else []
        alphas[module.spelled] = alpha
    if problems:
        raise NetworkFileError(*few(problems))
    return alphas


def _flags(header: Header, found: Sorted) -> dict[str, bool]:
    """Of each module that says so, whether inputs are scaled."""
    keys = {
        module.spelled: module.tensors[ON_INPUT].key
        for module in found.modules
        if ON_INPUT in module.tensors
    }
    values = read_scalars(header, keys.values())
    return {spelled: bool(values[key]) for spelled, key in keys.items() if key in values}


def _module(module: Found, algorithm: str, alpha: float | None, on_input: bool | None) -> Module:
    shapes = module.shapes
    rank = next((shapes[key][0] for key in RANK_FROM if shapes.get(key)), None)
    kernels = (shape[2:] for suffix, shape in shapes.items() if suffix not in NO_KERNEL)
    named = algorithm in WITHOUT_KERNEL and SPATIAL_NAME.fullmatch(module.name) is not None
    spatial = named or any(math.prod(kernel) > 1 for kernel in kernels)
    return Module(
        name=module.name,
        algorithm=algorithm,
        rank=rank or None,
        alpha=alpha,
        spatial=spatial,
        forms=forms_of(algorithm, shapes, spatial=spatial, on_input=on_input),
    )
