"""A training run as an object: owns the thread, the events, the lock and the control socket.

Nothing here imports torch until the thread runs, so a screen can build a session and paint first.
"""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from engine.control import Control
from engine.errors import EngineError, Problem, RecipeError, RunError
from engine.events import Ended, Event, Phase, Scored, Warned
from engine.journal import EventLog, RunLog
from engine.listener import Listener
from engine.run_lock import Lock
from engine.runs import START_PREFIX, RunFolder, default_cache_folder
from engine.snapshot import Reducer, Snapshot

if TYPE_CHECKING:
    from PIL import Image

    from engine.settings import Recipe

Paint = Callable[[Sequence[str]], "list[Image.Image]"]
"""Makes one picture for each prompt with the network as it is now."""
Examine = Callable[[Literal["before", "after"], Paint], Scored]
"""Judges a network by its pictures, before and after training (the demo's concept score)."""

UNEXPECTED_EXIT = 1


class Session:
    """A training run in a thread of its own. Every method may be called from any thread."""

    def __init__(
        self,
        recipe: Recipe,
        folder: Path,
        *,
        resume: bool = False,
        from_step: int | None = None,
        cache: Path | None = None,
        examine: Examine | None = None,
        on_event: Callable[[Event], None] | None = None,
    ) -> None:
        # The folder decides the name: it got a number where the wanted one was taken.
        self.recipe = named_after(recipe, folder)
        self._cache = cache or default_cache_folder()
        self.folder = RunFolder(folder)
        self.control = Control()
        self.error: EngineError | None = None
        self._resume = resume
        self._from_step = from_step
        self._examine = examine
        self._on_event = on_event
        self._reducer = Reducer(run=self.folder.name)
        self._events = EventLog(self.folder.events)
        self._ended: Ended | None = None
        # Not a daemon: the process must outlive its terminal until the run has ended.
        self._thread = threading.Thread(target=self._run, name="training", daemon=False)

    def start(self) -> None:
        """Start training; returns at once."""
        self._thread.start()

    def snapshot(self) -> Snapshot:
        """The latest numbers, without waiting."""
        return self._reducer.snapshot

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the end; whether the run has ended."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    @property
    def alive(self) -> bool:
        """Whether the thread still runs."""
        return self._thread.is_alive()

    @property
    def exit_code(self) -> int | None:
        """Exit code of the run once it has ended."""
        return self._ended.exit if self._ended is not None else None

    # In the thread ------------------------------------------------------------------------

    def emit(self, event: Event) -> None:
        """Write an event down, sum it up, tell the listener. Called by the training thread only."""
        warning = self._events.append(event)
        self._reducer.apply(event)
        if warning:
            self._reducer.apply(Warned(warning))
        if self._on_event is not None:
            # A screen that has gone must not end training.
            with contextlib.suppress(Exception):
                self._on_event(event)

    def _run(self) -> None:
        began = time.monotonic()
        lock = Lock(self.folder)
        with RunLog(self.folder.log):
            try:
                notice = lock.acquire()
            except EngineError as error:
                self._fail_unlocked(error)
                return
            try:
                self._run_owned(lock, notice, began)
            finally:
                lock.release()

    def _run_owned(self, lock: Lock, notice: str, began: float) -> None:
        listener = Listener(self.folder, self.control, lock.beat)
        try:
            for words in (notice, listener.start()):
                if words:
                    self.emit(Warned(words))
            self._finish(self._train(), began)
        except EngineError as error:
            self._fail(error, began)
        except MemoryError:
            self._fail(_host_memory(), began)
        except Exception as error:  # the run must end with words, whatever broke
            self._fail(self._unexpected(error), began)
        finally:
            listener.stop()

    def _train(self) -> Ended:
        from engine.conduct import conduct

        self.emit(Phase("loading"))
        return conduct(
            self.recipe,
            self.folder,
            self._cache,
            self.control,
            self.emit,
            resume=self._resume,
            from_step=self._from_step,
            examine=self._examine,
        )

    def _finish(self, ended: Ended, began: float) -> None:
        self._ended = ended
        self.emit(ended)
        logging.getLogger("engine").info(
            "%s after %.0f s at step %d", ended.state, time.monotonic() - began, ended.steps
        )

    def _fail(self, error: EngineError, began: float) -> None:
        logging.getLogger("engine").error("%s", error)
        self.error = error
        # Their frames hold the model and all that was trained, and the next run will need the room.
        error.__traceback__ = error.__context__ = error.__cause__ = None
        self._ended = self._ended_failed(error, time.monotonic() - began)
        self.emit(self._ended)

    def _fail_unlocked(self, error: EngineError) -> None:
        """Another process owns the run: its event file is not ours to write."""
        self.error = error
        self._ended = self._ended_failed(error, 0.0)
        self._reducer.apply(self._ended)
        if self._on_event is not None:
            with contextlib.suppress(Exception):
                self._on_event(self._ended)

    def _ended_failed(self, error: EngineError, seconds: float) -> Ended:
        snapshot = self._reducer.snapshot
        return Ended(
            state="failed",
            run=str(self.folder.path),
            files=snapshot.files,
            steps=snapshot.step,
            exit=error.exit_code,
            seconds=seconds,
            message=str(error),
            problems=tuple(asdict(problem) for problem in error.problems),
        )

    def _unexpected(self, error: Exception) -> EngineError:
        logging.getLogger("engine").error("%s", traceback.format_exc())
        first_line = str(error).splitlines()[0] if str(error) else ""
        return EngineError(
            Problem(
                f"Something unforeseen went wrong: {type(error).__name__} {first_line}".rstrip()
                + ".",
                where=str(self.folder.path),
                remedy=f"The full report is in {self.folder.log}.",
            )
        )


