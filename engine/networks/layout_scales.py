"""Scales of a file in diffusers' layout: its tensors hold no alpha, its metadata may. No torch.

diffusers stores PEFT's LoraConfig as JSON under `lora_adapter_metadata`. Its patterns are regular
expressions by definition and module paths in practice; as a stranger's expression can run for
years, only plain paths are taken.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from engine.errors import NetworkFileError, Problem
from engine.inert import inert
from engine.networks.names import TEXT_ROOT

KEY = "lora_adapter_metadata"
META_CHARACTERS = frozenset("\\^$*+?{}[]()|")
LARGEST_ALPHA = 1e9


@dataclass(frozen=True, slots=True)
class PartScale:
    """PEFT's settings of one component."""

    alpha: float | None = None
    """None: as the rank, a scale of 1."""
    alphas: Mapping[str, tuple[int, float]] = field(default_factory=dict)
    """Turn and alpha by path or end of a path; the first turn wins, as in PEFT."""
    root: bool = False
    """alpha / sqrt(rank) instead of alpha / rank (Kalajdzievski 2023, arXiv:2312.03732)."""

    def alpha_of(self, path: str, rank: int) -> float:
        """Alpha that makes alpha / rank the scale."""
        ends = _ends(path.removeprefix(TEXT_ROOT))
        fitting = [self.alphas[end] for end in ends if end in self.alphas]
        alpha = min(fitting)[1] if fitting else self.alpha
        if alpha is None:
            return float(rank)
        return alpha * math.sqrt(rank) if self.root else alpha


def _ends(path: str) -> list[str]:
    """The path and all that is left of it when its first levels are cut."""
    levels = path.split(".")
    return [".".join(levels[start:]) for start in range(len(levels))]


def part_scales(metadata: Mapping[str, str], parts: frozenset[str]) -> dict[str, PartScale]:
    """Settings of each of the components; raises NetworkFileError where they cannot be told."""
    if KEY not in metadata:
        return dict.fromkeys(parts, PartScale())
    try:
        table = json.loads(metadata[KEY])
    except (ValueError, RecursionError) as error:
        raise _unreadable("they are no JSON") from error
    if not isinstance(table, dict):
        raise _unreadable("they are no table")
    return {part: _part_scale(table, part) for part in parts}


def _part_scale(table: Mapping[str, Any], part: str) -> PartScale:
    start = f"{part}."
    own = {key[len(start) :]: value for key, value in table.items() if key.startswith(start)}
    own = own or dict(table)  # a file of one component alone does not name it
    if own.get("lora_alpha") is None:
        return PartScale()
    pattern = own.get("alpha_pattern") or {}
    if not isinstance(pattern, dict):
        raise _unreadable("alpha_pattern is no table")
    alphas: dict[str, tuple[int, float]] = {}
    for turn, (key, value) in enumerate(pattern.items()):
        alphas.setdefault(_plain(key), (turn, _number(value, "alpha_pattern")))
    own_alpha = _number(own["lora_alpha"], "lora_alpha")
    return PartScale(own_alpha, alphas, own.get("use_rslora") is True)


def _number(value: Any, where: str) -> float:
    if (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and 0 <= value < LARGEST_ALPHA
    ):
        return float(value)
    raise _unreadable(f"{where} holds no number that an alpha can be")


def _plain(pattern: str) -> str:
    path = pattern.removeprefix("^").removesuffix("$").replace("\\.", ".")
    if META_CHARACTERS & set(path):
        raise _unreadable(f"{inert(pattern)} is no path of a module")
    return path.removeprefix(TEXT_ROOT)


def _unreadable(why: str) -> NetworkFileError:
    return NetworkFileError(
        Problem(
            f"The scales of the file cannot be read: {why}.",
            where=KEY,
            remedy="Save the file again with the program that made it.",
        )
    )
