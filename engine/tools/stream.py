"""Reads and writes .safetensors files tensor by tensor, so that a file may be larger than the memory.

A file is written under a temporary name, forced to the disk and renamed: whole or not at all.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from engine.checkpoint.atomic import sync_folder
from engine.errors import EngineError, EnvironmentFault, Problem
from engine.safetensors_dtypes import DTYPES
from engine.safetensors_header import DTYPE_BYTES, Entry, HeaderFault, RawHeader, read_raw

CHUNK_BYTES = 1 << 22
NAMES = {dtype: name for name, dtype in DTYPES.items()}
ORDER = {name: -place for place, name in enumerate(DTYPES)}
LEGACY_START, LEGACY_BYTES = 0x100000, 0x10000
"""The part of a file that the older hash of kohya's tools is taken of."""
BLANK_HASHES = {
    "sshs_model_hash": "0" * 64,
    "sshs_legacy_hash": "0" * 8,
    "modelspec.hash_sha256": "0x" + "0" * 64,
}
DISK_ROOM = 1 << 20


@dataclass(frozen=True, slots=True)
class Planned:
    """A tensor before it is there."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """What it takes in the file."""
        count = 1
        for side in self.shape:
            count *= side
        return count * DTYPE_BYTES[self.dtype]


class TensorFile:
    """A .safetensors file that is open; use as a context.

    What is read is of the file as it was when it was opened: one that was changed since is refused.
    """

    def __init__(self, path: Path, fault: type[EngineError]) -> None:
        """Raises `fault` in words for a file that is cut off or lies."""
        try:
            before = _stamp(path.stat())
            self.header: RawHeader = read_raw(path)
            self._file = path.open("rb")
        except HeaderFault as error:
            raise fault(
                Problem(f"The file {error.what}.", where=str(path), remedy=error.remedy)
            ) from error
        except OSError as error:
            what = f"The file cannot be read: {error.strerror}."
            raise fault(Problem(what, where=str(path))) from error
        self.path = path
        self._fault = fault
        self._before = before

    def __enter__(self) -> TensorFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    @property
    def entries(self) -> dict[str, Entry]:
        """Name to place."""
        return self.header.entries

    def planned(self, name: str) -> Planned:
        """A tensor as it is here."""
        entry = self.entries[name]
        return Planned(name, entry.dtype, entry.shape)

    def read(self, name: str) -> Tensor:
        """One tensor, in its own type."""
        entry = self.entries[name]
        if entry.start == entry.end:
            return torch.empty(entry.shape, dtype=DTYPES[entry.dtype])
        raw = bytearray(entry.end - entry.start)
        self._file.seek(entry.start)
        if self._file.readinto(raw) != len(raw):
            raise self._cut()
        self._check()
        return torch.frombuffer(raw, dtype=DTYPES[entry.dtype]).view(entry.shape)

    def pieces(self, name: str) -> Iterator[bytes]:
        """A tensor's bytes in pieces, as they are."""
        entry = self.entries[name]
        place = entry.start
        while place < entry.end:
            # Another read may have moved the file's place between two pieces.
            self._file.seek(place)
            piece = self._file.read(min(CHUNK_BYTES, entry.end - place))
            if not piece:
                raise self._cut()
            self._check()
            place += len(piece)
            yield piece

    def _check(self) -> None:
        """Whoever replaces the file by another leaves this one whole; whoever overwrites it does not."""
        if _stamp(os.fstat(self._file.fileno())) != self._before:
            what = "The file was changed while it was read."
            remedy = "Wait until it is whole, then start again."
            raise self._fault(Problem(what, where=str(self.path), remedy=remedy))

    def _cut(self) -> EngineError:
        return self._fault(Problem("The file became shorter while it was read.", str(self.path)))


def _stamp(status: os.stat_result) -> tuple[int, int]:
    """Size, and time of the last change."""
    return status.st_size, status.st_mtime_ns


def as_bytes(tensor: Tensor) -> memoryview:
    """A tensor's bytes in memory, copied only where they do not lie together."""
    plain = tensor.detach().cpu().contiguous()
    whole: Any = plain.reshape(-1).view(torch.uint8).numpy()
    return memoryview(whole).cast("B")


