"""Who owns a run: a lock of the operating system, and a heartbeat where that cannot tell. No torch.

The lock decides between processes of one machine: it falls with its process, however that dies, and no
process number that was given out anew is taken for the owner. A lock that another host took may not be
seen through a network file system, and some file systems know none: there the owner's heartbeat tells.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from engine.errors import Problem, RunError

if TYPE_CHECKING:
    from engine.runs import RunFolder

try:
    import fcntl
except ImportError:  # Windows has no such locks: the heartbeat decides there
    HAS_LOCKS = False
else:
    HAS_LOCKS = True

BEAT_SECONDS = 1.0
"""An owner shows this often that it lives."""
HEARTBEAT_SECONDS = 60.0
"""For who only looks: an owner that was not heard for so long is taken for dead."""
QUIET_SECONDS = 15.0
"""Who takes a run over from another host first watches for so long that its heart stands still; that
compares no clocks, which may differ or jump."""
BUSY = (errno.EAGAIN, errno.EACCES)


@dataclass(frozen=True, slots=True)
class Owner:
    """The process that holds a run."""

    pid: int
    host: str
    since: float
    born: str = ""
    """When the process began, as no other of this boot did; "" where that cannot be told."""

    @property
    def here(self) -> bool:
        """Whether it runs on this machine."""
        return self.host == socket.gethostname()


class Lock:
    """Ownership of a run folder through an operating-system file lock; freed when the process dies."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._descriptor: int | None = None

    def acquire(self) -> str:
        """Take the run. Gives a notice to show ("" mostly); raises RunError when it cannot be had.

        Takes QUIET_SECONDS where another host left the run without a word.
        """
        try:
            descriptor = os.open(self._folder.lock, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise RunError(_unwritable(self._folder, error)) from None
        try:
            notice = self._claim(descriptor)
            _sign(descriptor)
        except OSError as error:
            os.close(descriptor)
            raise RunError(_unwritable(self._folder, error)) from None
        except RunError:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        return notice

    def _claim(self, descriptor: int) -> str:
        notice = ""
        try:
            _lock_soon(descriptor)
        except OSError as error:
            owner = read_owner(self._folder.lock)
            if error.errno in BUSY or (owner is not None and owner.here and _is_process(owner)):
                raise RunError(_owned(self._folder, owner)) from None
            where = "file system" if HAS_LOCKS else "operating system"
            notice = f"This {where} has no such locks; a heartbeat guards the run folder instead."
        owner = read_owner(self._folder.lock)
        unsure = owner is not None and (not owner.here or (notice and not owner.born))
        if unsure and _beats(self._folder.lock):
            raise RunError(_owned(self._folder, owner))
        return notice

    def beat(self) -> None:
        """Show that the owner lives. Raises OSError where the folder is out of reach."""
        if self._descriptor is not None:
            os.utime(self._descriptor if os.utime in os.supports_fd else self._folder.lock)

    def release(self) -> None:
        """Give the run back; where the folder is out of reach it is given back by the system alone."""
        if self._descriptor is not None:
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, 0)
            with contextlib.suppress(OSError):
                os.close(self._descriptor)
            self._descriptor = None


def _sign(descriptor: int) -> None:
    owner = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": time.time(),
        "born": _born(os.getpid()),
    }
    os.ftruncate(descriptor, 0)
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.write(descriptor, json.dumps(owner).encode())


def _try_lock(descriptor: int, *, shared: bool = False) -> None:
    if not HAS_LOCKS:
        raise OSError(errno.ENOLCK, "no file locks here")
    fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)


def _lock_soon(descriptor: int) -> None:
    # A reader (`owner_of`) holds the lock for an instant while it looks.
    for attempt in range(5):
        try:
            _try_lock(descriptor)
        except OSError as error:
            if error.errno not in BUSY or attempt == 4:
                raise
            time.sleep(0.05)
        else:
            return


def _beats(lock: Path) -> bool:
    """Watch a heartbeat until it moves, QUIET_SECONDS at most; whether it did."""
    first, deadline = _heard(lock), time.monotonic() + QUIET_SECONDS
    while time.monotonic() < deadline:
        time.sleep(min(0.25, QUIET_SECONDS))
        if _heard(lock) != first:
            return True
    return False


def _heard(lock: Path) -> int:
    # Opened each time: a network file system asks its server then, and else may answer from memory.
    with lock.open("rb") as file:
        return os.fstat(file.fileno()).st_mtime_ns


def _unwritable(folder: RunFolder, error: OSError) -> Problem:
    return Problem(
        f"The run's folder cannot be written: {error.strerror}.",
        where=str(folder.path),
        remedy="Make it writable, or mount it again, and start anew.",
    )


def _owned(folder: RunFolder, owner: Owner | None) -> Problem:
    who = f"process {owner.pid} on {owner.host}" if owner else "another process"
    return Problem(
        f"The run is in use by {who}.",
        where=str(folder.path),
        remedy=f"See it with `lyctui watch {folder.called}`, or end it with"
        f" `lyctui stop {folder.called}`.",
    )


def read_owner(lock: Path) -> Owner | None:
    """Who signed a lock last, alive or not; None for a lock that was given back or is no such file."""
    try:
        data = json.loads(lock.read_text())
        born = str(data.get("born", ""))
        return Owner(int(data["pid"]), str(data["host"]), float(data["since"]), born)
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RecursionError,
        OverflowError,
    ):
        return None


def _born(pid: int) -> str:
    """When a process began, counted from this boot, which no clock that is set can move."""
    with contextlib.suppress(OSError, IndexError):
        # The name before the last bracket may hold spaces; the start is the 22nd field of all.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {fields[19]}"
    import psutil

    try:
        return f"{psutil.Process(pid).create_time():.0f}"
    except psutil.Error:
        return ""


def _is_process(owner: Owner) -> bool:
    """Whether the very process that signed still lives on this machine, not one with its number."""
    return bool(owner.born) and _born(owner.pid) == owner.born


def _seems_alive(lock: Path, owner: Owner) -> bool:
    if owner.here and owner.born:
        return _is_process(owner)
    try:
        return abs(time.time() - lock.stat().st_mtime) < HEARTBEAT_SECONDS
    except OSError:
        return False


def owner_of(folder: RunFolder) -> Owner | None:
    """The live process that holds the run, or None. Anyone who may read the folder may ask."""
    try:
        descriptor = os.open(folder.lock, os.O_RDONLY)
    except OSError:
        return None
    try:
        # Shared, so that two who look at once do not take each other for the owner.
        _try_lock(descriptor, shared=True)
    except OSError as error:
        owner = read_owner(folder.lock)
        if error.errno in BUSY:
            return owner or Owner(0, socket.gethostname(), 0.0)
        return owner if owner is not None and _seems_alive(folder.lock, owner) else None
    finally:
        os.close(descriptor)
    owner = read_owner(folder.lock)
    # Another host may hold the lock through a network file system that does not pass locks on.
    if owner is not None and not owner.here and _seems_alive(folder.lock, owner):
        return owner
    return None
