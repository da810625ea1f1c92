"""Run folders as anyone can read them: paths, lock, state, events, and requests to a live run. No torch.

A run is a folder: run.toml, events.jsonl, run.log, lock, state/, samples/, *.safetensors, and while
it runs control.sock.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from engine.control import REQUESTS
from engine.errors import Problem, RunError
from engine.events import Ended, Event, Started, StepDone, from_dict

try:
    import fcntl
except ImportError:  # Windows has no such locks: the heartbeat decides there
    HAS_LOCKS = False
else:
    HAS_LOCKS = True

START_PREFIX = "start-"
"""Begins the name of a run's own copy of the network file that it started from."""
HEARTBEAT_SECONDS = 60.0
"""On file systems without locks, an owner whose lock file is older than this is taken for dead."""
SOCKET_PATH_LIMIT = 100
"""Bytes of a Unix socket's path that every system accepts."""

RunState = Literal["new", "running", "finished", "stopped", "failed", "ended unexpectedly"]


def default_runs_folder() -> Path:
    """Where runs are made unless a recipe says otherwise: $LYCTUI_RUNS or lyctui/runs at home."""
    chosen = os.environ.get("LYCTUI_RUNS")
    return Path(chosen).expanduser() if chosen else Path.home() / "lyctui" / "runs"


def default_cache_folder() -> Path:
    """Where encoded pictures and captions are kept: $LYCTUI_CACHE or the system's cache folder."""
    chosen = os.environ.get("LYCTUI_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    import platformdirs

    return platformdirs.user_cache_path("lyctui", appauthor=False)


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Names of everything in a run's folder."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def recipe(self) -> Path:
        return self.path / "run.toml"

    @property
    def origins(self) -> Path:
        return self.path / "origins.json"

    @property
    def events(self) -> Path:
        return self.path / "events.jsonl"

    @property
    def log(self) -> Path:
        return self.path / "run.log"

    @property
    def lock(self) -> Path:
        return self.path / "lock"

    @property
    def states(self) -> Path:
        return self.path / "state"

    @property
    def samples(self) -> Path:
        return self.path / "samples"

    @property
    def manifest(self) -> Path:
        return self.path / "manifest.json"

    @property
    def socket(self) -> Path:
        return self.path / "control.sock"

    @property
    def requests(self) -> Path:
        """Folder of control files, where sockets do not work."""
        return self.path / "control"


@dataclass(frozen=True, slots=True)
class Owner:
    """The process that holds a run."""

    pid: int
    host: str
    since: float

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
        """Take the run. Gives a notice to show ("" mostly); raises RunError when another process has it."""
        descriptor = os.open(self._folder.lock, os.O_RDWR | os.O_CREAT, 0o644)
        notice = ""
        try:
            _lock_soon(descriptor)
        except OSError as error:
            owner = _read_owner(self._folder.lock)
            if error.errno in (errno.EAGAIN, errno.EACCES):
                os.close(descriptor)
                raise RunError(_owned(self._folder, owner)) from None
            if owner is not None and _seems_alive(self._folder.lock, owner):
                os.close(descriptor)
                raise RunError(_owned(self._folder, owner)) from None
            where = "file system" if HAS_LOCKS else "operating system"
            notice = f"This {where} has no such locks; a heartbeat guards the run folder instead."
        body = json.dumps(
            {"pid": os.getpid(), "host": socket.gethostname(), "since": time.time()}
        ).encode()
        os.ftruncate(descriptor, 0)
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.write(descriptor, body)
        self._descriptor = descriptor
        return notice

    def beat(self) -> None:
        """Show that the owner lives (read only where locks do not work)."""
        if self._descriptor is not None:
            os.utime(self._descriptor if os.utime in os.supports_fd else self._folder.lock)

    def release(self) -> None:
        """Give the run back."""
        if self._descriptor is not None:
            os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = None


def _try_lock(descriptor: int) -> None:
    if not HAS_LOCKS:
        raise OSError(errno.ENOLCK, "no file locks here")
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _lock_soon(descriptor: int) -> None:
    # A reader (`owner_of`) holds the lock for an instant while it looks.
    for attempt in range(5):
        try:
            _try_lock(descriptor)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES) or attempt == 4:
                raise
            time.sleep(0.05)
        else:
            return


def _owned(folder: RunFolder, owner: Owner | None) -> Problem:
    who = f"process {owner.pid} on {owner.host}" if owner else "another process"
    return Problem(
        f"The run is in use by {who}.",
        where=str(folder.path),
        remedy=f"See it with `lyctui watch {folder.name}`, or end it with `lyctui stop {folder.name}`.",
    )


