"""Tensors to disk and back: written and hashed as they stream by, so that no second copy is in memory.

A full disk is an OSError here, with the system's number; the format's own library tells it in text only.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load
from torch import Tensor

from engine.writing import write_synced

KINDS = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


@dataclass(frozen=True, slots=True)
class Written:
    """A file as it was meant to be: compared with what lies on the disk."""

    bytes: int
    sha256: str


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> Written:
    """Write a safetensors file and force it to the disk. Raises OSError; TypeError for an odd number format."""
    # Wide numbers first, as the format has it: every tensor then begins at a multiple of its width.
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    return write_chunks(path, _chunks(names, tensors))


def _chunks(names: list[str], tensors: Mapping[str, Tensor]) -> Iterable[memoryview]:
    table, place = {}, 0
    for name in names:
        tensor = tensors[name]
        if tensor.dtype not in KINDS:
            raise TypeError(f"{name} is of {tensor.dtype}, which no state can hold")
        ends = [place, place + tensor.nbytes]
        table[name] = {
            "dtype": KINDS[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": ends,
        }
        place = ends[1]
    header = json.dumps(table, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    yield memoryview(len(header).to_bytes(8, "little") + header)
    for name in names:
        plain = tensors[name].detach().cpu().contiguous()
        numbers: Any = plain.reshape(-1).view(torch.uint8).numpy()
        yield memoryview(numbers)


def write_chunks(path: Path, chunks: Iterable[memoryview]) -> Written:
    """Write a new private file of these bytes and force it to the disk."""
    digest, size = hashlib.sha256(), 0

    def counted() -> Iterator[memoryview]:
        nonlocal size
        for chunk in chunks:
            digest.update(chunk)
            size += len(chunk)
            yield chunk

    write_synced(path, counted(), private=True)
    return Written(size, digest.hexdigest())


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors in memory of their own: what was read stays when its file goes, or its whole disk."""
    tensors: dict[str, Tensor] = load(path.read_bytes())
    return tensors
