"""Disks that are full, read-only or gone: how much room there is, what is wrong, and waiting for it."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

SPARE_BYTES = 1 << 20
"""What stays free beside a file for the log, the events and the file system's own needs."""
SPARE_SHARE = 64
"""The same as a part of the file: one in so many bytes."""

_GONE = frozenset({errno.ENOENT, errno.ENOTDIR, getattr(errno, "ESTALE", errno.ENOENT)})
_FULL = frozenset({errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)})
_REFUSED = frozenset({errno.EACCES, errno.EPERM})


class NoRoom(OSError):
    """A file of known size that does not fit, found before it is written."""

    def __init__(self, folder: Path, needed: int, free: int) -> None:
        super().__init__(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
        self.needed = needed
        self.free = free


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why something cannot be written, and what helps."""

    reason: str
    remedy: str
    kind: int
    """The system's number of the error: a new one is told anew."""


class GaveUp(Exception):
    """Whoever waited was asked to leave before it worked."""

    def __init__(self, trouble: Trouble) -> None:
        super().__init__(trouble.reason)
        self.trouble = trouble


def megabytes(size: int) -> str:
    """12345678 as "12.3 MB"."""
    if size >= 10_000_000_000:
        return f"{size / 1e9:.0f} GB"
    if size >= 1_000_000_000:
        return f"{size / 1e9:.1f} GB"
    return f"{size / 1e6:.0f} MB" if size >= 10_000_000 else f"{size / 1e6:.1f} MB"


def nearest_existing(path: Path) -> Path:
    """The folder in which `path` is or would be made."""
    place = path.expanduser().absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    return place


def free_bytes(path: Path) -> int | None:
    """Bytes that this user may still write where `path` is or would be made.

    What the system keeps for its administrator does not count. None where it tells nothing, as some
    network file systems do. Raises OSError where there is no such place.
    """
    place = nearest_existing(path)
    if not hasattr(os, "statvfs"):
        return shutil.disk_usage(place).free
    facts = os.statvfs(place)
    if facts.f_blocks == 0:
        return None
    return facts.f_bavail * facts.f_frsize


def require_room(folder: Path, needed: int) -> None:
    """Raise NoRoom where `needed` bytes and a little more do not fit into `folder`."""
    free = free_bytes(folder)
    wanted = needed + max(SPARE_BYTES, needed // SPARE_SHARE)
    if free is not None and free < wanted:
        raise NoRoom(folder, wanted, free)


def trouble_of(error: OSError, folder: Path) -> Trouble:
    """What keeps a run from writing into its folder, in words."""
    kind = error.errno or 0
    if isinstance(error, NoRoom):
        numbers = f"{megabytes(error.needed)} are needed, {megabytes(error.free)} are free"
        reason, remedy = f"The disk is full: {numbers}", "Free some space"
    elif kind in _FULL:
        reason = "The disk is full" if kind == errno.ENOSPC else "Your share of the disk is used up"
        remedy = "Free some space"
    elif kind == errno.EROFS:
        reason, remedy = "The disk can only be read", "Make it writable again"
    elif kind in _GONE:
        reason, remedy = "The run's folder is not there", "Mount its disk, or put the folder back"
    elif kind in _REFUSED:
        reason, remedy = "The run's folder may not be written", "Allow it for this user"
    else:
        why = error.strerror or type(error).__name__
        reason, remedy = f"The disk gives an error ({why})", "See to the disk"
    return Trouble(
        f"{reason}: {folder}.",
        f"{remedy}: the run then goes on by itself. A stop leaves without this save.",
        kind,
    )


def wait_for(
    attempt: Callable[[], T],
    *,
    explain: Callable[[OSError], Trouble],
    tell: Callable[[Trouble | None], None],
    hold: Callable[[], bool],
) -> T:
    """Try until it works, and give what came out.

    `tell` hears what is waited for whenever that changes, and None once it is over. `hold` lets a moment
    pass before the next try and says whether to go on; raises GaveUp where it does not.
    """
    told: Trouble | None = None
    try:
        while True:
            try:
                return attempt()
            except OSError as error:
                if error.errno == errno.ENOMEM:
                    raise  # No disk is short of anything.
                trouble = explain(error)
            if told is None or told.kind != trouble.kind:
                told = trouble
                tell(told)
            if not hold():
                raise GaveUp(trouble)
    finally:
        if told is not None:
            tell(None)
