"""Hashes of weight files and of tensors: what caches and metadata know a model by."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor


def file_hash(paths: Sequence[Path]) -> str:
    """sha256 of a file, or of several one after the other; read in pieces."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            # A digest of each file would make a single file's hash differ from the well-known one.
            while chunk := file.read(1 << 22):
                digest.update(chunk)
    return digest.hexdigest()


def tensors_hash(tensors: Mapping[str, Tensor]) -> str:
    """sha256 over names, number formats, shapes and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
