"""Reads what a .safetensors file says about itself, without reading its tensors. No torch.

A header is written by strangers: every number in it is checked against the file before it is used.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import ModelError, Problem

LONGEST_HEADER = 100_000_000
"""The format's own limit, in bytes."""
MOST_AXES = 16
DTYPE_BYTES = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U64": 8,
    "U32": 4,
    "U16": 2,
    "U8": 1,
    "BOOL": 1,
}
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
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            text = _header_bytes(file.read(8), size, path)
            body = file.read(text)
    except OSError as error:
        raise _broken(path, f"cannot be read: {error.strerror or error}") from error
    try:
        entries = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise _broken(path, "has a header that is not readable") from error
    if not isinstance(entries, dict):
        raise _broken(path, "has a header that is not a table of tensors")
    metadata = entries.pop("__metadata__", {})
    tensors = _tensors(entries, size - 8 - len(body), path)
    return Header(tensors, _texts(metadata))


def _header_bytes(start: bytes, size: int, path: Path) -> int:
    if start.startswith(b"GGUF"):
        raise _broken(path, "is a GGUF file, which cannot be trained", "Give a .safetensors file.")
    if start.startswith(b"version "):
        raise _broken(path, "is a Git LFS pointer, not the file itself", "Download the real file.")
    if start.startswith((b"<!DOCTYP", b"<html")):
        raise _broken(path, "is a web page, not a model", "Download the file again.")
    length = int.from_bytes(start, "little")
    if len(start) < 8 or length < 2 or length > min(size - 8, LONGEST_HEADER):
        raise _broken(path, "is not a whole .safetensors file", "Download or copy it again.")
    return length


def _tensors(entries: dict[str, Any], data_bytes: int, path: Path) -> dict[str, TensorInfo]:
    tensors: dict[str, TensorInfo] = {}
    used = last = 0
    for name, entry in entries.items():
        dtype = entry.get("dtype") if isinstance(entry, dict) else None
        if isinstance(dtype, str) and dtype not in DTYPE_BYTES:
            told = f"has numbers in a format that is not read here ({dtype[:20]!r})"
            raise _broken(path, told, "Use the fp16 or fp32 file of the model.")
        info, start, end = _tensor(entry)
        if info is None:
            raise _broken(path, f"is damaged: its header is wrong about the tensor {name[:80]!r}")
        tensors[name] = info
        used += end - start
        last = max(last, end)
    if used != data_bytes or last != data_bytes:
        told = "is cut off or damaged: its header speaks of "
        sizes = f"{last / 1e6:.1f} MB of tensors, the file has {data_bytes / 1e6:.1f} MB"
        raise _broken(path, told + sizes, "Download or copy it again.")
    return tensors


def _tensor(entry: Any) -> tuple[TensorInfo | None, int, int]:
    """The entry's tensor and place, or None where it contradicts itself."""
    if not isinstance(entry, dict):
        return None, 0, 0
    dtype, shape, place = (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        return None, 0, 0
    sides, ends = _whole_numbers(shape), _whole_numbers(place)
    if sides is None or len(sides) > MOST_AXES or ends is None or len(ends) != 2:
        return None, 0, 0
    info = TensorInfo(dtype, sides)
    if info.count * DTYPE_BYTES[dtype] != ends[1] - ends[0]:
        return None, 0, 0
    return info, ends[0], ends[1]


def _whole_numbers(value: Any) -> tuple[int, ...] | None:
    if not isinstance(value, list) or any(type(item) is not int or item < 0 for item in value):
        return None
    return tuple(value)


def _texts(metadata: Any) -> dict[str, str]:
    if not isinstance(metadata, dict):
        return {}
    return {key: value for key, value in metadata.items() if isinstance(value, str)}


def main_dtype(tensors: Iterable[TensorInfo]) -> str:
    """Name of the number format that holds most of the numbers: "fp16"."""
    counts: dict[str, int] = {}
    for info in tensors:
        counts[info.dtype] = counts.get(info.dtype, 0) + info.count
    if not counts:
        return ""
    best = max(counts, key=lambda dtype: counts[dtype])
    return DTYPE_NAMES.get(best, best.lower())


def _broken(path: Path, what: str, remedy: str = "") -> ModelError:
    return ModelError(
        Problem(f"The file {what}.", where=str(path), remedy=remedy, path="model.path")
    )
