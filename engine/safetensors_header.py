"""Reads what a .safetensors file says about itself, without reading its tensors. No torch.

A header is written by strangers: every number in it is checked against the file before it is used.
Whoever reads one turns `HeaderFault` into an error of its own kind.
"""

from __future__ import annotations

import json
import math
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.inert import inert

LONGEST_HEADER = 32_000_000
"""In bytes. The format allows 100 MB, real ones stay below 10; parsed, it takes 20 times as much."""
MOST_AXES = 16
LARGEST_SIDE = 1 << 48
"""Of an axis: a tensor without elements may claim any side, and torch cannot count further."""
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


class HeaderFault(Exception):
    """Why a file cannot be believed: "is cut off", to be read after "The file", and what to do."""

    def __init__(self, what: str, remedy: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.remedy = remedy


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor as the header tells it; checked to lie inside the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    """Place in the file, in bytes."""
    end: int


@dataclass(frozen=True, slots=True)
class RawHeader:
    """What one file says of itself; its tensors fill the file without gap or overlap."""

    bytes: int
    entries: dict[str, Entry]
    metadata: dict[str, str]


def read_raw(path: Path) -> RawHeader:
    """Read and check the header of a .safetensors file; raises HeaderFault in words."""
    try:
        # Asked before opening: the opening of a pipe would wait for a writer.
        if not stat.S_ISREG(path.stat().st_mode):
            raise HeaderFault("cannot be read: it is no regular file")
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            body = file.read(_length(file.read(8), size))
    except (OSError, ValueError) as error:
        told = error.strerror if isinstance(error, OSError) else None
        raise HeaderFault(f"cannot be read: {told or error}") from error
    table = _table(body)
    metadata = table.pop("__metadata__", {})
    start = 8 + len(body)
    entries = {name: _entry(name, value, start) for name, value in table.items()}
    _check_places(entries, start, size)
    return RawHeader(size, entries, _texts(metadata))


def _length(first: bytes, size: int) -> int:
    if first.startswith(b"GGUF"):
        raise HeaderFault("is a GGUF file, which cannot be trained", "Give a .safetensors file.")
    if first.startswith(b"version "):
        raise HeaderFault("is a Git LFS pointer, not the file itself", "Download the real file.")
    if first.startswith((b"<!DOCTYP", b"<html")):
        raise HeaderFault("is a web page, not a model", "Download the file again.")
    length = int.from_bytes(first, "little")
    if len(first) < 8 or not 2 <= length <= min(size - 8, LONGEST_HEADER):
        raise HeaderFault("is not a whole .safetensors file", "Download or copy it again.")
    return length


def _table(body: bytes) -> dict[str, Any]:
    try:
        table = json.loads(body.decode("utf-8"), object_pairs_hook=_without_doubles)
    except (ValueError, RecursionError) as error:
        raise HeaderFault("has a header that is not readable") from error
    if not isinstance(table, dict):
        raise HeaderFault("has a header that is not a table of tensors")
    return table


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in found if names.count(name) > 1)
        raise HeaderFault(f"is damaged: its header names {inert(twice)} twice")
    return found


def _entry(name: str, value: Any, start: int) -> Entry:
    where = f"the tensor {inert(name)}"
    try:
        name.encode("utf-8")
    except UnicodeEncodeError as error:
        raise HeaderFault(f"is damaged: the name of {where} is no text") from error
    if not isinstance(value, dict):
        raise HeaderFault(f"is damaged: its header tells nothing about {where}")
    dtype, shape, places = (value.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not isinstance(dtype, str):
        raise HeaderFault(f"is damaged: its header tells no number format of {where}")
    if dtype not in DTYPE_BYTES:
        raise HeaderFault(
            f"has numbers in a format that is not read here ({inert(dtype, 20)})",
            "Use a file of fp16, bf16 or fp32 numbers.",
        )
    sides, ends = _counts(shape, MOST_AXES), _counts(places, 2)
    if sides is None or ends is None or len(ends) != 2:
        raise HeaderFault(
            f"is damaged: its header tells a shape or place of {where} that cannot be"
        )
    if ends[1] - ends[0] != math.prod(sides) * DTYPE_BYTES[dtype]:
        raise HeaderFault(f"is damaged: its header is wrong about the size of {where}")
    return Entry(dtype, sides, start + ends[0], start + ends[1])


def _counts(value: Any, most: int) -> tuple[int, ...] | None:
    if not isinstance(value, list) or len(value) > most:
        return None
    if any(type(item) is not int or not 0 <= item <= LARGEST_SIDE for item in value):
        return None
    return tuple(value)


def _check_places(entries: dict[str, Entry], start: int, size: int) -> None:
    """The format has no gaps: tensors follow each other from the header's end to the file's."""
    last = max((entry.end for entry in entries.values()), default=start)
    if last != size:
        told, real = (last - start) / 1e6, (size - start) / 1e6
        raise HeaderFault(
            "is cut off or damaged: its header speaks of "
            f"{told:.1f} MB of tensors, the file has {real:.1f} MB",
            "Download or copy it again.",
        )
    place = start
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].end)):
        if entry.start != place:
            where = inert(name)
            raise HeaderFault(f"is damaged: {where} does not begin where the tensor before it ends")
        place = entry.end


def _texts(metadata: Any) -> dict[str, str]:
    """Metadata as far as they are text; halves of characters become question marks."""
    if not isinstance(metadata, dict):
        return {}
    return {_whole(key): _whole(value) for key, value in metadata.items() if isinstance(value, str)}


def _whole(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")
