"""The monitor as lines of text, or as one JSON object a line: same events, same signals, no screen.

The engine trains in its own thread and never waits for a line: writing happens here, in the main
thread, and a reader that is gone loses lines, nothing else.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

from engine.events import Event, Phase, StepDone, to_dict
from engine.snapshot import Snapshot
from lyctui import outcome, report, text
from lyctui.capture import Capture, Output
from lyctui.monitor import LiveRun, RunView
from lyctui.signals import EXIT_HANGUP, EXIT_INTERRUPT, Listener, Signalled, Signals
from lyctui.text import Signs

LINE_SECONDS = 1.0
"""At most one line about steps or phases in this time."""
POLL_SECONDS = 0.25
SUSPEND_NOTE = "Ctrl+Z would stop the GPU job: pause it, or detach tmux."


class LineLog:
    """Events to lines: notable ones at once, steps and phases at most one line a second."""

    def __init__(self, run: RunView, signs: Signs, *, ascii_only: bool = False) -> None:
        self._run = run
        self._signs = signs
        self._ascii = ascii_only
        self._next = 0.0
        self._said = ""

    def lines(self, events: list[Event], snapshot: Snapshot, now: float) -> Iterator[str]:
        """Lines for what happened since the last call."""
        progressed = False
        for event in events:
            if isinstance(event, StepDone | Phase):
                progressed = True
                continue
            line = report.event_line(event, self._run.folder, self._signs)
            if line is not None:
                yield self._finish(f"{text.clock(event.time)}  {report.plain(line)}")
        if progressed and now >= self._next and snapshot.end is None:
            said = self._progress(snapshot)
            if said != self._said:
                self._said = said
                self._next = now + LINE_SECONDS
                yield self._finish(f"{text.clock(time.time())}  {said}")

    def _finish(self, line: str) -> str:
        return text.ascii_only(line) if self._ascii else line

    def _progress(self, snapshot: Snapshot) -> str:
        if snapshot.phase != "training" or not snapshot.step:
            return report.phase_words(snapshot)
        parts = [report.step_words(snapshot), f"epoch {snapshot.epoch} of {snapshot.epochs}"]
        parts.append(f"loss {text.loss(snapshot.loss_mean)}")
        if snapshot.scaled_layers:
            parts.append(f"{text.counted(snapshot.scaled_layers, 'layer')} scaled back")
        if snapshot.rate_factor != 1:
            parts.append(f"rates {report.factor(snapshot.rate_factor)}")
        if snapshot.rows is not None:
            parts.append(f"passes of {snapshot.rows}")
        if snapshot.skipped:
            parts.append(f"fp16 skipped {text.grouped(snapshot.skipped)}")
        if snapshot.seconds_per_step is not None:
            parts.append(f"{text.significant(snapshot.seconds_per_step)} s a step")
        if snapshot.vram_total_bytes and snapshot.vram_bytes is not None:
            parts.append(f"VRAM {text.memory(snapshot.vram_bytes)}")
        if snapshot.remaining_seconds is not None:
            parts.append(f"{text.span(*snapshot.remaining_seconds)} left")
        return ", ".join(parts)


def json_line(event: Event) -> str:
    """One event as the machine interface has it."""
    return text.json_line(to_dict(event))


def follow(
    run: RunView,
    *,
    json_lines: bool = False,
    signals: Signals | None = None,
    ascii_only: bool = False,
    closing: bool = True,
) -> int:
    """Start `run` if it is ours, write its events as lines until it ends, and give the exit code.

    For a watched run an interrupt ends the watching only.
    """
    signals = signals or Signals().install()
    capture = Capture()
    output = Output(1)
    _listen(run)
    try:
        with _captured(capture, run, output):
            signals.listener = _notes(run, output, json_lines)
            _follow(run, output, signals, json_lines, ascii_only)
            snapshot = run.snapshot()
            if closing and not json_lines and (snapshot.end is not None or run.own):
                for line in outcome.closing_lines(snapshot, run.folder):
                    output.line(text.ascii_only(line) if ascii_only else line)
    finally:
        signals.listener = None
    if run.own and signals.abandon and run.live:
        os._exit(signals.stop_code or EXIT_INTERRUPT)
    return exit_code(run, signals)


def _listen(run: RunView) -> None:
    if isinstance(run, LiveRun):
        run.feed.open = True
        run.start()


@contextmanager
def _captured(capture: Capture, run: RunView, output: Output) -> Iterator[None]:
    """Keep the output of libraries in the run's log, so that lines and JSON stay whole."""
    if not run.own:
        yield
        return
    capture.begin(run.folder / "run.log")
    try:
        yield
    finally:
        if output.dead:
            capture.abandon()
        else:
            capture.end()


def _notes(run: RunView, output: Output, json_lines: bool) -> Listener:
    own = "Saving, then leaving. Once more: leave without saving."
    words = {"stop": own, "suspend": SUSPEND_NOTE} if run.own else {}

    def note(event: Signalled) -> None:
        if event in ("stop", "abandon"):
            # Whoever reads the pipe may never read again: leaving does not wait for that.
            output.hurry = True
        if event == "suspend" and not run.own:
            os.kill(os.getpid(), signal.SIGSTOP)
        if words.get(event) and not json_lines:
            output.line(words[event])

    return note


def _follow(
    run: RunView, output: Output, signals: Signals, json_lines: bool, ascii_only: bool
) -> None:
    if run.own and isinstance(run, LiveRun):
        signals.began(run)
    log = LineLog(run, text.signs(ascii_only), ascii_only=ascii_only)
    ended = False
    if run.read_only and not json_lines:
        output.line(text.inert(run.read_only))
    while not ended:
        ended = run.wait(POLL_SECONDS)
        events = run.events()
        if json_lines:
            for event in events:
                output.line(json_line(event))
        else:
            for line in log.lines(events, run.snapshot(), time.monotonic()):
                output.line(line)
        if signals.abandon or (not run.own and (signals.stop_code or signals.hangup)):
            return
        if output.dead and not run.own:
            return
        if output.dead and output.terminal:
            # Seen on the terminal where no signal came, as for a job that a shell has disowned.
            signals.lost()


def exit_code(run: RunView, signals: Signals) -> int:
    """The process's exit code: the run's own, told apart by which signal stopped it."""
    snapshot = run.snapshot()
    if not run.own:
        return signals.stop_code or (EXIT_HANGUP if signals.hangup else 0)
    if snapshot.state == "finished":
        return 0
    if snapshot.state == "stopped":
        if snapshot.end is not None and snapshot.end.exit not in (0, EXIT_INTERRUPT):
            return snapshot.end.exit
        stopped_by_hangup = signals.hangup and getattr(run, "on_disconnect", "") == "stop"
        return signals.stop_code or (EXIT_HANGUP if stopped_by_hangup else EXIT_INTERRUPT)
    code = getattr(run, "exit_code", 1)
    return int(code) or 1
