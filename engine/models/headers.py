"""Number formats and shapes of a base model's tensors, from its header alone. No torch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from engine.errors import ModelError, Problem
from engine.inert import inert
from engine.safetensors_header import HeaderFault, read_raw

LONGEST_PATH = 4096
DTYPE_NAMES = {"F64": "fp64", "F32": "fp32", "F16": "fp16", "BF16": "bf16"}


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Number format and shape of one tensor, as the header tells them."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def count(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


Tensors = Mapping[str, TensorInfo]


@dataclass(frozen=True, slots=True)
class Header:
    """What one or several .safetensors files say of themselves."""

    tensors: dict[str, TensorInfo]
    metadata: dict[str, str]


def read_header(path: Path) -> Header:
    """Read and check the header of a .safetensors file; raises ModelError in words."""
    try:
        raw = read_raw(path)
    except HeaderFault as fault:
        where = inert(str(path), LONGEST_PATH)
        problem = Problem(
            f"The file {fault.what}.", where=where, remedy=fault.remedy, path="model.path"
        )
        raise ModelError(problem) from fault
    infos = {name: TensorInfo(entry.dtype, entry.shape) for name, entry in raw.entries.items()}
    return Header(infos, raw.metadata)


def main_dtype(tensors: Iterable[TensorInfo]) -> str:
    """Name of the number format that holds most of the numbers: "fp16"."""
    counts: dict[str, int] = {}
    for info in tensors:
        counts[info.dtype] = counts.get(info.dtype, 0) + info.count
    if not counts:
        return ""
    best = max(counts, key=lambda dtype: counts[dtype])
    return DTYPE_NAMES.get(best, best.lower())
