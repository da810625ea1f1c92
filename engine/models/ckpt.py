"""Reads pickled checkpoints without running what is in them."""

from __future__ import annotations

import collections
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.errors import ModelError, Problem

REMEDY = "Use a .safetensors file of the same model, or convert it with a program that you trust."
DEEPEST = 4


class _Inert:
    """Stands for a class that training frameworks leave in their files; does nothing."""

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass


# Only what full checkpoints of known trainers are seen to hold, and none of it can act.
_FRAMEWORK_NAMES = (
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
    "pytorch_lightning.callbacks.early_stopping.EarlyStopping",
    "lightning.pytorch.callbacks.model_checkpoint.ModelCheckpoint",
    "lightning_fabric.utilities.data.AttributeDict",
)


def _harmless() -> list[Any]:
    import numpy as np

    scalar = np.float64(0).__reduce__()[0]
    kinds = [np.float64, np.float32, np.float16, np.int64, np.int32, np.bool_]
    return [
        (scalar, "numpy.core.multiarray.scalar"),
        (scalar, "numpy._core.multiarray.scalar"),
        np.dtype,
        *(type(np.dtype(kind)) for kind in kinds),
        (collections.defaultdict, "collections.defaultdict"),
        *((_Inert, name) for name in _FRAMEWORK_NAMES),
    ]


def read_pickled(path: Path, setting: str = "model.path") -> dict[str, Tensor]:
    """Tensors of a .ckpt, .pt or .bin file by name; ModelError where it holds anything that could act."""
    try:
        with torch.serialization.safe_globals(_harmless()):
            content = _load(path)
    except pickle.UnpicklingError as error:
        raise ModelError(Problem(_refusal(path), str(path), REMEDY, setting)) from error
    except (
        Exception
    ) as error:  # A damaged pickle fails in whatever way its bytes happen to ask for.
        raise ModelError(
            Problem("The file is not a whole checkpoint.", str(path), REMEDY, setting)
        ) from error
    tensors = _tensors(content)
    if not tensors:
        raise ModelError(Problem("The file holds no tensors.", str(path), REMEDY, setting))
    return tensors


def _load(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except RuntimeError as error:
        # Files from before torch 1.6 are no zip archives and cannot be memory-mapped.
        if "mmap" not in str(error):
            raise
        return torch.load(path, map_location="cpu", weights_only=True)


def _refusal(path: Path) -> str:
    try:
        found = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # The scanner is a courtesy; whatever it meets, the file stays refused.
        found = []
    known = set(_FRAMEWORK_NAMES)
    names = [name for name in found if name not in known and not name.startswith("numpy")]
    told = f" ({', '.join(names[:4])})" if names else ""
    return f"The file holds more than tensors{told} and could run code, so it was not loaded."


def _tensors(content: Any) -> dict[str, Tensor]:
    for _ in range(DEEPEST):
        if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
            content = content["state_dict"]
    if not isinstance(content, Mapping):
        return {}
    return {
        name: value
        for name, value in content.items()
        if isinstance(name, str) and isinstance(value, Tensor)
    }
