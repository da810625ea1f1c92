"""Questions answered in a thread, of which only the newest counts. Knows no screen."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

Answer = TypeVar("Answer")


class Superseded(Exception):
    """Raised inside a question that nobody waits for any more, to end it early."""


class Latest(Generic[Answer]):
    """Answers one kind of question, one at a time, in a daemon thread; older questions are dropped.

    `done` is called in that thread with an answer, or with the exception that the question raised.
    """

    def __init__(self, name: str, done: Callable[[Answer | BaseException], None]) -> None:
        self._name = name
        self._done = done
        self._lock = threading.Condition()
        self._pending: Callable[[Callable[[], None]], Answer] | None = None
        self._asked = 0
        self._thread: threading.Thread | None = None
        self._answering = False
        self._closed = False

    @property
    def busy(self) -> bool:
        """Whether a question is open."""
        with self._lock:
            return self._pending is not None or self._answering

    def ask(self, question: Callable[[Callable[[], None]], Answer]) -> None:
        """Answer this instead of what was asked before. The question gets a function that raises
        Superseded once a newer one was asked; long ones call it now and then."""
        with self._lock:
            if self._closed:
                return
            self._asked += 1
            self._pending = question
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Drop every question; no answer is told any more."""
        with self._lock:
            self._closed = True
            self._pending = None
            self._asked += 1

    def wait(self, timeout: float = 10.0) -> bool:
        """Wait until nothing is open; for tests and for saving."""
        with self._lock:
            return self._lock.wait_for(lambda: self._thread is None, timeout)

    def _run(self) -> None:
        while True:
            with self._lock:
                question, self._pending, number = self._pending, None, self._asked
                self._answering = question is not None
                if question is None:
                    self._thread = None
                    self._lock.notify_all()
                    return
            answer = self._answer(question, number)
            # Whoever is told must not find it busy with what it was told.
            self._answering = False
            if answer is not None and self._current(number):
                self._tell(answer)

    def _tell(self, answer: Answer | BaseException) -> None:
        try:
            self._done(answer)
        except Exception:
            # The thread must live on for the next question; the log keeps the report.
            threading.excepthook(threading.ExceptHookArgs((*sys.exc_info(), self._thread)))

    def _answer(
        self, question: Callable[[Callable[[], None]], Answer], number: int
    ) -> Answer | BaseException | None:
        def still_wanted() -> None:
            if not self._current(number):
                raise Superseded

        try:
            return question(still_wanted)
        except Superseded:
            return None
        except Exception as error:
            return error

    def _current(self, number: int) -> bool:
        with self._lock:
            return number == self._asked and not self._closed
