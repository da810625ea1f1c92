"""What writers of whole files stand on: modes, bytes forced to the disk, names of what is half written."""

from __future__ import annotations

import contextlib
import os
import re
import uuid
from collections.abc import Iterable
from pathlib import Path

OWNER_ONLY = 0o600
ORDINARY = 0o666
"""What the umask then takes from."""
OURS = re.compile(r"\.lyctui-[0-9a-f]{32}\.tmp")


def temporary_beside(path: Path) -> Path:
    """A new hidden name in the folder of `path`, so that a rename onto it stays on one file system.

    Two processes that write the same file never share one, and it is no longer than 64 bytes.
    """
    return path.with_name(f".lyctui-{uuid.uuid4().hex}.tmp")


def remove_left_behind(folder: Path) -> int:
    """Remove what a killed process left half written; gives how many files that were.

    Only for a folder that one process owns, such as a run's: elsewhere they may be in use.
    """
    removed = 0
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            if OURS.fullmatch(path.name) and path.is_file() and not path.is_symlink():
                with contextlib.suppress(OSError):
                    path.unlink()
                    removed += 1
    return removed


def create(path: Path, *, private: bool = False) -> int:
    """Descriptor of a new file for writing; raises FileExistsError where there is one."""
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_BINARY", 0)
    return os.open(path, flags, OWNER_ONLY if private else ORDINARY)


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """Write all of it; raises OSError where the disk takes no more."""
    rest = memoryview(data)
    while len(rest):
        rest = rest[os.write(descriptor, rest) :]


def write_synced(
    path: Path, chunks: Iterable[bytes | memoryview], *, private: bool = False
) -> None:
    """Write a new file and force it to the disk."""
    descriptor = create(path, private=private)
    try:
        for chunk in chunks:
            write_all(descriptor, chunk)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
