"""Writing network files and states: what is done while the disk does not take them, or memory is short."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from engine.assemble import Training
from engine.checkpoint.atomic import copy_new
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
from engine.errors import NetworkFileError, Problem, TrainingError
from engine.events import Event, Phase, Saved, Warned
from engine.memory import free_memory, is_out_of_memory, tried_again
from engine.network_list import NetworkList
from engine.networks.files import verify_network, write_network
from engine.optim.averaged import averaged_weights
from engine.patience import Patience, Unsaved
from engine.room import GaveUp, require_room
from engine.runs import RunFolder

if TYPE_CHECKING:
    from engine.settings.save import Save

MetadataAt = Callable[[Place], dict[str, str]]
SessionNow = Callable[[], dict[str, object]]
Owed = Literal["state", "network"]

NAME_BYTES = 200
"""Of a header, for each tensor of a network file."""
METADATA_BYTES = 100_000


class TooLarge(Exception):
    """The network has numbers that the file's number format does not hold."""


class Saver:
    """Writes what it is told to, and tells of it. What there was no memory for is `owed`."""

    def __init__(
        self,
        training: Training,
        folder: RunFolder,
        emit: Callable[[Event], None],
        *,
        save: Save,
        identity: Identity,
        metadata: MetadataAt,
        session: SessionNow,
        control: Control,
    ) -> None:
        self._training = training
        self._folder = folder
        self._emit = emit
        self._save = save
        self._identity = identity
        self._metadata = metadata
        self._session = session
        self._patience = Patience(folder, control, emit)
        self._networks = NetworkList(folder)
        self.saved_states: set[int] = set()
        """Steps whose state this process has written; older ones may have been removed since."""
        self.owed: set[Owed] = set()
        """What there was no memory for when it was due."""
        self.state_at = self.network_at = time.monotonic()
        """When the last one was written, or this process began."""

    @property
    def files(self) -> list[str]:
        """Network files of the run."""
        return self._networks.files

    def has_folder(self) -> bool:
        """Whether the run's folder is there: what lies at its place must not be written into."""
        try:
            self._patience.require_folder()
        except OSError:
            return False
        return True

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
            session=self._session(),
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
        self.state_at = time.monotonic()
        self.saved_states.add(place.step)
        self._emit(Saved("state", place.step, place.epoch, str(path), checked=True))

    def write_network(self, place: Place, stem: str, *, final: bool = False) -> bool:
        """Write a network file, read it back, list it, prune, copy the final one; whether it was written.

        Waits while the disk does not take it, and raises Unsaved where a stop is asked for meanwhile;
        TrainingError where the final one cannot be written in save.precision.
        """
        self._emit(Phase("saving"))
        path = self._folder.path / f"{stem}.safetensors"
        try:
            if not self._with_memory(
                "network", place, lambda: self._put_network(place, path, final)
            ):
                return False
            self.network_at = time.monotonic()
            size = self._patience.until_done(lambda: self._list(path, place, final), place)
        except GaveUp as left:
            raise self._unsaved(place, "network file", left) from None
        except TooLarge:
            self._refuse(place, final)
            return False
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
            try:
                tensors = training.network.tensors(DTYPES[self._save.precision])
            except NetworkFileError:  # as it tells of numbers that are not finite then
                raise TooLarge from None
            needed = sum(tensor.nbytes + NAME_BYTES for tensor in tensors.values())

            def attempt() -> None:
                require_room(path.parent, needed + METADATA_BYTES)
                write_network(path, tensors, self._metadata(place))
                verify_network(path, tensors)

            self._patience.until_done(attempt, place)
            idle = final and training.network.changes_nothing()
        if idle:
            self._emit(Warned("Every weight of the finished file is 0: nothing was learnt."))

    def _refuse(self, place: Place, final: bool) -> None:
        """Say that a file was not written, whose numbers are sound only as they are trained."""
        large = f"numbers that are too large for {self._save.precision}"
        self.owed.discard("network")
        self.network_at = time.monotonic()
        if not final:
            self._emit(
                Warned(f"The network file of step {place.step} was not written: it has {large}.")
            )
            return
        saved = "Its state is saved. " if self.write_state(place) else ""
        resume = f"`lyctui resume {self._folder.called} --set save.precision=fp32`"
        go_on = "" if self._save.precision == "fp32" else f"Go on with {resume}. "
        raise TrainingError(
            Problem(
                f"The finished file was not written: it has {large}.",
                where=str(self._folder.path),
                remedy=f"{saved}{go_on}Such numbers are rarely wanted: the next run may need a lower"
                " optim.lr.",
                path="save.precision",
            )
        )

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
            self.owed.discard(what)
            return True
        free_memory(device)
        self.owed.add(what)
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
            # Written once more after a rollback, it knows of that; the one before does not.
            kept = "The one from before is whole" if what == "state" else "Its state is saved"
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


DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
