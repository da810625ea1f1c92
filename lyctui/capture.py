"""Output capture: while a screen or a line log is up, descriptors 1 and 2 lead into a log file.

Prints, warnings, logging handlers made early, C++ libraries and child processes all end there, and
none of them can fail because the terminal went away.
"""

from __future__ import annotations

import contextlib
import os
import select
import stat
import sys
import time
from collections.abc import Callable
from pathlib import Path

from lyctui.paths import make_private
from lyctui.text import inert

PATIENCE_SECONDS = 1.0
"""A terminal that takes nothing for so long is not waited for; nor is a pipe, once we are to leave."""
LOOK_SECONDS = 0.25


class Capture:
    """Points descriptors 1 and 2 at a log and back. Used from the main thread only."""

    def __init__(self) -> None:
        self.log: Path | None = None
        """Where output goes now; None while it goes nowhere or is not captured."""
        self.problem = ""
        """Why the log cannot be written, once."""
        self._saved: tuple[int, int] | None = None

    @property
    def active(self) -> bool:
        """Whether output is captured."""
        return self._saved is not None

    def begin(self, log: Path | None) -> None:
        """Capture into `log`; into nothing when it cannot be written or is None."""
        _flush_streams()
        if self._saved is None:
            self._saved = (os.dup(1), os.dup(2))
        self.switch(log)

    def switch(self, log: Path | None) -> None:
        """Lead captured output into another log."""
        if self._saved is None:
            return
        _flush_streams()
        descriptor = self._open(log)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        os.close(descriptor)

    def _open(self, log: Path | None) -> int:
        self.log = None
        if log is not None:
            try:
                make_private(log.parent)
                descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            except OSError as error:
                self.problem = f"The log {log} cannot be written: {error.strerror}."
            else:
                self.log = log
                return descriptor
        return os.open(os.devnull, os.O_WRONLY)

    def end(self) -> None:
        """Give descriptors 1 and 2 back."""
        if self._saved is None:
            return
        _flush_streams()
        for descriptor, saved in zip((1, 2), self._saved, strict=True):
            os.dup2(saved, descriptor)
            os.close(saved)
        self._saved = None

    def abandon(self) -> None:
        """The terminal is gone: 1 and 2 stay where they are, and 0 reads nothing.

        A stray print would otherwise raise EIO in the thread that trains.
        """
        nothing = os.open(os.devnull, os.O_RDWR)
        os.dup2(nothing, 0)
        if self._saved is None:
            os.dup2(nothing, 1)
            os.dup2(nothing, 2)
        else:
            for saved in self._saved:
                os.close(saved)
            self._saved = None
        os.close(nothing)


def _flush_streams() -> None:
    for stream in (sys.__stdout__, sys.__stderr__):
        if stream is not None:
            with contextlib.suppress(OSError, ValueError):
                stream.flush()


def private_terminal(descriptor: int) -> int:
    """A descriptor of our own for the terminal, closed in children.

    It is opened anew where that is allowed, so that it can be non-blocking without changing the
    shell's; elsewhere it is a duplicate.
    """
    try:
        return os.open(os.ttyname(descriptor), os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK)
    except OSError:
        return os.dup(descriptor)


def write_all(
    descriptor: int,
    data: bytes,
    patience: float | None,
    hurried: Callable[[], bool] = lambda: False,
) -> bool:
    """Write to a descriptor, which may be non-blocking; False when it took longer than `patience`.

    Where there is no end to the patience, `hurried` may set one meanwhile. Raises OSError when the
    other end is gone.
    """
    # A blocking pipe that takes anything takes so much at once; more would wait for its reader.
    most = select.PIPE_BUF if os.get_blocking(descriptor) else 65536
    deadline = None if patience is None else time.monotonic() + patience
    view = memoryview(data)
    while view:
        written = _write_some(descriptor, view[:most], 0.0 if patience == 0 else LOOK_SECONDS)
        view = view[written:]
        if not written and deadline is None and hurried():
            deadline = time.monotonic() + PATIENCE_SECONDS
        if not written and deadline is not None and time.monotonic() >= deadline:
            return False
    return True


def _write_some(descriptor: int, data: memoryview, seconds: float) -> int:
    """Write what is taken within so many seconds; how many bytes that were."""
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    with contextlib.suppress(BlockingIOError):
        if poll.poll(seconds * 1000):
            return os.write(descriptor, data)
    return 0


class Output:
    """Where lines of text go: descriptor 1 as it was before capture. It never raises.

    A pipe or a file waits for its reader, as programs do, until we are in a hurry to leave; a terminal
    that takes nothing for a second loses the lines, and one that is gone loses all.
    """

    def __init__(self, descriptor: int = 1) -> None:
        self._terminal = _is_tty(descriptor)
        self._descriptor = -1
        self.dead = False
        self.hurry = False
        """Whether a pipe's reader is no longer waited for; may be set by another thread."""
        self._stalled = False
        try:
            self._descriptor = (
                private_terminal(descriptor) if self._terminal else os.dup(descriptor)
            )
        except OSError:
            self.dead = True

    @property
    def terminal(self) -> bool:
        """Whether people read it."""
        return self._terminal

    def line(self, text: str) -> None:
        """Write one line."""
        if self.dead:
            return
        # After raw mode, or beside another program's output, a bare line feed may not return.
        end = "\r\n" if self._terminal else "\n"
        # Whoever made the line took its escapes already; here nothing can be forgotten.
        data = (inert(text, lines=True) + end).encode("utf-8", "replace")
        patience = None
        if self._terminal or (self.hurry and self._stalled):
            # Waiting once is enough: the lines after it are lost until it takes one again.
            patience = 0.0 if self._stalled else PATIENCE_SECONDS
        try:
            self._stalled = not write_all(self._descriptor, data, patience, lambda: self.hurry)
        except OSError:
            self.dead = True

    def close(self) -> None:
        """Give the descriptor back."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        self.dead = True


def _is_tty(descriptor: int) -> bool:
    try:
        return stat.S_ISCHR(os.fstat(descriptor).st_mode) and os.isatty(descriptor)
    except OSError:
        return False
