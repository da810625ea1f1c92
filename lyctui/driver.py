"""A terminal driver that survives a lost terminal and keeps every other output off the screen.

Textual's own driver blocks or dies with the terminal, and training would die with it. This one
draws on a private descriptor, never waits for it, watches it for a hang-up, and captures descriptors
1 and 2 while the screens are up. It rests on private names of Textual 8.2, which the tests in
tests/terminal guard.
"""

from __future__ import annotations

import contextlib
import io
import os
import select
import sys
import termios
import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from textual.drivers.linux_driver import LinuxDriver

from lyctui.capture import private_terminal, write_all

if TYPE_CHECKING:
    from lyctui.app import LyctuiApp

MAX_WAITING = 256 * 1024
"""Characters that may wait for a slow terminal; later frames are left out and drawn anew."""
WATCH_MILLISECONDS = 250
RESTORE = (
    "\x1b[?2004l\x1b[?7h\x1b[?2048l\x1b[?1000l\x1b[?1003l\x1b[?1015l\x1b[?1006l\x1b[?1016l"
    "\x1b[<u\x1b[?1049l\x1b[?25h\x1b[?1004l\x1b[23;2t"
)
"""Leaves every mode that a screen may set: paste, wrap, resize, mouse, keys, buffer, cursor."""


class Writer(threading.Thread):
    """Writes to the terminal in its own thread; whoever puts text never waits."""

    def __init__(
        self, descriptor: int, on_error: Callable[[], None], on_gap: Callable[[], None]
    ) -> None:
        super().__init__(name="terminal-output", daemon=True)
        self._descriptor = descriptor
        self._on_error = on_error
        self._on_gap = on_gap
        self._condition = threading.Condition()
        self._waiting: deque[str] = deque()
        self._length = 0
        self._gap = False
        self._stopping = False
        self.dead = False

    def put(self, text: str) -> None:
        """Leave text to be written; left out when too much waits already."""
        with self._condition:
            if self.dead:
                return
            if self._length + len(text) > MAX_WAITING and self._length:
                self._gap = True
                return
            self._waiting.append(text)
            self._length += len(text)
            self._condition.notify()

    def forget(self) -> None:
        """Drop what waits: what follows restores the terminal and must not queue behind frames."""
        with self._condition:
            self._waiting.clear()
            self._length = 0
            self._gap = False

    def kill(self) -> None:
        """The terminal is gone: write nothing more."""
        with self._condition:
            self.dead = True
            self._waiting.clear()
            self._condition.notify()

    def stop(self, seconds: float) -> None:
        """Write what waits and end, or give up after `seconds`."""
        with self._condition:
            self._stopping = True
            self._condition.notify()
        self.join(seconds)

    def run(self) -> None:
        """Write until stopped or dead."""
        while True:
            with self._condition:
                while not (self._waiting or self._stopping or self.dead):
                    self._condition.wait()
                if self.dead or (self._stopping and not self._waiting):
                    return
                text = "".join(self._waiting)
                self._waiting.clear()
            try:
                write_all(self._descriptor, text.encode("utf-8", "replace"), None)
            except OSError:
                self.kill()
                self._on_error()
                return
            with self._condition:
                self._length = sum(map(len, self._waiting))
                gap, self._gap = self._gap and not self._waiting, self._gap and bool(self._waiting)
            if gap:
                self._on_gap()


