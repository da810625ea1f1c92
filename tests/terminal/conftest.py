"""A real terminal for a real process: a pty that can be read, stalled and closed, and tmux."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.runs import RunFolder, owner_of

REPO = Path(__file__).resolve().parents[2]
TOY = Path(__file__).with_name("toy.py")
PATIENCE = 30.0


def environment(folder: Path) -> dict[str, str]:
    """A quiet environment of its own: no colours asked for, no files outside the test's folder."""
    keep = {key: os.environ[key] for key in ("PATH", "LANG", "HOME") if key in os.environ}
    own = {
        "TERM": "xterm-256color",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(REPO),
        "PYTHONUTF8": "1",
        "LYCTUI_STATE": str(folder / "state"),
        "LYCTUI_RUNS": str(folder / "runs"),
        "TEXTUAL_ANIMATIONS": "none",
    }
    return keep | own


def until(condition: Callable[[], Any], what: str, seconds: float = PATIENCE) -> Any:
    """Wait for a condition, not for a time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError(f"waited {seconds} s for {what}")


class Terminal:
    """A process in a pseudo terminal of 80x24."""

    def __init__(
        self,
        folder: Path,
        arguments: list[str],
        *,
        ignore_hangup: bool = False,
        extra: dict[str, str] | None = None,
    ) -> None:
        self.run = folder / "vexilo_v1"
        self.output = b""
        self.pid, self._master = pty.fork()
        if self.pid == 0:
            if ignore_hangup:
                signal.signal(signal.SIGHUP, signal.SIG_IGN)
            command = [sys.executable, str(TOY), str(self.run), *arguments]
            os.execve(sys.executable, command, environment(folder) | (extra or {}))
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))

    def pump(self) -> bytes:
        """Take what the process drew."""
        while self._master >= 0 and select.select([self._master], [], [], 0)[0]:
            try:
                data = os.read(self._master, 65536)
            except OSError:
                break
            if not data:
                break
            self.output += data
        return self.output

    @property
    def text(self) -> str:
        """What was drawn, without escape sequences."""
        raw = self.pump().decode("utf-8", "replace")
        return re.sub(r"\x1b(\[[0-9;?<>=$]*[A-Za-z]|\][^\x07]*\x07|[=>])", "", raw)

    def shows(self, words: str) -> None:
        """Wait until words were drawn."""
        until(lambda: words in self.text, f"{words!r} on the screen")

    @property
    def cooked(self) -> bool:
        """Whether the terminal echoes and edits lines, as a shell wants it."""
        flags = termios.tcgetattr(self._master)[3]
        return bool(flags & termios.ECHO and flags & termios.ICANON)

    def press(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def close(self) -> None:
        """The line drops."""
        os.close(self._master)
        self._master = -1

    def kill(self, number: int) -> None:
        os.kill(self.pid, number)

    @property
    def events(self) -> list[dict[str, Any]]:
        try:
            lines = (self.run / "events.jsonl").read_text().splitlines()
        except OSError:
            return []
        return [json.loads(line) for line in lines]

    def at_step(self, step: int) -> None:
        """Wait for a step, reading the screen meanwhile."""

        def reached() -> bool:
            self.pump()
            return any(each.get("step", 0) >= step for each in self.events)

        until(reached, f"step {step}")

    def wait(self) -> int:
        """The exit code; reads the screen meanwhile unless it is closed."""
        status: list[int] = []

        def ended() -> bool:
            if self._master >= 0:
                self.pump()
            pid, code = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                status.append(code)
            return bool(pid)

        until(ended, "the process to end")
        self.pump()
        self.pid = 0
        return os.waitstatus_to_exitcode(status[0])

    @property
    def report(self) -> dict[str, float]:
        """What the toy wrote at its end."""
        return dict(json.loads((self.run / "report.json").read_text()))

    def finish(self) -> None:
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        if self._master >= 0:
            self.close()


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Callable[..., Terminal]]:
    """Start the toy in a terminal: `terminal("--steps", "40")`."""
    started: list[Terminal] = []

    def start(
        *arguments: str, ignore_hangup: bool = False, extra: dict[str, str] | None = None
    ) -> Terminal:
        started.append(
            Terminal(tmp_path, list(arguments), ignore_hangup=ignore_hangup, extra=extra)
        )
        return started[-1]

    yield start
    for each in started:
        each.finish()


class Tmux:
    """One tmux server on a socket of its own."""

    until = staticmethod(until)

    def __init__(self, folder: Path) -> None:
        self._socket = f"lyctui-{uuid.uuid4().hex[:8]}"
        self._folder = folder
        self._run: Path | None = None

    def call(self, *arguments: str) -> str:
        command = ["tmux", "-L", self._socket, "-f", "/dev/null", *arguments]
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment(self._folder), check=False
        )
        return done.stdout

    def start(self, command: str, width: int = 80, height: int = 24) -> None:
        size = ("-x", str(width), "-y", str(height))
        self.call("new-session", "-d", "-s", "s", *size, command)

    def toy(self, *arguments: str, width: int = 80, height: int = 24) -> Path:
        run = self._folder / "vexilo_v1"
        words = " ".join([sys.executable, str(TOY), str(run), *arguments])
        self.start(f"{words}; echo EXIT $?; sleep 60", width, height)
        self._run = run
        return run

    @property
    def screen(self) -> str:
        return self.call("capture-pane", "-p", "-t", "s")

    def shows(self, words: str) -> str:
        def shown() -> str:
            screen = self.screen
            return screen if words in screen else ""

        return str(until(shown, f"{words!r} in tmux"))

    def keys(self, *keys: str) -> None:
        self.call("send-keys", "-t", "s", *keys)

    def finish(self) -> None:
        """End the server, and a run that goes on without it: a paused one would do so for ever."""
        self.call("kill-server")
        owner = owner_of(RunFolder(self._run)) if self._run is not None else None
        if owner is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(owner.pid, signal.SIGKILL)


@pytest.fixture
def tmux(tmp_path: Path) -> Iterator[Tmux]:
    """A tmux server; tests that need one are skipped without tmux."""
    if shutil.which("tmux") is None:
        pytest.skip("tmux is not installed")
    server = Tmux(tmp_path)
    yield server
    server.finish()
