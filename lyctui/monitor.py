"""Runs as the screens see them: one that trains in this process, and one watched from its folder.

Both give snapshots of the same reducer and take the same requests, so that `train`, `resume` and
`watch` share one monitor. Screens poll; nothing here calls into a screen.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from engine.control import Control, Request
from engine.errors import EngineError, EnvironmentFault, Problem
from engine.events import Ended, Event
from engine.runs import RunFolder, ask_run, default_runs_folder, owner_of, read_events
from engine.snapshot import Reducer, Snapshot

if TYPE_CHECKING:
    from engine.session import Examine
    from engine.settings import Recipe

OWNER_SECONDS = 2.0
"""How often a watcher looks whether the run's process lives."""
UNEXPECTED = "The run ended unexpectedly: its process is gone, and left no word."
UNEXPECTED_REMEDY = "Resume it: what was done since its last saved state is computed again."


class RunView(Protocol):
    """A run as the monitor sees it."""

    @property
    def folder(self) -> Path: ...
    @property
    def own(self) -> bool:
        """Whether it trains in this process."""
        ...

    @property
    def live(self) -> bool:
        """Whether it still goes on."""
        ...

    @property
    def read_only(self) -> str:
        """Why requests cannot reach it, or ""."""
        ...

    def snapshot(self) -> Snapshot:
        """The latest numbers, without waiting."""
        ...

    def ask(self, request: Request) -> str | None:
        """Ask it for something; None once asked, else why not. May take seconds for a watched run."""
        ...

    def events(self) -> list[Event]:
        """Events since the last call, for line logs."""
        ...

    def wait(self, seconds: float) -> bool:
        """Wait for its end; True when it has ended."""
        ...

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What made it fail."""
        ...


class SessionLike(Protocol):
    """What the monitor uses of `engine.session.Session`."""

    @property
    def folder(self) -> Any: ...
    @property
    def control(self) -> Control: ...
    @property
    def exit_code(self) -> int | None: ...
    @property
    def error(self) -> BaseException | None: ...
    def start(self) -> None: ...
    def snapshot(self) -> Snapshot: ...
    def wait(self, timeout: float | None = None) -> bool: ...


class EventFeed:
    """Events kept for a line log. The engine puts, which never waits; a full feed drops the oldest."""

    LIMIT = 100_000

    def __init__(self) -> None:
        self._events: deque[Event] = deque(maxlen=self.LIMIT)
        self.open = False
        """Whether anyone reads; closed, nothing is kept."""

    def __call__(self, event: Event) -> None:
        if self.open:
            self._events.append(event)

    def take(self) -> list[Event]:
        """Everything that waits."""
        taken: list[Event] = []
        while self._events:
            taken.append(self._events.popleft())
        return taken


class LiveRun:
    """The run that trains in this process."""

    own = True
    read_only = ""

    def __init__(
        self,
        session: SessionLike,
        feed: EventFeed | None = None,
        on_disconnect: Literal["continue", "stop"] = "continue",
    ) -> None:
        self.session = session
        self.feed = feed or EventFeed()
        self.on_disconnect: Literal["continue", "stop"] = on_disconnect
        folder = session.folder
        self.folder = folder.path if isinstance(folder, RunFolder) else Path(folder)
        self._started = False

    @property
    def live(self) -> bool:
        """Whether training, or saving what it leaves, still goes on."""
        return self._started and not self.session.wait(0)

    @property
    def exit_code(self) -> int:
        """The run's own exit code."""
        return self.session.exit_code or 0

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What made it fail: from the exception, or from the last event."""
        error = self.session.error
        if isinstance(error, EngineError):
            return error.problems
        found = problems_of(self.session.snapshot())
        if not found and error is not None:
            return (Problem(f"{type(error).__name__}: {error}"),)
        return found

    def start(self) -> None:
        """Begin to train."""
        if not self._started:
            self._started = True
            self.session.start()

    def snapshot(self) -> Snapshot:
        """The latest numbers."""
        return self.session.snapshot()

    def ask(self, request: Request) -> str | None:
        """Leave a request for the next step boundary."""
        if not self.live:
            return "The run has ended."
        self.session.control.ask(request)
        return None

    def events(self) -> list[Event]:
        """Events since the last call, while the feed is open."""
        return self.feed.take()

    def wait(self, seconds: float) -> bool:
        """Wait for the end."""
        return not self._started or self.session.wait(seconds)


def open_run(
    recipe: Recipe,
    origins: Mapping[str, Any] | None = None,
    *,
    examine: Examine | None = None,
) -> LiveRun:
    """Make a run's folder and a run in it, not yet started. Raises EngineError."""
    from engine.session import Session, create_run

    try:
        folder = create_run(recipe, dict(origins or {}))
    except OSError as error:
        raise _no_place(recipe, error) from error
    name, root = folder.name, folder.parent
    placed = recipe.run.model_copy(update={"name": name, "folder": root})
    feed = EventFeed()
    session = Session(
        recipe.model_copy(update={"run": placed}), folder, examine=examine, on_event=feed
    )
    return LiveRun(session, feed, recipe.run.on_disconnect)


