"""Which settings make a module's shapes: what a file tells of the run that wrote it. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from engine.networks.dora_rules import SCALE
from engine.networks.factors import butterfly_size, factorization
from engine.networks.shapes import WITH_DORA

Shapes = Mapping[str, tuple[int, ...]]
Forms = dict[str, frozenset[Any]]
"""Setting to every value of it that makes the shapes; a setting that they do not tell is not there."""

CORES = ("lora_mid.weight", "hada_t1", "lokr_t2")
LARGEST_RANK = 1024
LARGEST_FACTOR = 64
KERNEL_WEIGHTS = 9
"""Of a convolution beyond one pixel, where no shape tells: all of these models have 3 x 3."""


def forms_of(algorithm: str, shapes: Shapes, *, spatial: bool, on_input: bool | None) -> Forms:
    """What a module's tensors tell, beside its rank and alpha."""
    try:
        forms = _forms(algorithm, shapes, spatial=spatial)
    except IndexError:
        return {}  # axes are missing: whoever reads the tensors says so
    if algorithm == "ia3" and on_input is not None:
        forms["train_on_input"] = frozenset({on_input})
    return {key: values for key, values in forms.items() if values}


def _forms(algorithm: str, shapes: Shapes, *, spatial: bool) -> Forms:
    forms: Forms = {}
    if algorithm in WITH_DORA:
        forms["dora"] = _axes(shapes)
        # A whole half needs no core, whatever was chosen.
        if spatial and "lokr_w2" not in shapes:
            forms["tucker"] = frozenset({any(core in shapes for core in CORES)})
    if algorithm == "lokr":
        forms |= _kronecker(shapes, spatial=spatial)
    if algorithm in ("diag-oft", "boft"):
        forms["rescaled"] = frozenset({"rescale" in shapes})
        forms["rank"] = _limits(algorithm, shapes["oft_blocks"])
    return forms


def _axes(shapes: Shapes) -> frozenset[str]:
    """The axis of a DoRA's magnitudes; a single one may be of either."""
    if SCALE not in shapes:
        return frozenset({"off"})
    rows, columns = (*shapes[SCALE], 1, 1)[:2]
    fits = {"input": rows == 1, "output": columns == 1}
    return frozenset(axis for axis, fit in fits.items() if fit)


def _kronecker(shapes: Shapes, *, spatial: bool) -> Forms:
    left = shapes.get("lokr_w1") or (shapes["lokr_w1_a"][0], shapes["lokr_w1_b"][-1])
    right, rank = _right_half(shapes, spatial=spatial)
    forms: Forms = {"factor": _factors(left, right)}
    if left[0] != right[0]:
        forms["unbalanced"] = frozenset({left[0] > right[0]})
    if "lokr_w1_a" in shapes:
        forms["decompose_both"] = frozenset({True})
    elif rank is not None and rank < max(left) / 2:
        forms["decompose_both"] = frozenset({False})
    if spatial and rank is None:
        forms["conv_rank"] = frozenset(range((max(right) + 1) // 2, LARGEST_RANK + 1))
    return forms


def _right_half(shapes: Shapes, *, spatial: bool) -> tuple[tuple[int, int], int | None]:
    """Outputs and inputs of the second half, and its rank where it has one."""
    if "lokr_w2" in shapes:
        out, in_ = (*shapes["lokr_w2"], 1)[:2]
        return (out, in_), None
    outer, inner = shapes["lokr_w2_a"], shapes["lokr_w2_b"]
    if "lokr_t2" in shapes:
        return (outer[-1], inner[-1]), inner[0]
    return (outer[0], inner[-1] // (KERNEL_WEIGHTS if spatial else 1)), inner[0]


@lru_cache(maxsize=1024)
def _factors(left: tuple[int, ...], right: tuple[int, ...]) -> frozenset[int]:
    """Factors that split a layer into these halves, whichever of them has more outputs."""
    out, in_ = left[0] * right[0], left[1] * right[1]
    halves = (min(left[0], right[0]), left[1])
    tried = (-1, *range(1, LARGEST_FACTOR + 1))
    return frozenset(
        factor
        for factor in tried
        if (factorization(out, factor)[0], factorization(in_, factor)[0]) == halves
    )


@lru_cache(maxsize=1024)
def _limits(algorithm: str, shape: tuple[int, ...]) -> frozenset[int]:
    """Largest blocks that can be asked for to get blocks of this shape."""
    if len(shape) < 3:
        return frozenset()
    size, out = shape[-1], math.prod(shape[-3:-1])
    tried = range(1, LARGEST_RANK + 1)
    if algorithm == "boft":
        return frozenset(limit for limit in tried if butterfly_size(out, limit) == size)
    return frozenset(limit for limit in tried if factorization(out, limit)[0] == size)
