"""Events and log lines survive a disk that fails: none is torn, none is lost that memory can hold."""

from __future__ import annotations

import errno
import logging
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from engine import journal
from engine.events import Event, Warned
from engine.journal import EventLog, LineHandler, RunLog
from engine.runs import read_events


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """events.jsonl of a run's folder."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "run.toml").touch()
    return folder / "events.jsonl"


def words(path: Path) -> list[str]:
    """What the events of a file say."""
    return [event.message for event in read_events(path)[0] if isinstance(event, Warned)]


class Full:
    """A disk that takes `room` more bytes; the write in which it fills up is cut short, as the system does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
        self.room = room
        self._write = os.write
        monkeypatch.setattr(os, "write", self.write)

    def write(self, descriptor: int, data: Any) -> int:
        if self.room <= 0 and len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = self._write(descriptor, data[: self.room])
        self.room -= written
        return written


def test_events_come_back_as_they_went(path: Path) -> None:
    log = EventLog(path)
    events: list[Event] = [Warned("one"), Warned("ünï\udcff\n")]
    assert [log.append(event) for event in events] == ["", ""]
    assert len(path.read_bytes().splitlines()) == 2
    assert words(path)[0] == "one"


def test_events_of_a_full_disk_are_written_when_there_is_room(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = EventLog(path)
    log.append(Warned("before"))
    disk = Full(monkeypatch, 30)
    assert "No space left" in log.append(Warned("one"))
    assert log.append(Warned("two")) == "", "told once"
    assert words(path) == ["before"]
    assert path.read_bytes().endswith(b"\n"), "the half that had room is taken back"
    disk.room = 1 << 20
    assert "again" in log.append(Warned("three"))
    assert words(path) == ["before", "one", "two", "three"]
    disk.room = 0
    assert "No space left" in log.append(Warned("four")), "a second time is told too"


@pytest.mark.parametrize("left", [b'{"event": "warn', b'{"event": "warning", "message": "whole"}'])
def test_a_line_that_a_kill_tore_swallows_no_other(path: Path, left: bytes) -> None:
    EventLog(path).append(Warned("before"))
    with path.open("ab") as file:
        file.write(left)
    again = EventLog(path)
    again.append(Warned("after"))
    again.append(Warned("later"))
    whole = ["whole"] if left.endswith(b"}") else []
    assert words(path) == ["before", *whole, "after", "later"]


def test_memory_for_lines_is_bounded_and_the_loss_is_told(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "KEPT_BYTES", 1000)
    log = EventLog(path)
    disk = Full(monkeypatch, 0)
    for number in range(40):
        log.append(Warned(f"event {number}"))
    disk.room = 1 << 20
    told = log.append(Warned("last"))
    kept = words(path)
    assert kept[-2:] == ["event 39", "last"] and 2 < len(kept) < 41
    assert f"oldest {41 - len(kept)} of those" in told
    assert sum(map(len, path.read_bytes().splitlines())) <= 1000


def test_nothing_is_begun_in_what_lies_at_the_place_of_an_unmounted_disk(path: Path) -> None:
    log = EventLog(path)
    log.append(Warned("before"))
    away = path.parent.rename(path.parent.with_name("away"))
    assert "No such file" in log.append(Warned("gone"))
    path.parent.mkdir()
    log.append(Warned("another folder"))
    assert list(path.parent.iterdir()) == []
    path.parent.rmdir()
    away.rename(path.parent)
    assert "again" in log.append(Warned("back"))
    assert words(path) == ["before", "gone", "another folder", "back"]


def test_a_file_that_was_removed_from_a_run_that_is_there_is_begun_again(path: Path) -> None:
    log = EventLog(path)
    log.append(Warned("before"))
    path.unlink()
    assert log.append(Warned("after")) == ""
    assert words(path) == ["after"]


def test_events_and_log_are_for_their_owner_alone(path: Path) -> None:
    before = os.umask(0)
    try:
        EventLog(path).append(Warned("a prompt"))
        with RunLog(path.with_name("run.log")):
            logging.getLogger("engine").warning("a path")
    finally:
        os.umask(before)
    for file in (path, path.with_name("run.log")):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_the_log_of_a_full_disk_says_nothing_to_the_terminal(
    path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    file = path.with_name("run.log")
    with RunLog(file):
        logger = logging.getLogger("engine")
        logger.warning("before")
        disk = Full(monkeypatch, 0)
        logger.warning("while it is full")
        disk.room = 1 << 20
        logger.warning("after")
    said = capfd.readouterr()
    assert said.out == said.err == ""
    lines = file.read_text().splitlines()
    assert [line.split(": ")[-1] for line in lines] == ["before", "while it is full", "after"]


def test_a_record_that_cannot_be_put_in_words_is_written_as_it_is(path: Path) -> None:
    record = logging.LogRecord("lib", logging.ERROR, "", 0, "%d is no number", ("this",), None)
    LineHandler(path).emit(record)
    assert path.read_text() == "ERROR lib: '%d is no number'\n"
