"""A folder of small tensor files named by their content key: atomic, checked, limited in size.

An entry that does not match its own checksum is removed and made again; one of another key can
never be taken for it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from engine.cache_limit import trim
from engine.writing import write_synced

TEMPORARY = ".tmp-"
STALE_SECONDS = 3600
"""A temporary file this old belongs to a process that died."""


def content_key(**parts: str | int | float | bool | list[int] | None) -> str:
    """Key of an entry: a hash of everything its content depends on."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


class Store:
    """Tensors by key. Safe for several threads and processes on one folder."""

    def __init__(self, folder: Path, *, limit_bytes: int) -> None:
        self.folder = folder
        self.limit_bytes = limit_bytes

    def path(self, key: str) -> Path:
        """Where the entry of a key lies."""
        return self.folder / key[:2] / f"{key}.safetensors"

    def get(self, key: str) -> dict[str, Tensor] | None:
        """The tensors of a key, or None where there is no sound entry."""
        path = self.path(key)
        try:
            data = path.read_bytes()
        except OSError:
            return None
        tensors = _read(data, key)
        if tensors is None:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
            return None
        # The time of last use decides what is removed first; reading alone may not change it.
        with contextlib.suppress(OSError):
            os.utime(path)
        return tensors

    def put(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Write an entry: temporary file, fsync, rename. Raises OSError where the disk is full."""
        path = self.path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        data = save(plain, metadata={"key": key, "sha256": _digest(plain)})
        temporary = path.with_name(f"{TEMPORARY}{uuid.uuid4().hex}")
        try:
            write_synced(temporary, [data])
            temporary.replace(path)
        except BaseException:
            # Where this fails too, as on a disk that is gone, the first error is the one to tell.
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise

    def trim(self, keep: frozenset[str] = frozenset()) -> int:
        """Remove the entries unused for longest until the limit holds; never those of `keep`.

        Gives the bytes that remain.
        """
        self._remove_stale()
        files = self.folder.glob("*/*.safetensors")
        return trim(files, self.limit_bytes, lambda path: path.stem in keep)

    def _remove_stale(self) -> None:
        for path in self.folder.glob(f"*/{TEMPORARY}*"):
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > STALE_SECONDS:
                    path.unlink()


def _read(data: bytes, key: str) -> dict[str, Tensor] | None:
    """Tensors of an entry, or None where header, key or checksum do not hold."""
    try:
        length = int.from_bytes(data[:8], "little")
        header: Any = json.loads(data[8 : 8 + length])
        said: Any = header["__metadata__"]
        if said["key"] != key:
            return None
        tensors: dict[str, Tensor] = load(data)
        return tensors if said["sha256"] == _digest(tensors) else None
    except Exception:  # Whatever a damaged entry brings about, it is made again.
        return None


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
