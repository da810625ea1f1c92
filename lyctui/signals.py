"""Signals, for the whole life of the process: a flag, a wake-up, nothing more in the handler.

Handlers are set with `signal.signal` before any screen runs, so that they survive its event loop. A
daemon thread does what a flag asks for; it works while the main thread waits or is stalled.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections import deque
from collections.abc import Callable
from types import FrameType
from typing import Literal, Protocol

from engine.control import Request

Signalled = Literal["stop", "abandon", "hangup", "save", "suspend"]
Listener = Callable[[Signalled], None]

EXIT_HANGUP = 128 + signal.SIGHUP
EXIT_INTERRUPT = 128 + signal.SIGINT
EXIT_TERMINATE = 128 + signal.SIGTERM


class Askable(Protocol):
    """The run of this process, as signals see it."""

    @property
    def live(self) -> bool: ...
    @property
    def on_disconnect(self) -> Literal["continue", "stop"]: ...
    def ask(self, request: Request) -> str | None: ...


class Signals:
    """What arrived, and who is told."""

    def __init__(self) -> None:
        self.run: Askable | None = None
        """The run of this process, asked to stop or save."""
        self.listener: Listener | None = None
        """Told of each event, in the signal thread."""
        self.last_resort: Callable[[], None] | None = None
        """Restores the terminal without waiting, for the third interrupt."""
        self.stop_code = 0
        """130 or 143 once stopping was asked for."""
        self.abandon = False
        """Leave without saving."""
        self.hangup = False
        """The terminal is lost."""
        self._stops = 0
        self._pending: deque[Signalled] = deque()
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)
        self._thread: threading.Thread | None = None

    def install(self) -> Signals:
        """Set the handlers and start the thread behind them."""
        signal.signal(signal.SIGINT, self._stop)
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGHUP, self._hangup)
        signal.signal(signal.SIGUSR1, self._save)
        self.reclaim()
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name="signals", daemon=True)
            self._thread.start()
        return self

    def reclaim(self) -> None:
        """Take SIGTSTP back from Textual's driver, which sets it when it is built."""
        signal.signal(signal.SIGTSTP, self._suspend)

    def began(self, run: Askable) -> None:
        """The run of this process has begun: it is asked from now on, and for what arrived before."""
        self.run = run
        if self.stop_code or (self.hangup and run.on_disconnect == "stop"):
            run.ask("stop")

    def lost(self) -> None:
        """The driver saw the hang-up on the terminal itself."""
        self._hangup(signal.SIGHUP, None)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self._stops += 1
        if self.stop_code == 0:
            self.stop_code = 128 + number
        if self._stops == 1:
            self._put("stop")
        elif self._stops == 2:
            self.abandon = True
            self._put("abandon")
        else:
            if self.last_resort is not None:
                with contextlib.suppress(Exception):
                    self.last_resort()
            os._exit(128 + number)

    def _hangup(self, number: int, frame: FrameType | None) -> None:
        # A shell and the kernel may each send one: the second changes nothing.
        if not self.hangup:
            self.hangup = True
            self._put("hangup")

    def _save(self, number: int, frame: FrameType | None) -> None:
        self._put("save")

    def _suspend(self, number: int, frame: FrameType | None) -> None:
        self._put("suspend")

    def _put(self, event: Signalled) -> None:
        self._pending.append(event)
        with contextlib.suppress(BlockingIOError):
            os.write(self._wake_write, b"!")

    def _serve(self) -> None:
        while True:
            os.read(self._wake_read, 64)
            while self._pending:
                event = self._pending.popleft()
                # Whatever one event meets, the thread lives on for the next: the person may insist.
                with contextlib.suppress(Exception):
                    self._ask(event)
                if self.listener is not None:
                    with contextlib.suppress(Exception):
                        self.listener(event)

    def _ask(self, event: Signalled) -> None:
        run = self.run
        if run is None or not run.live:
            return
        if event == "stop" or (event == "hangup" and run.on_disconnect == "stop"):
            run.ask("stop")
        elif event == "save":
            run.ask("save")
