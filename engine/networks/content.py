"""What a network file holds: algorithm, ranks, alphas and targets, from its header alone. No torch."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import Problem
from engine.networks.headers import Header, read_header, read_scalars
from engine.networks.kinds import RANK_FROM, algorithm_of, foreign_kind
from engine.networks.names import split_key


@dataclass(frozen=True, slots=True)
class Module:
    """One module of a file."""

    name: str
    algorithm: str
    rank: int | None
    """None where both factors of a LoKr are full."""
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

    @property
    def algorithms(self) -> tuple[str, ...]:
        """Algorithms by frequency."""
        counted = Counter(module.algorithm for module in self.modules)
        return tuple(name for name, _ in counted.most_common())

    def component(self, prefix: str) -> int:
        """Modules whose name begins so."""
        return sum(module.name.startswith(prefix) for module in self.modules)


def read_content(path: Path) -> Content:
    """Look into a file; raises NetworkFileError where it is not readable at all."""
    header = read_header(path)
    groups: dict[str, dict[str, tuple[int, ...]]] = {}
    for key, shape in header.shapes.items():
        name, suffix = split_key(key)
        groups.setdefault(name, {})[suffix] = shape
    alphas = read_scalars(header, lambda key: key.endswith(".alpha"))
    modules = tuple(
        _module(name, algorithm, group, alphas.get(f"{name}.alpha"))
        for name, group in groups.items()
        if (algorithm := algorithm_of(group)) is not None
    )
    return Content(header, foreign_kind(header.shapes, header.metadata), modules)


def _module(
    name: str, algorithm: str, group: Mapping[str, tuple[int, ...]], alpha: float | None
) -> Module:
    rank = next((group[key][0] for key in RANK_FROM if group.get(key)), None)
    kernels = (shape[2:] for shape in group.values())
    return Module(
        name=name,
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
