"""What a network file holds: algorithm, ranks, alphas and targets, from its header alone. No torch."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import NetworkFileError, Problem
from engine.networks.headers import Header, read_header, read_scalars
from engine.networks.kinds import RANK_FROM, algorithm_of, foreign_kind
from engine.networks.layout_family import family_of_file, untrained_family
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

NO_KERNEL = frozenset({"oft_blocks", "lambda_layer"})
"""Tensors whose further axes are no kernel."""


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
    alphas = _alphas(header, found)
    modules = tuple(
        _module(module, algorithm, alphas[module.spelled])
        for module in found.modules
        if (algorithm := algorithm_of(module.shapes)) is not None
    )
    unknown = [module for module in found.modules if algorithm_of(module.shapes) is None]
    family = family_of_file(found.modules, header.metadata)
    problems = tuple(few([unknown_module(module) for module in unknown]))
    return Content(
        header,
        untrained_family(family) or (None if modules else _nothing_known(problems)),
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


def _module(module: Found, algorithm: str, alpha: float | None) -> Module:
    shapes = module.shapes
    rank = next((shapes[key][0] for key in RANK_FROM if shapes.get(key)), None)
    kernels = (shape[2:] for suffix, shape in shapes.items() if suffix not in NO_KERNEL)
    return Module(
        name=module.name,
        algorithm=algorithm,
        rank=rank or None,
        alpha=alpha,
        spatial=any(math.prod(kernel) > 1 for kernel in kernels),
    )


def recipe_differences(content: Content, typed: Mapping[str, Any]) -> list[Problem]:
    """Typed network answers that the file contradicts, each with the file's value as remedy.

    `typed` holds what the user gave of algorithm, rank and alpha; what is not in it is not compared.
    """
    own = [module for module in content.modules if not module.spatial] or list(content.modules)
    ranks = {module.rank for module in own if module.rank is not None}
    alphas = {
        module.alpha for module in own if module.alpha is not None and module.rank is not None
    }
    of_file: dict[str, set[Any]] = {"algorithm": set(content.algorithms)}
    of_file["rank"] = set(ranks) if ranks else {"full"}
    of_file["alpha"] = set(alphas)
    problems = []
    for key, values in of_file.items():
        value = typed.get(key)
        value = "lora" if value == "locon" else value
        if value is None or not values or value in values:
            continue
        if key == "alpha" and any(abs(value - other) <= 1e-4 * abs(other) for other in values):
            continue
        listed = " or ".join(str(item) for item in sorted(values, key=str))
        problems.append(
            Problem(
                f"The file has {key} {listed}, the recipe {value}.",
                where=str(content.header.path),
                path=f"network.{key}",
                remedy=f"Set network.{key} to {listed}, or leave it out.",
            )
        )
    return problems
