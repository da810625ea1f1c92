"""Run folders as anyone can read them: paths, lock, state, events, and requests to a live run. No torch.

A run is a folder: run.toml, events.jsonl, run.log, lock, state/, samples/, *.safetensors, and while
it runs control.sock.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from engine.control import REQUESTS
from engine.errors import Problem, RunError
from engine.events import (
    Ended,
    Event,
    Phase,
    RolledBack,
    Started,
    StepDone,
    Waiting,
    from_dict,
)
from engine.regular import open_regular
from engine.run_lock import Lock as Lock
from engine.run_lock import Owner as Owner
from engine.run_lock import owner_of as owner_of

START_PREFIX = "start-"
"""Begins the name of a run's own copy of the network file that it started from."""
SOCKET_PATH_LIMIT = 100
"""Bytes of a Unix socket's path that every system accepts."""

REFUSED = "refused"
"""Begins the answer of a run that does not take a request."""

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
    def called(self) -> str:
        """What a command must be given to find it: its name, or the whole path elsewhere."""
        import shlex

        known = self.path.parent == default_runs_folder()
        return shlex.quote(self.name if known else str(self.path))

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
    def final(self) -> Path:
        """The finished network file."""
        return self.path / f"{self.path.name}.safetensors"

    @property
    def socket(self) -> Path:
        return self.path / "control.sock"

    @property
    def requests(self) -> Path:
        """Folder of control files, where sockets do not work."""
        return self.path / "control"


def read_events(events: Path, offset: int = 0) -> tuple[list[Event], int]:
    """Events after byte `offset`, and the offset to go on from. A half-written last line waits."""
    try:
        with open_regular(events) as file:
            file.seek(offset)
            chunk = file.read()
    except OSError:
        # Not there yet, or out of reach for a while: whoever follows a run asks again.
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
    except (ValueError, TypeError, RecursionError):
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
    waiting: str = ""
    """What a running one waits for, in words; empty while it works."""

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
    ended = _end_of(events)
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
        step=ended.steps if ended is not None else _step_of(events),
        total_steps=started.total_steps if started else 0,
        updated_at=events[-1].time if events else path.stat().st_mtime,
        owner=owner,
        message=ended.message if ended is not None else "",
        waiting=_waiting(events) if owner is not None else "",
    )


def _waiting(events: Sequence[Event]) -> str:
    """What the process waits for; what one before it waited for when it died is no matter of this one."""
    for event in reversed(events):
        match event:
            case Waiting():
                return event.reason
            case Started() | Phase(phase="loading"):
                return ""
    return ""


def _step_of(events: Sequence[Event]) -> int:
    """The step that a run stands at: what was rolled back or repeated by a resume does not count."""
    for event in reversed(events):
        match event:
            case StepDone() | Started():
                return event.step
            case RolledBack():
                return event.to_step
    return 0


def saved_step(folder: RunFolder) -> int:
    """Step of the newest state, by the names alone; 0 without one."""
    try:
        ends = [path.name.removeprefix("step-") for path in folder.states.glob("step-*")]
    except OSError:
        return 0
    return max((int(end) for end in ends if end.isdecimal()), default=0)


def _end_of(events: Sequence[Event]) -> Ended | None:
    """How the last process has ended; None where it did not say.

    By the order of the lines: a clock may have been set back between them.
    """
    last = next((event for event in reversed(events) if isinstance(event, Started | Ended)), None)
    return last if isinstance(last, Ended) else None


def has_finished(folder: RunFolder) -> bool:
    """Whether a process that trained said that all was done, and none has trained since."""
    for event in reversed(read_events(folder.events)[0]):
        if isinstance(event, Started):
            return False
        if isinstance(event, Ended) and event.state == "finished":
            return True
    return False


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
        remedy = "" if ended else f"Go on with `lyctui resume {folder.called}`."
        what = "The run is finished." if ended else "The run is not running."
        raise RunError(Problem(what, where=str(path), remedy=remedy))
    if not owner.here:
        raise RunError(
            Problem(f"The run is on {owner.host}.", where=str(path), remedy="Ask it from there.")
        )
    answer = ""
    with contextlib.suppress(OSError), short_socket_path(folder.socket) as address:
        answer = _ask_socket(address, request, timeout)
    if answer.startswith(REFUSED):
        raise RunError(Problem(f"The run did not take that: {answer}.", where=str(path)))
    return answer or _ask_file(folder, request)


def _ask_socket(address: str, request: str, timeout: float) -> str:
    """The answer; "" from a run that ends at this moment. Raises OSError where none can be had."""
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
    try:
        (folder.requests / request).touch(mode=0o600)
    except OSError as error:
        allowed = not isinstance(error, PermissionError)
        what = f"The run cannot be asked: {error.strerror}."
        raise RunError(
            Problem(
                what if allowed else "The run belongs to another user, who alone may ask it.",
                where=str(folder.path),
            )
        ) from None
    return f"left {request} for the run to find"