class SafeDriver(LinuxDriver):
    """Textual's Linux driver, made safe for a program that outlives its terminal."""

    _app: LyctuiApp

    def __init__(
        self,
        app: LyctuiApp,
        *,
        debug: bool = False,
        mouse: bool = True,
        size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__(app, debug=debug, mouse=mouse, size=size)
        self._drawing = private_terminal(_terminal_descriptor())
        # The stock writer thread stays idle; whatever reaches it anyway goes nowhere.
        self._file = io.TextIOWrapper(io.BytesIO())
        self._writer: Writer | None = None
        self._watcher: threading.Thread | None = None
        self._closing = threading.Event()
        self._running_mode = False
        self._suspended = False
        self.dead = False

    def write(self, data: str) -> None:
        """Leave `data` for the terminal; dropped when it is dead. Never waits."""
        if self._writer is not None:
            self._writer.put(data)

    def _get_terminal_size(self) -> tuple[int, int]:
        try:
            width, height = os.get_terminal_size(self._drawing)
        except OSError:
            return 80, 24
        return width or 80, height or 24

    def start_application_mode(self) -> None:
        """Take the terminal. Refused once it is dead, and while it is already taken."""
        if self.dead or self._running_mode:
            return
        self._running_mode = True
        self._closing.clear()
        self._writer = Writer(self._drawing, self._lost, self._frames_left_out)
        self._writer.start()
        self._app.capture.begin(self._app.log_path)
        self.write("\x1b[22;2t")  # keep the window's title, to give it back
        super().start_application_mode()  # type: ignore[no-untyped-call]  # upstream's
        self._watcher = threading.Thread(target=self._watch, name="terminal-watch", daemon=True)
        self._watcher.start()

    def stop_application_mode(self) -> None:
        """Give the terminal back as it was; with a dead one, keep output in the log."""
        if not self._running_mode:
            return
        self._running_mode = False
        self._closing.set()
        if self._writer is not None:
            self._writer.forget()
        super().stop_application_mode()
        # Mouse reports in pixels: the stock driver turns them on and leaves them on.
        self.write("\x1b[?1016l\x1b[23;2t")
        if self.dead or self._hung_up(0):
            self.dead = True
            self._app.capture.abandon()
        else:
            self._app.capture.end()

    def close(self) -> None:
        """End the threads that write; a terminal that takes nothing is left after a second."""
        if self._writer is not None:
            self._writer.stop(1.0)
            if self._writer.is_alive():
                self._writer.kill()
        super().close()

    def _watch(self) -> None:
        while not self._closing.is_set():
            if self._hung_up(WATCH_MILLISECONDS):
                self._lost()
                return

    def _hung_up(self, milliseconds: int) -> bool:
        """Wait so long for a hang-up or an error on the terminal."""
        poll = select.poll()
        poll.register(self._drawing, 0)
        return bool(poll.poll(milliseconds))

    def _lost(self) -> None:
        """The terminal is gone: nothing is written or read any more, and the app is told once."""
        if self.dead or self._closing.is_set():
            return
        self.dead = True
        self.exit_event.set()
        if self._writer is not None:
            self._writer.kill()
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._app.terminal_lost)

    def _frames_left_out(self) -> None:
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._app.terminal_was_slow)

    def _run_input_thread(self) -> None:
        try:
            self.run_input_thread()
        except OSError:
            self._lost()
        except Exception as error:
            self._app.call_later(self._app.failed, error)

    def suspend_process(self) -> None:
        """Stop this process until `fg`, with the terminal given back (Ctrl+Z)."""
        self._suspended = True
        self._sigtstp_application()

    def _sigcont_application(self, *_: object) -> None:
        # A hang-up brings SIGCONT too, in the screens and long after them: the stock handler would
        # start a second input thread.
        if self._suspended:
            self._suspended = False
            super()._sigcont_application()

    def restore_now(self) -> None:
        """Restore the terminal at once, from a signal handler: no queue, no waiting."""
        with contextlib.suppress(OSError):
            os.set_blocking(self._drawing, False)
            os.write(self._drawing, RESTORE.encode())
        attributes: list[Any] | None = self.attrs_before
        if attributes is not None:
            with contextlib.suppress(termios.error):
                termios.tcsetattr(self.fileno, termios.TCSANOW, attributes)


def _terminal_descriptor() -> int:
    """The first standard descriptor that is a terminal."""
    for stream in (sys.__stdout__, sys.__stderr__, sys.__stdin__):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            descriptor: int = stream.fileno()  # type: ignore[union-attr]
            if os.isatty(descriptor):
                return descriptor
    return 1
