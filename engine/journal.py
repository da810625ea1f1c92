"""The two files that a run appends to: events.jsonl and run.log. A failing disk loses none of their lines.

Both are for their owner alone (0600): they tell prompts, names and paths.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections import deque
from pathlib import Path

from engine.events import Event, to_dict
from engine.writing import OWNER_ONLY

KEPT_BYTES = 4 << 20
"""Lines that wait for the disk take at most this much memory; then the oldest go."""


class LineFile:
    """Appends whole lines; while that fails they wait in memory and are written with the next one."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._waiting: deque[bytes] = deque()
        self._bytes = 0
        self.lost = 0
        """Lines for which there was no memory either."""

    def append(self, line: bytes) -> OSError | None:
        """Write a line with its newline, and those that wait; gives the error where it could not."""
        self._waiting.append(line)
        self._bytes += len(line)
        while self._bytes > KEPT_BYTES and len(self._waiting) > 1:
            self._bytes -= len(self._waiting.popleft())
            self.lost += 1
        try:
            self._write()
        except OSError as error:
            return error
        self._waiting.clear()
        self._bytes = 0
        return None

    def _write(self) -> None:
        descriptor = os.open(self._path, self._flags(), OWNER_ONLY)
        try:
            before = os.fstat(descriptor).st_size
            data = b"".join(self._waiting)
            if before and not _ends_whole(descriptor, before):
                # A process was killed within its last line: it must not swallow this one too.
                data = b"\n" + data
            written = 0
            try:
                while written < len(data):
                    written += os.write(descriptor, data[written:])
            except OSError:
                _take_back(descriptor, before, written)
                raise
        finally:
            os.close(descriptor)

    def _flags(self) -> int:
        flags = os.O_RDWR | os.O_APPEND | getattr(os, "O_BINARY", 0)
        # Where a disk was unmounted another folder may lie at its place: nothing is begun there.
        if (self._path.parent / "run.toml").is_file():
            flags |= os.O_CREAT
        return flags


def _ends_whole(descriptor: int, size: int) -> bool:
    os.lseek(descriptor, size - 1, os.SEEK_SET)
    return os.read(descriptor, 1) == b"\n"


def _take_back(descriptor: int, before: int, written: int) -> None:
    """Cut off the part of a line for which there was room, unless others wrote behind it."""
    with contextlib.suppress(OSError):
        if written and os.fstat(descriptor).st_size == before + written:
            os.ftruncate(descriptor, before)


class EventLog:
    """Appends events to events.jsonl, one whole line each. A failing disk is told once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = LineFile(path)
        self._told = False

    def append(self, event: Event) -> str:
        """Write one event; gives a warning when this begins to fail and when it works again, else ""."""
        line = json.dumps(to_dict(event), ensure_ascii=False, default=str) + "\n"
        error = self._file.append(line.encode("utf-8", errors="surrogateescape"))
        if (error is not None) == self._told:
            return ""
        self._told = error is not None
        if error is not None:
            why = error.strerror or type(error).__name__
            return f"Events cannot be written to {self._path}: {why}. They are kept until they can."
        lost, self._file.lost = self._file.lost, 0
        gap = f" The oldest {lost} of those that waited are lost." if lost else ""
        return f"Events are written to {self._path} again.{gap}"


class LineHandler(logging.Handler):
    """Writes log records to a file; never a word to the terminal, which belongs to the screen."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._file = LineFile(path)

    def emit(self, record: logging.LogRecord) -> None:
        """Append a record; where it cannot be written it waits."""
        try:
            line = self.format(record)
        except Exception:  # a record whose words and values do not go together, in any library
            line = f"{record.levelname} {record.name}: {record.msg!r}"
        self._file.append(f"{line}\n".encode("utf-8", errors="replace"))


class RunLog:
    """Sends Python's log records and warnings of this process to run.log while the run lives."""

    def __init__(self, path: Path) -> None:
        self._handler = LineHandler(path)

    def __enter__(self) -> RunLog:
        self._handler.setFormatter(
            logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
        )
        logging.getLogger().addHandler(self._handler)
        logging.getLogger("engine").setLevel(logging.INFO)
        return self

    def __exit__(self, *error: object) -> None:
        logging.getLogger().removeHandler(self._handler)
        self._handler.close()
