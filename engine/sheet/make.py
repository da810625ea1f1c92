"""Paints a contact sheet: each picture once, from the cache where it was painted before."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from engine.checkpoint.atomic import file_sha256
from engine.errors import EngineError, ModelError, OutOfMemory, Problem, TrainingError
from engine.hardware import choose_device, read_hardware
from engine.memory import in_words
from engine.models.detect import inspect_model
from engine.models.load import load_model
from engine.networks.files import read_network
from engine.networks.network import Network, from_file
from engine.picture_files import NOTE_FIELD
from engine.sampling import Defaults, Shot, paint_one
from engine.sheet.store import PictureStore
from engine.sheet.values import Cell, Progress, Row, Sheet, SheetFile, SheetRequest, row_label

if TYPE_CHECKING:
    from PIL import Image

    from engine.models.family import BaseModel

VERSION = 1
"""Of the way pictures are painted; a new one paints all of them anew."""
PRECISIONS = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
SPARE = ("te", "vae")
"""Parts of the base that wait on the host for their turn where memory is short."""
LOADING = "loading the base model"


def make_sheet(request: SheetRequest, cache: Path, progress: Progress) -> Sheet:
    """Paint what is not in the cache yet. Nothing is written but the cache.

    Raises ModelError, NetworkFileError and EnvironmentFault in words, and OutOfMemory where no picture
    fits into memory; a picture that cannot be made is a cell with a note.
    """
    maker = _Maker(request, PictureStore(cache / "pictures"), progress)
    try:
        rows = tuple(maker.row(file, strength) for file, strength in request.rows)
    finally:
        maker.close()
    paths = [cell.path for row in rows for cell in row.cells if cell.path is not None]
    if maker.short and not paths:
        raise OutOfMemory(*maker.short)
    maker.store.trim(frozenset(paths))
    return Sheet(
        title=request.title,
        base=request.base.name,
        columns=tuple(prompt.text for prompt in request.prompts),
        rows=rows,
        left_out=tuple(dict.fromkeys(maker.left_out)),
    )


class _Maker:
    """Loads the base only when a picture is missing, and each network once."""

    def __init__(self, request: SheetRequest, store: PictureStore, progress: Progress) -> None:
        self.request, self.store = request, store
        self.left_out: list[str] = []
        self.short: tuple[Problem, ...] = ()
        """Where a picture did not fit into memory, the last one's problems."""
        self._progress = progress
        self._total = len(request.rows) * len(request.prompts)
        self._done = 0
        self._model: BaseModel | None = None
        self._network: Network | None = None
        self._file: SheetFile | None = None
        device = choose_device(request.device, read_hardware())
        self._device, self._precision = device.torch_name, _precision(request, device.kind)
        self._base_key = base_stamp(request.base), base_stamp(request.vae)
        self._hashes = {file.path: file_sha256(file.path) for file in request.files}
        self._shots = self._settled_shots()

    def _settled_shots(self) -> list[Shot]:
        request = self.request
        side = request.width and request.height
        native = None if side else inspect_model(request.base).native_resolution
        usual = native or 512
        defaults = Defaults(
            steps=request.steps,
            guidance=request.guidance,
            width=request.width or request.height or usual,
            height=request.height or request.width or usual,
            seed=request.seed,
            clip_skip=request.clip_skip,
            negative=request.negative,
            sampler=request.sampler,
            zero_terminal_snr=request.zero_terminal_snr,
            max_tokens=request.max_tokens,
        )
        return defaults.shots(request.prompts)

    def row(self, file: SheetFile | None, strength: float) -> Row:
        """The pictures of one file at one strength."""
        label = row_label(file, strength)
        cells = tuple(self._cell(shot, file, strength, label) for shot in self._shots)
        return Row(label, file, strength, cells)

    def _cell(self, shot: Shot, file: SheetFile | None, strength: float, label: str) -> Cell:
        self._progress(self._done, self._total, label)
        key = self._key(shot, file, strength)
        path = self.store.get(key)
        note = ""
        if path is None:
            model = self._loaded()
            try:
                picture = self._painted(model, shot, file, strength, label)
                path = self.store.put(key, picture)
                note = str(picture.info.get(NOTE_FIELD, ""))
            except OutOfMemory as error:
                self.short = error.problems
                note = error.problems[0].what
            except TrainingError as error:
                note = error.problems[0].what
        self._done += 1
        return Cell(shot, path, note)

    def _key(self, shot: Shot, file: SheetFile | None, strength: float) -> str:
        """Everything that the picture depends on; the base by its place, size and time."""
        parts = {
            "version": VERSION,
            "base": self._base_key,
            "file": None if file is None else self._hashes[file.path],
            "strength": strength,
            "shot": asdict(shot),
            "prediction": self.request.prediction,
            "precision": str(self._precision),
            "device": torch.device(self._device).type,
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def _painted(
        self, model: BaseModel, shot: Shot, file: SheetFile | None, strength: float, label: str
    ) -> Image.Image:
        self._use(model, file)
        network = self._network
        if network is not None:
            network.set_strength(strength)

        def at_timestep(timestep: torch.Tensor) -> None:
            self._progress(self._done, self._total, label)
            if network is not None:
                network.at_timesteps(timestep.reshape(1))

        return paint_one(model, shot, at_timestep, spare=SPARE)

    def _loaded(self) -> BaseModel:
        if self._model is None:
            self._progress(self._done, self._total, LOADING)
            request = self.request
            self._model = in_words(
                lambda: load_model(
                    request.base,
                    family=request.family,
                    prediction=request.prediction,
                    vae=request.vae,
                    dtype=self._precision,
                    device=self._device,
                ),
                Problem(
                    "The base model does not fit into memory.",
                    remedy="Wait until other programs have left the GPU, or give --device cpu.",
                ),
            )
            self._check_base()
        return self._model

    def _check_base(self) -> None:
        """Pictures are kept under the base as it was at first: another must not be taken for it."""
        request = self.request
        if (base_stamp(request.base), base_stamp(request.vae)) != self._base_key:
            what = "The base model was changed while it was being read."
            remedy = "Wait until it is whole, then start again."
            raise ModelError(Problem(what, where=str(request.base), remedy=remedy))

    def _use(self, model: BaseModel, file: SheetFile | None) -> None:
        """Put a file's network before the base, and take the one before it away."""
        if file == self._file and (file is None) == (self._network is None):
            return
        self._put_away()
        if file is None:
            return
        found = read_network(file.path)
        try:
            network = from_file(model.components(), found.tensors, found.metadata)
        except EngineError as error:
            where = str(file.path)
            raise type(error)(
                *(
                    replace(one, where=f"{where}: {one.where}".rstrip(": "))
                    for one in error.problems
                )
            ) from error
        network.eval()
        network.inject()
        self._network, self._file = network, file
        self.left_out += [f"{file.path.name}: {line}" for line in network.skipped]

    def _put_away(self) -> None:
        if self._network is not None:
            self._network.eject()
        self._network = self._file = None

    def close(self) -> None:
        """Let go of the base and what it holds on the device."""
        self._put_away()
        self._model = None
        if torch.device(self._device).type == "cuda":
            torch.cuda.empty_cache()


def _precision(request: SheetRequest, kind: str) -> torch.dtype:
    if kind == "cpu":
        # Half precision is slow there, and for most samplers too coarse.
        return torch.float32
    if request.precision is not None:
        return PRECISIONS[request.precision]
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


def base_stamp(path: Path | None) -> Sequence[tuple[str, int, int]]:
    """Names, sizes and times of a base's files: hashing gigabytes would take longer than a picture."""
    if path is None:
        return ()
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    stamps = []
    for file in files:
        status = file.stat()
        if not file.is_dir():
            stamps.append((str(file.absolute()), status.st_size, status.st_mtime_ns))
    return stamps
