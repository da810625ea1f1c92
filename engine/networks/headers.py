"""Reads what a network file says of itself, without its weights. No torch.

A header is written by strangers: every number in it is checked before it is used.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import NetworkFileError, Problem
from engine.networks.names import inert

LONGEST_HEADER = 100_000_000
"""The format's own limit, in bytes."""
MOST_AXES = 8
DTYPE_BYTES = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U64": 8,
    "U32": 4,
    "U16": 2,
    "U8": 1,
    "BOOL": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
}


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor as the header tells it; checked to lie inside the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    """Place in the file, in bytes."""
    end: int


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says of itself."""

    path: Path
    bytes: int
    entries: dict[str, Entry]
    metadata: dict[str, str]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Tensor name to shape."""
        return {name: entry.shape for name, entry in self.entries.items()}


def read_header(path: Path) -> Header:
    """Read and check a header; raises NetworkFileError in words."""
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            first = file.read(8)
            if size < 8 or len(first) < 8:
                raise broken(path, "is too short for a .safetensors file")
            length = int.from_bytes(first, "little")
            if not 2 <= length <= min(LONGEST_HEADER, size - 8):
                raise broken(path, "is no .safetensors file, or it is cut off")
            body = file.read(length)
    except OSError as error:
        raise broken(path, f"cannot be read: {error.strerror or error}") from error
    try:
        table = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise broken(path, "has a header that is not readable") from error
    if not isinstance(table, dict):
        raise broken(path, "has a header that is not a table of tensors")
    metadata = table.pop("__metadata__", {})
    if not isinstance(metadata, dict):
        metadata = {}
    start = 8 + length
    entries = {name: _entry(path, name, value, start, size) for name, value in table.items()}
    return Header(path, size, entries, {str(key): str(text) for key, text in metadata.items()})


def _entry(path: Path, name: str, value: Any, start: int, size: int) -> Entry:
    where = inert(name)
    if not isinstance(value, dict):
        raise broken(path, f"tells nothing about the tensor {where}")
    dtype, shape, offsets = (value.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        raise broken(path, f"holds the tensor {where} in a number format that is not known")
    sides, places = _counts(shape), _counts(offsets)
    if sides is None or len(sides) > MOST_AXES or places is None or len(places) != 2:
        raise broken(path, f"tells a shape or place of {where} that cannot be")
    begin, end = places
    if end - begin != math.prod(sides) * DTYPE_BYTES[dtype] or start + end > size:
        raise broken(path, f"says that {where} is where it is not; it is cut off or damaged")
    return Entry(dtype, sides, start + begin, start + end)


def _counts(value: Any) -> tuple[int, ...] | None:
    if isinstance(value, list) and all(type(item) is int and item >= 0 for item in value):
        return tuple(value)
    return None


def read_metadata(path: Path) -> dict[str, str]:
    """Metadata of a network file."""
    return read_header(path).metadata


def read_scalars(header: Header, wanted: Callable[[str], bool]) -> dict[str, float]:
    """Values of the one-element tensors whose name is wanted (alphas)."""
    found: dict[str, float] = {}
    with header.path.open("rb") as file:
        for name, entry in header.entries.items():
            if math.prod(entry.shape) == 1 and wanted(name):
                file.seek(entry.start)
                value = _scalar(entry.dtype, file.read(entry.end - entry.start))
                if value is not None:
                    found[name] = value
    return found


def _scalar(dtype: str, raw: bytes) -> float | None:
    formats = {"F64": "<d", "F32": "<f", "F16": "<e", "I64": "<q", "I32": "<i", "I16": "<h"}
    if dtype == "BF16":
        return float(struct.unpack("<f", b"\0\0" + raw)[0])
    if dtype not in formats or len(raw) != DTYPE_BYTES[dtype]:
        return None
    return float(struct.unpack(formats[dtype], raw)[0])


def broken(path: Path, what: str) -> NetworkFileError:
    """A file that is not what it should be."""
    return NetworkFileError(
        Problem(f"The file {what}.", where=str(path), remedy="Give another file.")
    )
