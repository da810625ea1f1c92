"""Reads pickled checkpoints without running what is in them."""

from __future__ import annotations

import pickle
import stat
import warnings
import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from engine.errors import ModelError, Problem
from engine.inert import inert
from engine.models.pickle_scan import LONGEST, Acts, scan

REMEDY = "Use a .safetensors file of the same model, or convert it with a program that you trust."
DEEPEST = 4
LEGACY_PICKLES = 5
"""Files from before torch 1.6: a number, the protocol, the machine, the content, the storages."""
END_OF_ZIP = b"PK\x05\x06"
LONG_END_OF_ZIP = b"PK\x06\x06"
MOST_SHARED = 4
"""How many times the file's own size its tensors may take: tied weights are stored once."""


class _Inert:
    """Stands for a class that training frameworks leave in their files; does nothing."""

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass


# Only what full checkpoints of known trainers are seen to hold. Nothing of it is wanted, so each is
# replaced by what does nothing: numpy's own would make arrays of any size.
_HARMLESS_NAMES = frozenset(
    [
        "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
        "pytorch_lightning.callbacks.early_stopping.EarlyStopping",
        "lightning.pytorch.callbacks.model_checkpoint.ModelCheckpoint",
        "lightning_fabric.utilities.data.AttributeDict",
        "numpy.core.multiarray.scalar",
        "numpy._core.multiarray.scalar",
        "numpy.dtype",
        "collections.defaultdict",
    ]
)


def read_pickled(path: Path, setting: str = "model.path") -> dict[str, Tensor]:
    """Tensors of a .ckpt, .pt or .bin file by name; ModelError where it holds anything that could act."""
    try:
        tensors = _read(path)
    except Acts as act:
        raise ModelError(Problem(_refusal(act), str(path), REMEDY, setting)) from act
    except pickle.UnpicklingError as error:
        raise ModelError(Problem(_refusal(Acts()), str(path), REMEDY, setting)) from error
    except (
        Exception
    ) as error:  # A damaged pickle fails in whatever way its bytes happen to ask for.
        raise ModelError(
            Problem("The file is not a whole checkpoint.", str(path), REMEDY, setting)
        ) from error
    if not tensors:
        raise ModelError(Problem("The file holds no tensors.", str(path), REMEDY, setting))
    return tensors


def _read(path: Path) -> dict[str, Tensor]:
    # Asked before opening: the opening of a pipe would wait for a writer.
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError("no regular file")
    with path.open("rb") as file:
        zipped = file.read(4) == b"PK\x03\x04"
        pickles, count = _pickle_of_zip(file) if zipped else _pickles_of_old(file)
        for _ in range(count):
            scan(pickles, _HARMLESS_NAMES)
    with warnings.catch_warnings(), torch.serialization.safe_globals(_stand_ins()):
        warnings.simplefilter("ignore")  # They would be printed over the screen.
        # Old files are no zip archives and cannot be memory-mapped.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    tensors = dict(_tensors(content))
    _check_sizes(tensors, path.stat().st_size)
    return tensors


def _stand_ins() -> list[Any]:
    return [(_Inert, name) for name in _HARMLESS_NAMES]


def _pickles_of_old(file: BinaryIO) -> tuple[BytesIO, int]:
    file.seek(0)
    return BytesIO(file.read(LONGEST)), LEGACY_PICKLES


def _pickle_of_zip(file: BinaryIO) -> tuple[BytesIO, int]:
    """The pickle of a zip archive that is built as torch builds them, so that torch reads the same."""
    _check_end(file)
    with zipfile.ZipFile(file) as archive:
        entries = {entry.filename.lower(): entry for entry in archive.infolist()}
        if len(entries) != len(archive.infolist()):
            raise ValueError("two entries of one name")
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries.values()):
            raise ValueError("a packed entry, which can grow to any size")
        top = archive.infolist()[0].filename.partition("/")[0]
        if f"{top}/constants.pkl".lower() in entries:
            raise Acts("a TorchScript program")
        content = entries[f"{top}/data.pkl".lower()]
        if content.file_size > LONGEST:
            raise ValueError("a pickle without end")
        return BytesIO(archive.read(content)), 1


def _check_end(file: BinaryIO) -> None:
    """Readers of zip archives look for the end in ways of their own; here all find the same one."""
    end = file.seek(0, 2)
    file.seek(max(0, end - 98))
    tail = file.read()
    if tail[-22:-18] != END_OF_ZIP or tail.count(END_OF_ZIP) != 1 or tail[-2:] != bytes(2):
        raise ValueError("the archive does not end as it should")
    if tail[-42:-38] == b"PK\x06\x07":
        place = int.from_bytes(tail[-34:-26], "little")
        if place != end - 98 or tail[:4] != LONG_END_OF_ZIP:
            raise ValueError("the archive does not end as it should")


def _check_sizes(tensors: dict[str, Tensor], size: int) -> None:
    """A tensor may claim any shape over a few bytes; believed, it would fill the memory."""
    total = 0
    for tensor in tensors.values():
        length = tensor.numel() * tensor.element_size()
        if length > tensor.untyped_storage().nbytes():
            raise ValueError("a tensor is larger than what is stored of it")
        total += length
    if total > MOST_SHARED * size:
        raise ValueError("the tensors are larger than the file")


def _refusal(act: Acts) -> str:
    told = f" ({inert(act.name)})" if act.name else ""
    return f"The file holds more than tensors{told} and could run code, so it was not loaded."


def _tensors(content: Any) -> Iterator[tuple[str, Tensor]]:
    # By the class: a pickle can put anything in the place of an object's own methods.
    for _ in range(DEEPEST):
        if isinstance(content, dict) and isinstance(dict.get(content, "state_dict"), dict):
            content = dict.get(content, "state_dict")
    if not isinstance(content, dict):
        return
    for name, value in dict.items(content):
        if isinstance(name, str) and isinstance(value, Tensor):
            yield name, value.detach()
