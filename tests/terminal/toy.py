"""A run that trains nothing but tells everything: real events, real reducer, a thread like the engine's.

As a program it is what the terminal tests start: `python toy.py FOLDER [--steps N] [--seconds S] ...`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import threading
import time
from pathlib import Path

from engine.control import Control
from engine.errors import EngineError, OutOfMemory, Problem
from engine.events import (
    Acknowledged,
    Ended,
    Event,
    Phase,
    Sampled,
    Saved,
    Started,
    StepDone,
    to_dict,
)
from engine.listener import Listener
from engine.run_lock import Lock
from engine.runs import RunFolder
from engine.snapshot import Reducer, Snapshot


class ToySession:
    """What `lyctui.monitor.SessionLike` asks for, with a step that takes `seconds`."""

    def __init__(
        self,
        folder: Path,
        *,
        steps: int = 20,
        seconds: float = 0.05,
        save_seconds: float = 0.0,
        fail_at: int = 0,
        noise: bool = False,
        on_event: object = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = RunFolder(folder)
        self.control = Control()
        self.exit_code: int | None = None
        self.error: EngineError | None = None
        self.stamps: list[float] = []
        self._reducer = Reducer(folder.name)
        self._steps, self._seconds, self._save_seconds = steps, seconds, save_seconds
        self._fail_at, self._noise = fail_at, noise
        self._on_event = on_event
        self._thread = threading.Thread(target=self._train, name="training", daemon=False)

    def start(self) -> None:
        self._thread.start()

    def snapshot(self) -> Snapshot:
        return self._reducer.snapshot

    def wait(self, timeout: float | None = None) -> bool:
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def emit(self, event: Event) -> None:
        with self.folder.events.open("a") as file:
            file.write(json.dumps(to_dict(event)) + "\n")
        self._reducer.apply(event)
        if callable(self._on_event):
            self._on_event(event)

    def _train(self) -> None:
        lock = Lock(self.folder)
        lock.acquire()
        listener = Listener(self.folder, self.control, lock.beat)
        listener.start()
        try:
            self._loop()
        finally:
            listener.stop()
            lock.release()

    def _loop(self) -> None:
        self.emit(Phase("loading"))
        name = self.folder.name
        self.emit(
            Started(
                name, self._steps, (self._steps // 2,) * 2, 2, 10, device="cpu", pid=os.getpid()
            )
        )
        self.emit(Phase("training"))
        stopped = False
        for step in range(1, self._steps + 1):
            time.sleep(self._seconds)
            self._shout(step)
            self.stamps.append(time.monotonic())
            if step == self._fail_at:
                self._fail(step)
                return
            self.emit(toy_step(step, self._seconds, 1 + step // (self._steps // 2 + 1)))
            if self._obey(step):
                stopped = True
                break
        self._finish("stopped" if stopped else "finished", step)

    def _shout(self, step: int) -> None:
        if self._noise and step == 3:
            import subprocess
            import warnings

            print("noise from print")
            warnings.warn("noise from warnings", stacklevel=1)
            os.write(2, b"noise from write 2\n")
            subprocess.run(["sh", "-c", "echo noise from a child"], check=True)
            import ctypes

            libc = ctypes.CDLL(None)
            libc.puts(b"noise from C")
            libc.fflush(None)
            EARLY.write("noise from an early handler\n")
            EARLY.flush()

    def _obey(self, step: int) -> bool:
        """Do what is asked, as the engine does, also while paused; whether to stop."""
        paused = False
        while True:
            for word in self.control.take():
                self.emit(Acknowledged(word, step))
                if word == "sample":
                    self._sample(step)
                elif word in ("save", "stop"):
                    self._save(step)
                paused = {"pause": True, "continue": False}.get(word, paused)
                if word == "stop":
                    return True
            if not paused:
                return False
            self.control.wait(0.1)

    def _save(self, step: int) -> None:
        time.sleep(self._save_seconds)
        state = self.folder.states / f"step-{step:06}"
        state.mkdir(parents=True, exist_ok=True)
        self.emit(Saved("state", step, 1, str(state), checked=True))

    def _sample(self, step: int) -> None:
        picture = self.folder.samples / f"step-{step:06}_0_1.png"
        picture.parent.mkdir(exist_ok=True)
        picture.write_bytes(b"")
        self.emit(Sampled(step, 1, (str(picture),), ("vexilo emblem",)))

    def _fail(self, step: int) -> None:
        problem = Problem("The GPU ran out of memory.", remedy="Set train.batch_size to 1.")
        self.error = OutOfMemory(problem)
        self._end("failed", step, 5, problems=({"what": problem.what, "remedy": problem.remedy},))

    def _finish(self, state: str, step: int) -> None:
        if state == "finished":
            file = self.folder.path / f"{self.folder.name}.safetensors"
            file.write_bytes(b"toy" * 1000)
            self.emit(Sampled(step, 2, (str(self.folder.samples / "a.png"),), ("vexilo emblem",)))
            self.emit(Saved("network", step, 2, str(file), 3000, checked=True, final=True))
        self._end(state, step, 0)

    def _end(self, state: str, step: int, code: int, **more: object) -> None:
        self.exit_code = code
        files = self._reducer.snapshot.files
        self.emit(Ended(state, self.folder.name, files, step, code, **more))


def toy_step(step: int, seconds: float, epoch: int = 1) -> StepDone:
    loss = 0.1 + 0.05 * math.sin(step) + 0.5 * (step % 97 == 50)
    rates = {"unet": 8.1e-5, "te": 4.0e-5}
    return StepDone(
        step, epoch, loss, rates, 0.4, seconds, 2, vram_bytes=2**30, vram_peak_bytes=2**31
    )


EARLY = sys.stderr


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=0.05)
    parser.add_argument("--save-seconds", type=float, default=0.0)
    parser.add_argument("--fail-at", type=int, default=0)
    parser.add_argument("--on-disconnect", default="continue")
    parser.add_argument("--noise", action="store_true")
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--wizard", action="store_true")
    parser.add_argument("--crash", action="store_true")
    asked = parser.parse_args()

    from lyctui.monitor import EventFeed, LiveRun

    started = time.monotonic()
    feed = EventFeed()
    session = ToySession(
        asked.folder,
        steps=asked.steps,
        seconds=asked.seconds,
        save_seconds=asked.save_seconds,
        fail_at=asked.fail_at,
        noise=asked.noise,
        on_event=feed,
    )
    run = LiveRun(session, feed, asked.on_disconnect)
    if asked.plain or asked.json:
        from lyctui.plain_monitor import follow

        code = follow(run, json_lines=asked.json)
    else:
        from lyctui import app as app_module
        from lyctui.app import run_app

        after = app_module.after_screens

        def stamped(app: object, signals: object) -> int:
            (asked.folder / "closed").write_text(str(time.time()))
            return after(app, signals)

        app_module.after_screens = stamped
        if asked.crash:
            break_the_screen()
        code = run_app(wizard_page, fps=1.0) if asked.wizard else run_app(run=run)
    gaps = [
        after - before for before, after in zip(session.stamps, session.stamps[1:], strict=False)
    ]
    report = {
        "code": code,
        "steps": len(session.stamps),
        "longest_gap": max(gaps, default=0.0),
        "cpu": time.process_time(),
        "wall": time.monotonic() - started,
    }
    (asked.folder / "report.json").write_text(json.dumps(report))
    return code


def break_the_screen() -> None:
    """Make the monitor raise after a while, with something private in a local variable."""
    from lyctui import report

    working = report.number_lines

    def broken(snapshot: Snapshot) -> object:
        secret = "secret token"
        if snapshot.step > 20:
            raise RuntimeError("on purpose" if secret else "")
        return working(snapshot)

    report.number_lines = broken  # type: ignore[assignment]


def wizard_page() -> object:
    from textual.screen import Screen
    from textual.widgets import Input

    class Page(Screen):
        def compose(self):
            yield Input(placeholder="trigger")

        def on_mount(self):
            self.app.before_leave = self.save

        def save(self):
            folder = Path(sys.argv[1])
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "draft").write_text(self.query_one(Input).value)
            return "The draft is saved; no other file was changed."

    return Page()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Exception:
        # The terminal may be gone: a test must still be able to say what broke.
        import traceback

        Path(sys.argv[1], "crash").write_text(traceback.format_exc())
        raise