def _read_owner(lock: Path) -> Owner | None:
    try:
        data = json.loads(lock.read_text())
        return Owner(int(data["pid"]), str(data["host"]), float(data["since"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _seems_alive(lock: Path, owner: Owner) -> bool:
    if owner.here and not HAS_LOCKS:
        import psutil  # os.kill(pid, 0) would interrupt the process on Windows

        return owner.pid != os.getpid() and psutil.pid_exists(owner.pid)
    if owner.here:
        try:
            os.kill(owner.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return owner.pid != os.getpid()
    return time.time() - lock.stat().st_mtime < HEARTBEAT_SECONDS


def owner_of(folder: RunFolder) -> Owner | None:
    """The live process that holds the run, or None."""
    try:
        descriptor = os.open(folder.lock, os.O_RDWR)
    except OSError:
        return None
    try:
        _try_lock(descriptor)
    except OSError as error:
        owner = _read_owner(folder.lock)
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return owner or Owner(0, socket.gethostname(), 0.0)
        return owner if owner is not None and _seems_alive(folder.lock, owner) else None
    else:
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)
    owner = _read_owner(folder.lock)
    # Another host may hold the lock through a network file system that does not pass locks on.
    if owner is not None and not owner.here and _seems_alive(folder.lock, owner):
        return owner
    return None


def read_events(events: Path, offset: int = 0) -> tuple[list[Event], int]:
    """Events after byte `offset`, and the offset to go on from. A half-written last line waits."""
    try:
        with events.open("rb") as file:
            file.seek(offset)
            chunk = file.read()
    except FileNotFoundError:
        return [], offset
    end = chunk.rfind(b"\n") + 1
    found = []
    for line in chunk[:end].splitlines():
        event = _parse(line)
        if event is not None:
            found.append(event)
    return found, offset + end


def _parse(line: bytes) -> Event | None:
    try:
        data: Any = json.loads(line)
        return from_dict(data) if isinstance(data, dict) else None
    except (ValueError, TypeError):
        return None


@dataclass(frozen=True, slots=True)
class RunInfo:
    """One row of `lyctui runs`."""

    name: str
    folder: Path
    state: RunState
    step: int
    total_steps: int
    updated_at: float
    owner: Owner | None = None
    message: str = ""

    @property
    def resumable(self) -> bool:
        """Whether `resume` can go on with it."""
        return self.state in ("stopped", "failed", "ended unexpectedly")


def run_info(path: Path) -> RunInfo:
    """State of one run, from its lock and its events."""
    folder = RunFolder(path)
    owner = owner_of(folder)
    events, _ = read_events(folder.events)
    started = next((event for event in reversed(events) if isinstance(event, Started)), None)
    step = next((event.step for event in reversed(events) if isinstance(event, StepDone)), 0)
    last_end = next((event for event in reversed(events) if isinstance(event, Ended)), None)
    ended = last_end if last_end is not None and _closes(last_end, started) else None
    state: RunState
    if owner is not None:
        state = "running"
    elif ended is not None:
        state = ended.state
    else:
        state = "ended unexpectedly" if events else "new"
    return RunInfo(
        name=folder.name,
        folder=path,
        state=state,
        step=ended.steps if ended is not None else step,
        total_steps=started.total_steps if started else 0,
        updated_at=events[-1].time if events else path.stat().st_mtime,
        owner=owner,
        message=ended.message if ended is not None else "",
    )


def _closes(end: Ended, started: Started | None) -> bool:
    return started is None or end.time >= started.time


def list_runs(root: Path) -> tuple[RunInfo, ...]:
    """Every run below `root`, the newest first. Folders without run.toml are no runs."""
    try:
        folders = [path for path in root.iterdir() if (path / "run.toml").is_file()]
    except OSError:
        return ()
    infos = [run_info(path) for path in folders]
    return tuple(sorted(infos, key=lambda info: info.updated_at, reverse=True))


def find_run(name: str, root: Path) -> Path:
    """Folder of a run given by path or by name; raises RunError naming the nearest ones.

    Absolute, as the paths in a run's events are to be.
    """
    for candidate in (Path(name).expanduser(), root / name):
        if (candidate / "run.toml").is_file():
            return candidate.absolute()
    import difflib

    names = [info.name for info in list_runs(root)]
    near = difflib.get_close_matches(name, names, n=3) or names[:3]
    hint = f"Runs there: {', '.join(near)}." if near else "There are no runs there yet."
    raise RunError(Problem(f"No run named {name!r}.", where=str(root), remedy=hint))


@contextlib.contextmanager
def short_socket_path(path: Path) -> Iterator[str]:
    """A path to `path` short enough for a Unix socket, through the folder's open descriptor."""
    if len(os.fsencode(path)) <= SOCKET_PATH_LIMIT or not Path("/proc/self/fd").is_dir():
        yield str(path)
        return
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}/{path.name}"
    finally:
        os.close(descriptor)


def ask_run(path: Path, request: str, *, timeout: float = 5.0) -> str:
    """Send one of the fixed words to a live run; gives its answer. Raises RunError in words."""
    folder = RunFolder(path)
    if request not in REQUESTS:
        raise RunError(Problem(f"{request!r} is not one of {', '.join(sorted(REQUESTS))}."))
    owner = owner_of(folder)
    if owner is None:
        ended = run_info(path).state == "finished"
        remedy = "" if ended else f"Go on with `lyctui resume {folder.name}`."
        what = "The run is finished." if ended else "The run is not running."
        raise RunError(Problem(what, where=str(path), remedy=remedy))
    if not owner.here:
        raise RunError(
            Problem(f"The run is on {owner.host}.", where=str(path), remedy="Ask it from there.")
        )
    try:
        with short_socket_path(folder.socket) as address:
            return _ask_socket(address, request, timeout)
    except (OSError, TimeoutError):
        return _ask_file(folder, request)


def _ask_socket(address: str, request: str, timeout: float) -> str:
    if not hasattr(socket, "AF_UNIX"):
        raise OSError("no Unix sockets here")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(timeout)
        client.connect(address)
        client.sendall(request.encode() + b"\n")
        return client.recv(200).decode(errors="replace").strip()


def _ask_file(folder: RunFolder, request: str) -> str:
    if not folder.requests.is_dir():
        raise RunError(
            Problem(
                "The run cannot be reached.",
                where=str(folder.path),
                remedy="It may be starting or ending: try again in a few seconds.",
            )
        )
    (folder.requests / request).touch(mode=0o600)
    return f"left {request} for the run to find"
