"""Network files: written whole or not at all, read with distrust, verified by reading again."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from engine.errors import NetworkFileError, Problem
from engine.networks.headers import broken, read_header
from engine.networks.names import inert
from engine.writing import temporary_beside, write_synced

LEGACY_START, LEGACY_BYTES = 0x100000, 0x10000
FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
WHOLE = frozenset({"I64", "I32", "I16", "I8", "U8"})


@dataclass(frozen=True, slots=True)
class NetworkFile:
    """A network file as it was read."""

    path: Path
    tensors: dict[str, Tensor]
    metadata: dict[str, str]


def read_network(path: Path) -> NetworkFile:
    """Read a network file; raises NetworkFileError for what is cut off, lying, or not finite."""
    header = read_header(path)
    odd = [
        name
        for name, entry in header.entries.items()
        if entry.dtype not in FLOATS and (entry.dtype not in WHOLE or entry.shape not in ((), (1,)))
    ]
    if odd:
        raise broken(path, f"holds {inert(odd[0])} in a number format of no network")
    try:
        tensors = load(path.read_bytes())
    except (SafetensorError, OSError, ValueError, RuntimeError, KeyError) as error:
        raise broken(path, f"cannot be read: {inert(str(error))}") from error
    bad = [name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())]
    if bad:
        raise NetworkFileError(
            Problem(
                f"{len(bad)} of {len(tensors)} tensors hold numbers that are not finite.",
                where=f"{path}: {inert(bad[0])}",
                remedy="The file is the result of a broken training; give another one.",
            )
        )
    return NetworkFile(path, tensors, header.metadata)


def write_network(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a network file: temporary name, fsync, read again, rename. Hashes are added to the metadata.

    Raises OSError where the disk takes it not, or not as it was written; a file of that name stays then.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    body = save(plain, metadata=dict(metadata) | network_hashes(plain, metadata))
    temporary = temporary_beside(path)
    try:
        write_synced(temporary, [body])
        # Before it takes the name of the one that may be there.
        if hashlib.sha256(temporary.read_bytes()).digest() != hashlib.sha256(body).digest():
            raise OSError(errno.EIO, "the file is not what was written", str(path))
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def network_hashes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> dict[str, str]:
    """The hashes of kohya's tools, over a serialisation with only the `ss_` keys, and modelspec's."""
    kept = {key: text for key, text in metadata.items() if key.startswith("ss_")}
    body = memoryview(save(dict(tensors), metadata=kept))
    whole = hashlib.sha256(body[8 + int.from_bytes(body[:8], "little") :]).hexdigest()
    window = body[LEGACY_START : LEGACY_START + LEGACY_BYTES]
    return {
        "sshs_model_hash": whole,
        "sshs_legacy_hash": hashlib.sha256(window).hexdigest()[:8],
        "modelspec.hash_sha256": f"0x{whole}",
    }


def verify_network(path: Path, expected: Mapping[str, Tensor] | Iterable[str]) -> None:
    """Read a file again and compare: names always, bytes where the tensors are given."""
    found = read_network(path).tensors
    wanted = expected if isinstance(expected, Mapping) else dict.fromkeys(expected)
    differ = sorted(set(found) ^ set(wanted))
    differ += [
        name
        for name, tensor in wanted.items()
        if isinstance(tensor, Tensor) and name in found and not _same(tensor, found[name])
    ]
    if differ:
        raise NetworkFileError(
            Problem(
                f"The file does not hold what was written: {len(differ)} tensors differ.",
                where=f"{path}: {inert(differ[0])}",
                remedy="Check the disk, then save again.",
            )
        )


def _same(written: Tensor, read: Tensor) -> bool:
    written = written.detach().cpu()
    return written.dtype == read.dtype and torch.equal(written, read)
