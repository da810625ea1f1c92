"""Requests to a running engine: a fixed set of words, read by the loop at step boundaries."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Literal, get_args

Request = Literal["stop", "save", "sample", "pause", "continue"]
REQUESTS: frozenset[str] = frozenset(get_args(Request))


class Control:
    """Carries requests from screens, signals and sockets to the loop. Safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: list[Request] = []
        self._arrived = threading.Event()

    def ask(self, request: Request) -> None:
        """Leave a request; a word that already waits is not left twice, and the last one counts.

        So pause, continue, pause ends paused.
        """
        with self._lock:
            if request in self._waiting:
                self._waiting.remove(request)
            self._waiting.append(request)
            self._arrived.set()

    def take(self) -> tuple[Request, ...]:
        """All waiting requests in order, removed; empty when there is none. Never waits."""
        if not self._arrived.is_set():
            return ()
        with self._lock:
            taken, self._waiting = tuple(self._waiting), []
            self._arrived.clear()
        return taken

    def give_back(self, requests: Sequence[Request]) -> None:
        """Leave requests again that were taken and not obeyed; what came since is the later word."""
        with self._lock:
            earlier = [request for request in requests if request not in self._waiting]
            self._waiting = earlier + self._waiting
            if self._waiting:
                self._arrived.set()

    def asked(self, request: Request) -> bool:
        """Whether a request waits; it stays."""
        with self._lock:
            return request in self._waiting

    def wait(self, seconds: float) -> bool:
        """Wait for a request to arrive (used while paused)."""
        return self._arrived.wait(seconds)