def _no_place(recipe: Recipe, error: OSError) -> EnvironmentFault:
    where = str(recipe.run.folder or default_runs_folder())
    return EnvironmentFault(
        Problem(
            f"The run's folder cannot be made: {error.strerror or error}.",
            where=where,
            remedy="Set run.folder, or LYCTUI_RUNS, to a folder that you may write to.",
            path="run.folder",
        )
    )


def reopen_run(folder: Path, *, from_step: int | None = None) -> LiveRun:
    """A stopped or lost run, to go on from its state, not yet started. Raises EngineError."""
    from engine.session import Session
    from engine.settings.toml import read_recipe

    recipe = read_recipe(RunFolder(folder).recipe)
    feed = EventFeed()
    session = Session(recipe, folder, resume=True, from_step=from_step, on_event=feed)
    return LiveRun(session, feed, recipe.run.on_disconnect)


class WatchedRun:
    """A run of another process, read from its folder; it never notices."""

    own = False
    on_disconnect: Literal["continue", "stop"] = "continue"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._paths = RunFolder(folder)
        self._reducer = Reducer(run=folder.name)
        self._offset = 0
        self._new: list[Event] = []
        # `ask` and `snapshot` may come from two threads of a screen.
        self._lock = threading.Lock()
        self._owner = owner_of(self._paths)
        self._looked = time.monotonic()
        self._read()

    def _read(self) -> None:
        with self._lock:
            events, self._offset = read_events(self._paths.events, self._offset)
            self._reducer.apply_all(events)
            self._new.extend(events)

    @property
    def live(self) -> bool:
        """Whether its process still holds the run."""
        now = time.monotonic()
        if self._owner is not None and now - self._looked > OWNER_SECONDS:
            self._looked = now
            self._owner = owner_of(self._paths)
        return self._owner is not None

    @property
    def read_only(self) -> str:
        """A run on another host can be seen, not asked."""
        if self._owner is not None and not self._owner.here:
            return f"The run is on {self._owner.host}; ask it from there."
        return ""

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What made it fail, as its last event says."""
        return problems_of(self.snapshot())

    def snapshot(self) -> Snapshot:
        """The latest numbers in the file; a run that died without a word is said to have ended."""
        live = self.live
        self._read()
        snapshot = self._reducer.snapshot
        if live or snapshot.end is not None:
            return snapshot
        end = Ended(
            state="failed",
            run=snapshot.run,
            files=snapshot.files,
            steps=snapshot.step,
            exit=1,
            message="The run ended unexpectedly: its process is gone.",
            problems=({"what": UNEXPECTED, "remedy": UNEXPECTED_REMEDY},),
        )
        when = snapshot.log[-1].time if snapshot.log else snapshot.started_at
        return replace(snapshot, state="failed", end=end, ended_at=when)

    def ask(self, request: Request) -> str | None:
        """Send a request through the run's socket or control folder."""
        try:
            ask_run(self.folder, request)
        except (EngineError, OSError) as error:
            return str(error)
        return None

    def events(self) -> list[Event]:
        """Events since the last call."""
        self._read()
        with self._lock:
            taken, self._new = self._new, []
        return taken

    def wait(self, seconds: float) -> bool:
        """Wait for its end."""
        deadline = time.monotonic() + seconds
        while self.live:
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            time.sleep(min(0.25, left))
        return True


def problems_of(snapshot: Snapshot) -> tuple[Problem, ...]:
    """The problems that the last event carries."""
    if snapshot.end is None or snapshot.end.state != "failed":
        return ()
    found = tuple(
        Problem(
            str(item.get("what", "")),
            str(item.get("where", "")),
            str(item.get("remedy", "")),
            str(item.get("path", "")),
        )
        for item in snapshot.end.problems
    )
    return found or (Problem(snapshot.end.message or "Training failed."),)
