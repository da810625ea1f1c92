"""Processes that train a run and may die in it: forked from the test, so that a death costs no import.

What is patched is patched in the child. It leaves by os._exit: no part of pytest runs in it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from engine.events import Event, Warned

CRASHED = 70
"""Exit code of a child whose own code failed, not the run's."""


def die() -> NoReturn:
    """End this process as SIGKILL ends it: nothing is flushed, nothing is cleaned up."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("still alive")


@dataclass(frozen=True, slots=True)
class End:
    """How a victim ended."""

    signal: int
    """0 where it left by itself."""
    code: int
    log: Path

    @property
    def killed(self) -> bool:
        """Whether it died of SIGKILL."""
        return self.signal == signal.SIGKILL

    def said(self) -> str:
        """What it wrote to its terminal."""
        return self.log.read_text("utf-8", "replace")[-3000:]


class Victim:
    """A child process that does `work` and leaves with the code it gives."""

    def __init__(self, work: Callable[[], int], log: Path) -> None:
        self._log = log
        with warnings.catch_warnings():
            # Threads of the test's own process do not come along, and nothing here needs them.
            warnings.simplefilter("ignore", DeprecationWarning)
            self.pid = os.fork()
        if self.pid == 0:
            _child(work, log)

    def send(self, number: int = signal.SIGKILL) -> None:
        """Send a signal; a child that is gone already is left alone."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def wait(self, seconds: float = 240.0) -> End:
        """Wait for its end; one that hangs is killed and fails the test."""
        deadline = time.monotonic() + seconds
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                break
            if time.monotonic() > deadline:
                self.send()
                os.waitpid(self.pid, 0)
                raise AssertionError(f"the child hung: {self._log.read_text()[-3000:]}")
            time.sleep(0.003)
        if os.WIFSIGNALED(status):
            return End(os.WTERMSIG(status), -1, self._log)
        return End(0, os.WEXITSTATUS(status), self._log)


def _child(work: Callable[[], int], log: Path) -> NoReturn:
    code = CRASHED
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        code = work()
    except BaseException:
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(code)


def nothing() -> None:
    """Patch nothing."""


@dataclass(frozen=True, slots=True)
class Job:
    """A run and how a process is to train it."""

    folder: Path
    cache: Path
    resume: bool = False
    changes: Sequence[str] = ()
    """Settings that a resume changes, as `section.key=value`."""
    patch: Callable[[], None] = nothing
    """Done in the child before the session is made."""
    watch: Callable[[Event, Any], None] | None = None
    """Sees each event and the run's control, in the child."""
    base: object = None
    """The base model as the parent has loaded it, untouched; None loads it from its file."""
    prove: bool = True
    """Whether the finished file is checked in a clean base at the end, which costs a third of a small run."""

    def work(self) -> int:
        """Train to the end; the run's exit code."""
        from engine.session import Session, stored_recipe

        self.prepare()
        self.patch()
        holder: list[Session] = []

        def seen(event: Event) -> None:
            if isinstance(event, Warned):
                os.write(2, f"{event.message}\n".encode())
            if self.watch is not None:
                self.watch(event, holder[0].control)

        session = Session(
            stored_recipe(self.folder, self.changes),
            self.folder,
            resume=self.resume,
            cache=self.cache,
            on_event=seen,
        )
        holder.append(session)
        session.start()
        session.wait()
        if session.error is not None:
            os.write(2, f"{session.error}\n".encode())
        return CRASHED if session.exit_code is None else session.exit_code

    def prepare(self) -> None:
        """Give this process the base as it is there, and leave out what is not wanted."""
        import engine.assemble
        import engine.conduct

        if self.base is not None:
            engine.assemble._load_base = lambda *given: self.base  # type: ignore[assignment]
        if not self.prove:
            engine.conduct.prove_finished = lambda *given, **named: None

    def begin(self) -> Victim:
        """Start it in a child."""
        return Victim(self.work, self.folder.with_name(f"{self.folder.name}.log"))

    def run(self) -> End:
        """Do it in a child and wait."""
        return self.begin().wait()
