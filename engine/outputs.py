"""What a run writes on its way: network files, states, preview pictures, and when each is due."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from engine.assemble import Training
from engine.checkpoint.resume import Hop
from engine.checkpoint.state import Identity, Place
from engine.control import Control
from engine.errors import OutOfMemory, Problem
from engine.events import Event, Phase, Warned
from engine.optim.averaged import averaged_weights
from engine.previews import Previews, every
from engine.runs import RunFolder
from engine.saving import MetadataAt, Saver
from engine.writing import remove_left_behind

if TYPE_CHECKING:
    from engine.settings.save import Save


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

    def session(self) -> dict[str, object]:
        """What a state holds of it."""
        return {"seconds": self.seconds(), "lineage": list(self.lineage)}


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
        self.tally = tally
        self.news: Callable[[], Sequence[str]] = tuple
        """What there is to warn of at each epoch's end."""
        _remove_left_behind(folder)
        self._saver = Saver(
            training,
            folder,
            emit,
            save=save,
            identity=identity,
            metadata=metadata,
            session=tally.session,
            control=control,
        )

    # When ---------------------------------------------------------------------------------

    def due(self, place: Place, *, ends_epoch: bool, last: bool) -> bool:
        """Whether anything is to be written after this step."""
        return (
            ends_epoch
            or last
            or self.sample_due(place, ends_epoch=ends_epoch, last=last)
            or self._state_overdue()
            or self._network_due(place)
            or bool(self._saver.owed)
        )

    def sample_due(self, place: Place, *, ends_epoch: bool, last: bool) -> bool:
        """Whether preview pictures are due after this step."""
        return self._previews.due(place, ends_epoch=ends_epoch, last=last)

    def _network_due(self, place: Place) -> bool:
        by_time = _overdue(self._saver.network_at, self._save.every_minutes)
        by_step = every(place.step, self._save.every_steps)
        return by_time or by_step or "network" in self._saver.owed

    def _state_overdue(self) -> bool:
        return _overdue(self._saver.state_at, self._save.state_minutes)

    # What ---------------------------------------------------------------------------------

    def write_due(self, place: Place, *, ends_epoch: bool, last: bool) -> None:
        """Write network file, state and pictures, in the order of what would be missed most."""
        if ends_epoch and not last and every(place.epoch, self._save.every_epochs):
            self.write_network(place, f"{self._name}-{place.epoch:06d}")
        if last:
            self._write_final(place)
        elif self._network_due(place):
            self.write_network(place, f"{self._name}-step{place.step:08d}")
        if ends_epoch or last or self._state_overdue() or "state" in self._saver.owed:
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
        if self._saver.write_network(place, self._name, final=True):
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
        """Write the exact state; whether there was memory for it (engine.saving)."""
        return self._saver.write_state(place)

    def write_network(self, place: Place, stem: str) -> bool:
        """Write a network file of this step; whether it was written (engine.saving)."""
        return self._saver.write_network(place, stem)

    @property
    def saved_states(self) -> set[int]:
        """Steps whose state this process has written; older ones may have been removed since."""
        return self._saver.saved_states

    @property
    def files(self) -> list[str]:
        """Network files of the run."""
        return self._saver.files

    def sample_if_missing(self, place: Place) -> None:
        """Pictures of this place, unless they were made before the run was interrupted."""
        if not self._saver.has_folder():
            return
        with averaged_weights(self._training):
            last = place.step == self._training.total_steps
            made = self._previews.make_if_missing(place, last=last)
        if made:
            self._emit(Phase("training"))

    def sample(self, place: Place) -> None:
        """Make the preview pictures; a failure here is told and training goes on."""
        if not self._saver.has_folder():
            what = f"No pictures were made at step {place.step}: the run's folder is not there."
            self._emit(Warned(what))
            return
        with averaged_weights(self._training):
            self._previews.make(place)


def _remove_left_behind(folder: RunFolder) -> None:
    """What a killed process was writing beside network files and pictures."""
    for place in (folder.path, folder.samples, *folder.samples.glob("*/")):
        remove_left_behind(place)


def _overdue(since: float, minutes: float) -> bool:
    return minutes > 0 and time.monotonic() - since >= minutes * 60
