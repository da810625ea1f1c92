"""What a run does while its disk is full, read-only or away: it waits, listens, and goes on by itself."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import TypeVar

from engine.checkpoint.state import Place
from engine.control import Control, Request
from engine.events import Acknowledged, Event, Phase, Waiting
from engine.room import Trouble, trouble_of, wait_for
from engine.runs import RunFolder

T = TypeVar("T")

POLL_SECONDS = 2.0
"""Between two tries, unless a request comes."""


class Unsaved(Exception):
    """The user asked to stop while something of `place` could not be written; `message` says what is kept."""

    def __init__(self, place: Place, message: str) -> None:
        super().__init__(message)
        self.place = place
        self.message = message


class Patience:
    """Tries to write until it works; `control` brings what is asked for meanwhile."""

    def __init__(self, folder: RunFolder, control: Control, emit: Callable[[Event], None]) -> None:
        self._folder = folder
        self._control = control
        self._emit = emit
        self._later: list[Request] = []
        self._waited = False

    def until_done(self, attempt: Callable[[], T], place: Place) -> T:
        """What `attempt` gives once the disk takes it. Raises GaveUp where a stop is asked for meanwhile.

        A request to save has it tried at once. All but a stop are left for the end of the step.
        """

        def tried() -> T:
            self.require_folder()
            return attempt()

        self._waited = False
        try:
            done = wait_for(
                tried,
                explain=lambda error: trouble_of(error, self._folder.path),
                tell=self._tell,
                hold=lambda: self._hold(place),
            )
            if self._waited:
                self._emit(Phase("saving"))
            return done
        finally:
            self._control.give_back(self._later)
            self._later.clear()

    def require_folder(self) -> None:
        """Raise FileNotFoundError where the run's folder is gone, or another lies at its place."""
        if not self._folder.recipe.is_file():
            gone = errno.ENOENT
            raise FileNotFoundError(gone, os.strerror(gone), str(self._folder.recipe))

    def _tell(self, trouble: Trouble | None) -> None:
        if trouble is None:
            self._emit(Waiting(""))
        else:
            self._waited = True
            self._emit(Waiting(trouble.reason, trouble.remedy))
            self._emit(Phase("waiting"))

    def _hold(self, place: Place) -> bool:
        self._control.wait(POLL_SECONDS)
        for request in self._control.take():
            if request == "stop":
                self._emit(Acknowledged(request, place.step))
                return False
            self._later.append(request)
        return True
