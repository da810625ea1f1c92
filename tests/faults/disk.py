"""Every change that a process makes to the disk, counted, so that it can die at each of them.

Seen are files opened for writing, every write (which can be torn in half), fsync, rename, removal,
and folders made and removed; of the training thread, below the folders that are watched.
"""

from __future__ import annotations

import builtins
import io
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.faults.victim import die

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
PATH_EVENTS = {
    "os.remove": "unlink",
    "os.rmdir": "rmdir",
    "os.mkdir": "mkdir",
    "os.truncate": "truncate",
}
Act = Callable[[str, str, int], None]
"""Called with kind, path and number of a change that is about to happen; may die or raise."""


class Disk:
    """Watches this process from `plant` on. Change number n = 1, 2, ... is told to `act` first."""

    def __init__(self, *roots: Path, act: Act, tear: int = 0, thread: str = "training") -> None:
        """Change number `tear`, where it is a write, is done by half; then the process dies."""
        self._roots = tuple(f"{os.path.realpath(root)}{os.sep}" for root in roots)
        self.act = act
        self._tear = tear
        self._busy = False
        self._thread = thread
        self._unsynced: set[str] = set()
        self.changes: list[tuple[str, str]] = []

    def plant(self) -> None:
        """Begin. What is planted stays for the life of the process."""
        import safetensors.torch

        sync, opened, write = os.fsync, io.open, os.write
        serialize = safetensors.torch.serialize_file

        def fsync(descriptor: int) -> None:
            self._happens("fsync", descriptor)
            sync(descriptor)

        def open_(file: Any, mode: str = "r", *args: Any, **named: Any) -> Any:
            handle = opened(file, mode, *args, **named)
            if set(mode) & set("wax+") and self._watched(file):
                return _Writing(handle, os.fspath(file), self)
            return handle

        def write_(descriptor: int, data: bytes) -> int:
            if self._happens("write", descriptor):
                write(descriptor, bytes(data)[: len(data) // 2])
                die()
            return write(descriptor, data)

        def serialize_file(tensors: Any, filename: Any, *args: Any, **named: Any) -> None:
            torn = self._happens("write", filename)
            serialize(tensors, filename, *args, **named)
            if torn:
                os.truncate(filename, Path(filename).stat().st_size // 2)
                die()

        os.fsync = fsync
        os.write = write_  # type: ignore[assignment]
        io.open = builtins.open = open_  # type: ignore[assignment]
        safetensors.torch.serialize_file = serialize_file
        sys.addaudithook(self._hook)

    def _hook(self, event: str, args: tuple[Any, ...]) -> None:
        if self._busy or not (event == "open" or event.startswith("os.")):
            return
        if event == "open":
            path, mode, flags = args
            if (isinstance(mode, str) and set(mode) & set("wax+")) or (
                mode is None and isinstance(flags, int) and flags & WRITING
            ):
                self._happens("open", path)
        elif event == "os.rename":
            self._happens("rename", args[1], args[3], self._real(args[0], args[2]))
        elif event in PATH_EVENTS:
            folder = args[-1] if event != "os.truncate" else -1
            self._happens(PATH_EVENTS[event], args[0], folder)

    def cut_unsynced(self) -> None:
        """What a power cut does to files that were written and not synced: half of each is gone.

        The lines of log and events are not synced one by one.
        """
        for name in self._unsynced:
            file = Path(name)
            if file.is_file() and file.suffix not in (".jsonl", ".log"):
                os.truncate(file, file.stat().st_size // 2)

    def _happens(self, kind: str, path: Any, folder: int = -1, source: str = "") -> bool:
        """Tell of a change; whether this write is to be torn."""
        if self._busy or not self._watched(path, folder):
            return False
        self._busy = True
        try:
            name = self._real(path, folder)
            self.changes.append((kind, name))
            if kind == "write":
                self._unsynced.add(name)
            elif kind == "fsync":
                self._unsynced.discard(name)
            elif kind == "rename" and source in self._unsynced:
                self._unsynced.remove(source)
                self._unsynced.add(name)
            number = len(self.changes)
            if kind == "write" and number == self._tear:
                return True
            self.act(kind, name, number)
        finally:
            self._busy = False
        return False

    def _watched(self, path: Any, folder: int = -1) -> bool:
        if threading.current_thread().name != self._thread:
            return False
        return self._real(path, folder).startswith(self._roots)

    @staticmethod
    def _real(path: Any, folder: int) -> str:
        """The whole path of what a system call names, its last part not followed."""
        if isinstance(path, int):
            return str(Path(f"/proc/self/fd/{path}").readlink())
        named = Path(os.fsdecode(path))
        if folder is not None and folder >= 0:
            named = Path(f"/proc/self/fd/{folder}").readlink() / named
        return f"{os.path.realpath(named.parent)}{os.sep}{named.name}"


class _Writing:
    """A file opened for writing whose writes are counted."""

    def __init__(self, file: Any, path: str, disk: Disk) -> None:
        self._file = file
        self._path = path
        self._disk = disk

    def write(self, data: Any) -> Any:
        if self._disk._happens("write", self._path):
            self._file.write(data[: len(data) // 2])
            self._file.flush()
            die()
        return self._file.write(data)

    def __enter__(self) -> _Writing:
        self._file.__enter__()
        return self

    def __exit__(self, *error: Any) -> Any:
        return self._file.__exit__(*error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def counting(kind: str, path: str, number: int) -> None:
    """Only count."""


def dying_at(wanted: int) -> Act:
    """Die before change number `wanted`."""

    def act(kind: str, path: str, number: int) -> None:
        if number == wanted:
            die()

    return act