# Writing ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def new_file(path: Path, *, force: bool) -> Iterator[IO[bytes]]:
    """A file that appears under its name only when the block ended well and all is on disk."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name[:60]}.", suffix=".tmp", dir=_parent(path))
    temporary = Path(name)
    try:
        with os.fdopen(handle, "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        _allow_like_others(temporary)
        if path.exists() and not force:
            raise taken(path)
        temporary.replace(path)
    except OSError as error:
        _remove(temporary)
        raise EnvironmentFault(
            Problem(f"The file cannot be written: {error.strerror or error}.", where=str(path))
        ) from error
    except BaseException:
        _remove(temporary)
        raise
    sync_folder(path.parent)


def _parent(path: Path) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        what = f"The folder cannot be made: {error.strerror}."
        raise EnvironmentFault(Problem(what, where=str(path.parent))) from error
    return path.parent


def _allow_like_others(path: Path) -> None:
    """mkstemp makes files that only their owner reads; ours are like any other file."""
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def taken(path: Path) -> EngineError:
    """The refusal to replace a file."""
    from engine.tools.checks import taken_problem

    return EnvironmentFault(taken_problem(path))


def check_room(path: Path, needed: int) -> None:
    """Raises EnvironmentFault where the disk has no room for the file."""
    try:
        free = shutil.disk_usage(_parent(path)).free
    except OSError:
        return
    if free < needed + DISK_ROOM:
        raise EnvironmentFault(
            Problem(
                f"The file needs {needed / 1e9:.2f} GB, the disk has {free / 1e9:.2f} GB.",
                where=str(path.parent),
                remedy="Make room, or write to another disk.",
            )
        )


def header_bytes(entries: Iterable[Planned], metadata: Mapping[str, str]) -> bytes:
    """Length and header of a file whose tensors follow each other in this order."""
    table: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    place = 0
    for entry in entries:
        ends = [place, place + entry.bytes]
        table[entry.name] = {
            "dtype": entry.dtype,
            "shape": list(entry.shape),
            "data_offsets": ends,
        }
        place = ends[1]
    text = json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


class Spool:
    """Tensors of a network, kept on the disk in the order in which they come until all are known.

    Their number and shapes may follow from what is computed; the file's header comes first.
    """

    def __init__(self, path: Path) -> None:
        """`path` is the file that will be made of it; the spool lies beside it, without a name."""
        # Nameless where the system can: a killed process leaves nothing.
        try:
            self._file = tempfile.TemporaryFile(dir=_parent(path))  # noqa: SIM115
        except OSError as error:
            what = f"Nothing can be written there: {error.strerror}."
            raise EnvironmentFault(Problem(what, where=str(path.parent))) from error
        self._path = path
        self._places: dict[str, tuple[Planned, int]] = {}
        self._end = 0

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    @property
    def planned(self) -> dict[str, Planned]:
        """What there is so far."""
        return {name: planned for name, (planned, _) in self._places.items()}

    def add(self, name: str, tensor: Tensor) -> None:
        """Keep a tensor; raises ValueError where the name is there already."""
        if name in self._places:
            raise ValueError(f"{name} is there twice")
        planned = Planned(name, NAMES[tensor.dtype], tuple(tensor.shape))
        try:
            self._file.seek(self._end)
            self._file.write(as_bytes(tensor))
        except OSError as error:
            what = f"The file cannot be written: {error.strerror or error}."
            raise EnvironmentFault(Problem(what, where=str(self._path))) from error
        self._places[name] = planned, self._end
        self._end += planned.bytes

    def write(self, metadata: Mapping[str, str], *, force: bool) -> int:
        """The file, with its hashes in the metadata as kohya's tools compute them; gives its bytes."""
        order = sorted(
            (planned for planned, _ in self._places.values()),
            key=lambda planned: (ORDER[planned.dtype], planned.name),
        )
        check_room(self._path, self._end)
        told = dict(metadata)
        hashes = Hashes(len(header_bytes(order, _training(told))))
        with new_file(self._path, force=force) as file:
            head = header_bytes(order, told | BLANK_HASHES)
            file.write(head)
            for planned in order:
                for piece in self._pieces(planned.name):
                    hashes.take(piece)
                    file.write(piece)
            # The same length: only digits change.
            again = header_bytes(order, told | hashes.told(header_bytes(order, _training(told))))
            assert len(again) == len(head)
            file.seek(0)
            file.write(again)
        return len(head) + self._end

    def _pieces(self, name: str) -> Iterator[bytes]:
        planned, place = self._places[name]
        end = place + planned.bytes
        while place < end:
            self._file.seek(place)
            piece = self._file.read(min(CHUNK_BYTES, end - place))
            place += len(piece)
            yield piece


def _training(metadata: Mapping[str, str]) -> dict[str, str]:
    return {key: text for key, text in metadata.items() if key.startswith("ss_")}


@dataclass(slots=True)
class Hashes:
    """The hashes of kohya's tools while the tensors go by."""

    head: int
    """Bytes before the tensors in the serialisation that the older hash is taken of."""
    _whole: hashlib._Hash = field(default_factory=hashlib.sha256)
    _window: io.BytesIO = field(default_factory=io.BytesIO)
    _place: int = 0

    def take(self, piece: bytes) -> None:
        """The next bytes."""
        self._whole.update(piece)
        start = self.head + self._place
        first = max(LEGACY_START - start, 0)
        last = min(LEGACY_START + LEGACY_BYTES - start, len(piece))
        if first < last:
            self._window.write(piece[first:last])
        self._place += len(piece)

    def told(self, head: bytes) -> dict[str, str]:
        """As metadata; `head` are the bytes before the tensors."""
        whole = self._whole.hexdigest()
        window = head[LEGACY_START : LEGACY_START + LEGACY_BYTES] + self._window.getvalue()
        return {
            "sshs_model_hash": whole,
            "sshs_legacy_hash": hashlib.sha256(window).hexdigest()[:8],
            "modelspec.hash_sha256": f"0x{whole}",
        }


def write_in_order(
    path: Path,
    entries: Sequence[Planned],
    metadata: Mapping[str, str],
    bodies: Iterable[Iterable[bytes | memoryview]],
    *,
    force: bool,
) -> int:
    """A file whose shapes are known before: header first, then each tensor's bytes; gives its bytes.

    `bodies` is asked for the next tensor only when the one before is written.
    """
    head = header_bytes(entries, metadata)
    size = len(head) + sum(entry.bytes for entry in entries)
    check_room(path, size)
    with new_file(path, force=force) as file:
        file.write(head)
        for entry, body in zip(entries, bodies, strict=True):
            before = file.tell()
            for piece in body:
                file.write(piece)
            assert file.tell() - before == entry.bytes, f"{entry.name} has another size"
    return size
