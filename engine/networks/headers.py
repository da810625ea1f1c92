"""Reads what a network file says of itself, without its weights. No torch."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from engine.errors import NetworkFileError, Problem
from engine.inert import inert
from engine.safetensors_header import DTYPE_BYTES, Entry, HeaderFault, read_raw

LONGEST_PATH = 4096
SCALARS = {
    "F64": "<d",
    "F32": "<f",
    "F16": "<e",
    "I64": "<q",
    "I32": "<i",
    "I16": "<h",
    "I8": "<b",
    "U8": "<B",
}


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
        raw = read_raw(path)
    except HeaderFault as fault:
        raise broken(path, fault.what, fault.remedy) from fault
    return Header(path, raw.bytes, raw.entries, raw.metadata)


def read_metadata(path: Path) -> dict[str, str]:
    """Metadata of a network file."""
    return read_header(path).metadata


def read_scalars(header: Header, names: Iterable[str]) -> dict[str, float]:
    """Values of those of the named tensors that have one element (alphas)."""
    found: dict[str, float] = {}
    with header.path.open("rb") as file:
        for name in names:
            entry = header.entries[name]
            if math.prod(entry.shape) == 1:
                file.seek(entry.start)
                value = _scalar(entry.dtype, file.read(entry.end - entry.start))
                if value is not None:
                    found[name] = value
    return found


def _scalar(dtype: str, raw: bytes) -> float | None:
    if len(raw) != DTYPE_BYTES[dtype]:
        return None
    if dtype == "BF16":
        return float(struct.unpack("<f", b"\0\0" + raw)[0])
    return float(struct.unpack(SCALARS[dtype], raw)[0]) if dtype in SCALARS else None


def broken(path: Path, what: str, remedy: str = "") -> NetworkFileError:
    """A file that is not what it should be."""
    where = inert(str(path), LONGEST_PATH)
    return NetworkFileError(
        Problem(f"The file {what}.", where=where, remedy=remedy or "Give another file.")
    )
