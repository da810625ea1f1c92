"""What a run writes on its way: network files, states, preview pictures, and when each is due."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from engine.assemble import Training
from engine.checkpoint.atomic import copy_new
from engine.checkpoint.resume import Hop
from engine.checkpoint.state import (
    Identity,
    Place,
    State,
    mend,
    newest_step,
    state_bytes,
    write_state,
)
from engine.control import Control
from engine.errors import OutOfMemory, Problem
from engine.events import Event, Phase, Saved, Warned
from engine.memory import free_memory, is_out_of_memory, tried_again
from engine.network_list import NetworkList
from engine.networks.files import verify_network, write_network
from engine.optim.averaged import averaged_weights
from engine.patience import Patience, Unsaved
from engine.previews import Previews
from engine.room import GaveUp, require_room
from engine.runs import RunFolder
from engine.writing import remove_left_behind

if TYPE_CHECKING:
    from engine.settings.save import Save

MetadataAt = Callable[[Place], dict[str, str]]
Owed = Literal["state", "network"]

NAME_BYTES = 200
"""Of a header, for each tensor of a network file."""
METADATA_BYTES = 100_000


@dataclass(slots=True)
class Tally:
    """Numbers that are told, not trained with; kept over resumes."""

    started_at: float
    clock: float = field(default_factory=time.monotonic)
    """The same moment on the clock that is never set: durations are told by it."""
    seconds_before: float = 0.0
    peak_bytes: int = 0
    lineage: tuple[Hop, ...] = ()

    def seconds(self) -> float:
        """Training time so far, earlier parts of the run included."""
        return self.seconds_before + time.monotonic() - self.clock


class Outputs:
    """Writes what is due, waiting while the disk does not take it. `emit` gets an event for each thing."""

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
        control: Control,
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
        self.saved_states: set[int] = set()
        """Steps whose state this process has written; older ones may have been removed since."""
        self.news: Callable[[], Sequence[str]] = tuple
        """What there is to warn of at each epoch's end."""
        self._owed: set[Owed] = set()
        """What there was no memory for when it was due."""
        self._patience = Patience(folder, control, emit)
        remove_left_behind(folder.path)
        self._networks = NetworkList(folder)

    # When ---------------------------------------------------------------------------------

    def due(self, place: Place, *, ends_epoch: bool, last: bool) -> bool:
        """Whether anything is to be written after this step."""
        return (
            ends_epoch
            or last
            or self.sample_due(place, ends_epoch=ends_epoch, last=last)
            or self._state_overdue()
            or self._network_due(place)
            or bool(self._owed)
        )

    def sample_due(self, place: Place, *, ends_epoch: bool, last: bool) -> bool:
        """Whether preview pictures are due after this step."""
        return self._previews.due(place, ends_epoch=ends_epoch, last=last)

    def _network_due(self, place: Place) -> bool:
        by_time = _overdue(self._network_at, self._save.every_minutes)
        by_step = _every(place.step, self._save.every_steps)
        return by_time or by_step or "network" in self._owed

    def _state_overdue(self) -> bool:
        return _overdue(self._state_at, self._save.state_minutes)

    # What ---------------------------------------------------------------------------------

    def write_due(self, place: Place, *, ends_epoch: bool, last: bool) -> None:
        """Write network file, state and pictures, in the order of what would be missed most."""
        if ends_epoch and not last and _every(place.epoch, self._save.every_epochs):
            self.write_network(place, f"{self._name}-{place.epoch:06d}")
        if last:
            self._write_final(place)
        elif self._network_due(place):
            self.write_network(place, f"{self._name}-step{place.step:08d}")
        if ends_epoch or last or self._state_overdue() or "state" in self._owed:
            self.write_state(place)
        if self.sample_due(place, ends_epoch=ends_epoch, last=last):
            self.sample(place)
        if ends_epoch or last:
            for line in self.news():
                self._emit(Warned(line))
        self._emit(Phase("training"))

    def write_final_if_missing(self, place: Place) -> None:
        """The finished file of a run whose last state was saved, but not it."""
        if not self._folder.final.is_file():
            self._write_final(place)

    def _write_final(self, place: Place) -> None:
        if self.write_network(place, self._name, final=True):
            return
        saved = self.write_state(place)
        state = f"The state of step {place.step} is saved: c" if saved else "C"
        raise OutOfMemory(
            Problem(
                "There was not enough memory to write the finished file.",
                where=str(self._folder.path),
                remedy=f"{state}lose other programs, then go on with `lyctui resume {self._folder.called}`.",
            )
        )

    def write_now(self, place: Place) -> None:
        """State and network file of this very step, as asked."""
        self.write_state(place)
        self.write_network(place, f"{self._name}-step{place.step:08d}")
        self._emit(Phase("training"))

    def write_state(self, place: Place) -> bool:
        """Write the exact state; whether there was memory for it.

        Waits while the disk does not take it, and raises Unsaved where a stop is asked for meanwhile.
        """
        self._emit(Phase("saving"))
        try:
            return self._with_memory("state", place, lambda: self._put_state(place, wait=True))
        except GaveUp as left:
            raise self._unsaved(place, "state", left) from None

    def _put_state(self, place: Place, *, wait: bool) -> None:
        training, states = self._training, self._folder.states
        state = State(
            place=place,
            identity=self._identity,
            network=training.network.training_state(),
            optimizer=training.optimizer.state_dict(),
            scaler=training.scaler.state_dict(),
            session={"seconds": self.tally.seconds(), "lineage": list(self.tally.lineage)},
            averaged=training.averages.state(),
            guard=training.guard.state(),
            kind=type(training.optimizer).__name__,
        )
        needed = state_bytes(state)

        def attempt() -> Path:
            mend(states)
            require_room(states, needed)
            return write_state(states, state, keep=self._save.keep_states)

        path = self._patience.until_done(attempt, place) if wait else attempt()
        self._state_at = time.monotonic()
        self.saved_states.add(place.step)
        self._emit(Saved("state", place.step, place.epoch, str(path), checked=True))

    def write_network(self, place: Place, stem: str, *, final: bool = False) -> bool:
        """Write a network file, read it back, list it, prune, copy the final one; whether memory sufficed.

        Waits while the disk does not take it, and raises Unsaved where a stop is asked for meanwhile.
        """
        self._emit(Phase("saving"))
        path = self._folder.path / f"{stem}.safetensors"
        try:
            if not self._with_memory(
                "network", place, lambda: self._put_network(place, path, final)
            ):
                return False
            self._network_at = time.monotonic()
            size = self._patience.until_done(lambda: self._list(path, place, final), place)
        except GaveUp as left:
            raise self._unsaved(place, "network file", left) from None
        self._emit(
            Saved(
                "network",
                place.step,
                place.epoch,
                str(path),
                bytes=size,
                checked=True,
                final=final,
            )
        )
        if final and self._save.copy_to is not None:
            self._copy(path, self._save.copy_to, place)
        return True

    def _list(self, path: Path, place: Place, final: bool) -> int:
        return self._networks.add(path, place, final=final, keep=self._save.keep_last)

    def _put_network(self, place: Place, path: Path, final: bool) -> None:
        training = self._training
        with averaged_weights(training):
            tensors = training.network.tensors(_DTYPES[self._save.precision])
            needed = sum(tensor.nbytes + NAME_BYTES for tensor in tensors.values())

            def attempt() -> None:
                require_room(path.parent, needed + METADATA_BYTES)
                write_network(path, tensors, self._metadata(place))
                verify_network(path, tensors)

            self._patience.until_done(attempt, place)
            idle = final and training.network.changes_nothing()
        if idle:
            self._emit(Warned("Every weight of the finished file is 0: nothing was learnt."))

    def _with_memory(self, what: Owed, place: Place, write: Callable[[], None]) -> bool:
        """Write; where memory runs short, once more with what is free, and then at the next step."""
        device = self._training.device
        short = False
        try:
            tried_again(write, lambda: free_memory(device))
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            short = True
        if not short:
            self._owed.discard(what)
            return True
        free_memory(device)
        self._owed.add(what)
        thing = "state" if what == "state" else "network file"
        self._emit(
            Warned(
                f"There was not enough memory to save the {thing} of step {place.step};"
                " it is tried again at the next step."
            )
        )
        return False

    def _unsaved(self, place: Place, what: str, left: GaveUp) -> Unsaved:
        """The way out of a wait that was ended by a stop: a state may fit where a file did not."""
        if what != "state" and place.step not in self.saved_states:
            with contextlib.suppress(OSError, RuntimeError, MemoryError):
                self._put_state(place, wait=False)
        last = newest_step(self._folder.states)
        if place.step in self.saved_states:
            kept = "Its state is saved"
        elif last:
            kept = f"The last state is that of step {last}"
        else:
            kept = "No state was saved yet"
        message = (
            f"Stopped at step {place.step} without its {what}. {left.trouble.reason} {kept}:"
            f" `lyctui resume {self._folder.called}` goes on from there."
        )
        return Unsaved(place, message)

    def _copy(self, path: Path, folder: Path, place: Place) -> None:
        try:
            copy = copy_new(path, folder.expanduser())
        except OSError as error:
            why = error.strerror or type(error).__name__
            self._emit(Warned(f"The file could not be copied to {folder}: {why}."))
        else:
            self._emit(Saved("copy", place.step, place.epoch, str(copy), checked=True, final=True))

    @property
    def files(self) -> list[str]:
        """Network files of the run."""
        return self._networks.files

    def sample_if_missing(self, place: Place) -> None:
        """Pictures of this place, unless they were made before the run was interrupted."""
        if not self._has_folder():
            return
        with averaged_weights(self._training):
            last = place.step == self._training.total_steps
            made = self._previews.make_if_missing(place, last=last)
        if made:
            self._emit(Phase("training"))

    def sample(self, place: Place) -> None:
        """Make the preview pictures; a failure here is told and training goes on."""
        if not self._has_folder():
            what = f"No pictures were made at step {place.step}: the run's folder is not there."
            self._emit(Warned(what))
            return
        with averaged_weights(self._training):
            self._previews.make(place)

    def _has_folder(self) -> bool:
        """Where it is not there, pictures must not make one in what lies at its place."""
        try:
            self._patience.require_folder()
        except OSError:
            return False
        return True


_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def _overdue(since: float, minutes: float) -> bool:
    return minutes > 0 and time.monotonic() - since >= minutes * 60


def _every(number: int, interval: int) -> bool:
    return interval > 0 and number > 0 and number % interval == 0