def _host_memory() -> EngineError:
    from engine.errors import OutOfMemory

    return OutOfMemory(
        Problem(
            "The machine ran out of memory.",
            remedy="Set train.batch_size to 1, or data.cache_latents to disk, and resume.",
        )
    )


KEPT_FILES = ("weights", "targets_file")
"""Files of the network section that a run keeps a copy of, so that a resume needs nothing outside."""


def named_after(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe with name and place of its run's folder, and with the files kept there."""
    placed = recipe.run.model_copy(update={"name": folder.name, "folder": folder.parent})
    kept = {key: path for key in KEPT_FILES if (path := _kept_file(recipe, key, folder))}
    network = recipe.network.model_copy(update=kept)
    return recipe.model_copy(update={"run": placed, "network": network})


def _kept_file(recipe: Recipe, key: str, folder: Path) -> Path | None:
    """The run's own copy of a file, whether the recipe names the original or the copy."""
    path: Path | None = getattr(recipe.network, key)
    if path is None:
        return None
    names = [START_PREFIX + path.name] + [path.name] * path.name.startswith(START_PREFIX)
    return next((folder / each for each in names if (folder / each).is_file()), None)


def create_run(recipe: Recipe, origins: dict[str, Any] | None = None) -> Path:
    """Make a run's folder with its recipe; the name gets a number when it is taken."""
    from engine.checkpoint.atomic import write_text
    from engine.loggers import require_loggers
    from engine.planning.start import start_problems
    from engine.runs import default_runs_folder
    from engine.settings.toml import write_recipe

    problems = start_problems(recipe)
    if problems:
        raise RecipeError(*problems)
    require_loggers(recipe.run)
    root = (recipe.run.folder or default_runs_folder()).expanduser()
    root.mkdir(parents=True, exist_ok=True)
    stem = recipe.run.name or "run"
    folder = _free_folder(root, stem)
    _keep_files(recipe, folder)
    text = write_recipe(named_after(recipe, folder))
    write_text(RunFolder(folder).recipe, text, private=True)
    if origins:
        origins_text = json.dumps(origins, indent=1, default=str)
        write_text(RunFolder(folder).origins, origins_text, private=True)
    return folder


def _keep_files(recipe: Recipe, folder: Path) -> None:
    """Keep copies of the files the run starts from; leaves no folder behind where that fails."""
    from engine.checkpoint.atomic import copy_new

    for key in KEPT_FILES:
        path: Path | None = getattr(recipe.network, key)
        if path is None:
            continue
        source = path.expanduser()
        try:
            copy_new(source, folder, START_PREFIX + source.name)
        except OSError as error:
            shutil.rmtree(folder, ignore_errors=True)
            what = f"The file cannot be copied into the run: {error.strerror}."
            raise RunError(Problem(what, where=str(source), path=f"network.{key}")) from None


def stored_recipe(folder: Path, changes: Sequence[str] = ()) -> Recipe:
    """The recipe of a run, with `section.key=value` changes that a resume may make.

    A changed recipe replaces run.toml; the one before stays beside it under a number.
    """
    from engine.checkpoint.atomic import copy_new, write_text
    from engine.checkpoint.resume import changes as differences
    from engine.checkpoint.resume import refuse_forbidden
    from engine.settings.check import parse
    from engine.settings.toml import apply_sets, read_recipe, read_toml, write_recipe

    paths = RunFolder(folder)
    # The folder may have been moved since: it is where it is, whatever the recipe says.
    before = named_after(read_recipe(paths.recipe), folder)
    if not changes:
        return before
    after = named_after(parse(apply_sets(read_toml(paths.recipe), changes)), folder)
    found = differences(before, after)
    refuse_forbidden(found)
    if found:
        copy_new(paths.recipe, folder, private=True)
        write_text(paths.recipe, write_recipe(after), private=True)
    return after


def _free_folder(root: Path, stem: str) -> Path:
    number = 1
    while True:
        folder = root / (stem if number == 1 else f"{stem}_{number}")
        try:
            folder.mkdir()
        except FileExistsError:
            number += 1
        else:
            return folder
