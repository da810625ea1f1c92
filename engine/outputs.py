"""What a run writes on its way: network files, states, preview pictures, and when each is due."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from engine.assemble import Training
from engine.checkpoint.atomic import copy_new, file_sha256, write_text
from engine.checkpoint.resume import Hop
from engine.checkpoint.state import Identity, Place, State, state_bytes, write_state
from engine.errors import Problem, TrainingError
from engine.events import Event, Phase, Saved, Warned
from engine.networks.files import verify_network, write_network
from engine.optim.averaged import averaged_weights
from engine.previews import Previews
from engine.runs import RunFolder

if TYPE_CHECKING:
    from engine.settings.save import Save

MetadataAt = Callable[[Place], dict[str, str]]


@dataclass(slots=True)
class Tally:
    """Numbers that are told, not trained with; kept over resumes."""

    started_at: float
    seconds_before: float = 0.0
    peak_bytes: int = 0
    lineage: tuple[Hop, ...] = ()

    def seconds(self) -> float:
        """Training time so far, earlier parts of the run included."""
        return self.seconds_before + time.time() - self.started_at


class Outputs:
    """Writes what is due. `emit` gets an event for each thing written."""

    def __init__(
        self,
        training: Training,
        folder: RunFolder,
        name: str,
        emit: Callable[[Event], None],
        *,
        save: Save,
        previews: Previews,
        identity: Identity,
        metadata: MetadataAt,
        tally: Tally,
    ) -> None:
        self._training = training
        self._folder = folder
        self._name = name
        self._emit = emit
        self._save = save
        self._previews = previews
        self._identity = identity
        self._metadata = metadata
        self.tally = tally
        self._state_at = self._network_at = time.monotonic()
        self.files: list[str] = [str(folder.path / entry["file"]) for entry in self._manifest()]

    # When ---------------------------------------------------------------------------------

    def due(self, place: Place, *, ends_epoch: bool, last: bool) -> bool:
        """Whether anything is to be written after this step."""
        return (
            ends_epoch
            or last
            or _every(place.step, self._save.every_steps)
            or self.sample_due(place, ends_epoch=ends_epoch, last=last)
            or self._state_overdue()
            or _overdue(self._network_at, self._save.every_minutes)
        )

    def sample_due(self, place: Place, *, ends_epoch: bool, last: bool) -> bool:
        """Whether preview pictures are due after this step."""
        return self._previews.due(place, ends_epoch=ends_epoch, last=last)

    def _state_overdue(self) -> bool:
        return _overdue(self._state_at, self._save.state_minutes)

    # What ---------------------------------------------------------------------------------

    def write_due(self, place: Place, *, ends_epoch: bool, last: bool) -> None:
        """Write network file, state and pictures, in the order of what would be missed most."""
        if ends_epoch and not last and _every(place.epoch, self._save.every_epochs):
            self.write_network(place, f"{self._name}-{place.epoch:06d}")
        if last:
            self.write_network(place, self._name, final=True)
        by_time = _overdue(self._network_at, self._save.every_minutes)
        if (by_time or _every(place.step, self._save.every_steps)) and not last:
            self.write_network(place, f"{self._name}-step{place.step:08d}")
        if ends_epoch or last or self._state_overdue():
            self.write_state(place)
        if self.sample_due(place, ends_epoch=ends_epoch, last=last):
            self.sample(place)
        self._emit(Phase("training"))

    def write_now(self, place: Place) -> None:
        """State and network file of this very step, as asked."""
        self.write_state(place)
        self.write_network(place, f"{self._name}-step{place.step:08d}")
        self._emit(Phase("training"))

    def write_state(self, place: Place) -> None:
        """Write the exact state; a failure is told and the states before it stay."""
        training = self._training
        self._emit(Phase("saving"))
        state = State(
            place=place,
            identity=self._identity,
            network=training.network.training_state(),
            optimizer=training.optimizer.state_dict(),
            scaler=training.scaler.state_dict(),
            session={"seconds": self.tally.seconds(), "lineage": list(self.tally.lineage)},
            averaged=training.averages.state(),
            guard=training.guard.state(),
        )
        self._check_room(state_bytes(state))
        path = write_state(self._folder.states, state, keep=self._save.keep_states)
        self._state_at = time.monotonic()
        self._emit(Saved("state", place.step, place.epoch, str(path), checked=True))

    def write_network(self, place: Place, stem: str, *, final: bool = False) -> None:
        """Write a network file, read it back, list it in the manifest, prune, copy the final one."""
        training = self._training
        self._emit(Phase("saving"))
        path = self._folder.path / f"{stem}.safetensors"
        with averaged_weights(training):
            tensors = training.network.tensors(_DTYPES[self._save.precision])
            self._check_room(sum(tensor.nbytes for tensor in tensors.values()))
            write_network(path, tensors, self._metadata(place))
            verify_network(path, tensors)
            idle = final and training.network.changes_nothing()
        self._network_at = time.monotonic()
        if idle:
            self._emit(Warned("Every weight of the finished file is 0: nothing was learnt."))
        self._list(path, place, final)
        self._emit(
            Saved(
                "network",
                place.step,
                place.epoch,
                str(path),
                bytes=path.stat().st_size,
                checked=True,
                final=final,
            )
        )
        if final and self._save.copy_to is not None:
            self._copy(path, self._save.copy_to, place)

    def _copy(self, path: Path, folder: Path, place: Place) -> None:
        try:
            copy = copy_new(path, folder.expanduser())
        except OSError as error:
            self._emit(Warned(f"The file could not be copied to {folder}: {error.strerror}."))
        else:
            self._emit(Saved("copy", place.step, place.epoch, str(copy), checked=True, final=True))

    def _list(self, path: Path, place: Place, final: bool) -> None:
        entries = [entry for entry in self._manifest() if entry["file"] != path.name]
        entries.append(
            {
                "file": path.name,
                "bytes": path.stat().st_size,
                "sha256": file_sha256(path),
                "step": place.step,
                "epoch": place.epoch,
                "final": final,
            }
        )
        if self._save.keep_last is not None:
            on_the_way = [entry for entry in entries if not entry["final"]]
            for entry in on_the_way[: -self._save.keep_last]:
                (self._folder.path / entry["file"]).unlink(missing_ok=True)
                entries.remove(entry)
        write_text(self._folder.manifest, json.dumps(entries, indent=1))
        self.files = [str(self._folder.path / entry["file"]) for entry in entries]

    def _manifest(self) -> list[dict[str, Any]]:
        try:
            entries: list[dict[str, Any]] = json.loads(self._folder.manifest.read_text("utf-8"))
        except (OSError, ValueError):
            return []
        return entries

    def sample_if_missing(self, place: Place) -> None:
        """Pictures of this place, unless they were made before the run was interrupted."""
        with averaged_weights(self._training):
            made = self._previews.make_if_missing(place)
        if made:
            self._emit(Phase("training"))

    def sample(self, place: Place) -> None:
        """Make the preview pictures; a failure here is told and training goes on."""
        with averaged_weights(self._training):
            self._previews.make(place)

    def _check_room(self, needed: int) -> None:
        import shutil

        free = shutil.disk_usage(self._folder.path).free
        if free < needed + 50_000_000:
            raise TrainingError(
                Problem(
                    f"The disk is full: {needed / 1e6:.0f} MB are needed, {free / 1e6:.0f} MB are free.",
                    where=str(self._folder.path),
                    remedy="Free some space, then resume; the states saved so far are kept.",
                )
            )


_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def _overdue(since: float, minutes: float) -> bool:
    return minutes > 0 and time.monotonic() - since >= minutes * 60


def _every(number: int, interval: int) -> bool:
    return interval > 0 and number > 0 and number % interval == 0
