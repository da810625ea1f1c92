"""Only the newest question counts."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from lyctui.background import Latest


def test_an_older_question_is_never_told() -> None:
    told: list[Any] = []
    started, go = threading.Event(), threading.Event()
    job: Latest[str] = Latest("test", told.append)

    def slow(wanted: Callable[[], None]) -> str:
        started.set()
        assert go.wait(5)
        return "old"

    job.ask(slow)
    assert started.wait(5)
    job.ask(lambda wanted: "skipped")
    job.ask(lambda wanted: "new")
    go.set()
    assert job.wait(5)
    assert told == ["new"]


def test_a_long_question_ends_early() -> None:
    told: list[Any] = []
    started = threading.Event()
    job: Latest[str] = Latest("test", told.append)

    def endless(wanted: Callable[[], None]) -> str:
        started.set()
        while True:
            wanted()

    job.ask(endless)
    assert started.wait(5)
    job.ask(lambda wanted: "new")
    assert job.wait(5) and told == ["new"]


def test_an_error_is_an_answer_and_the_next_question_works() -> None:
    told: list[Any] = []
    job: Latest[str] = Latest("test", told.append)

    def fails(wanted: Callable[[], None]) -> str:
        raise ValueError("no")

    job.ask(fails)
    assert job.wait(5) and isinstance(told[0], ValueError)
    job.ask(lambda wanted: "ok")
    assert job.wait(5) and told[1] == "ok"


def test_whoever_is_told_does_not_find_it_busy() -> None:
    seen: list[bool] = []
    job: Latest[str] = Latest("test", lambda answer: seen.append(job.busy))
    job.ask(lambda wanted: "x")
    assert job.wait(5) and seen == [False]


def test_after_closing_nothing_is_told() -> None:
    told: list[Any] = []
    go = threading.Event()
    job: Latest[str] = Latest("test", told.append)
    job.ask(lambda wanted: "late" if go.wait(5) else "")
    job.close()
    go.set()
    assert job.wait(5) and told == []
    job.ask(lambda wanted: "more")
    assert told == []
