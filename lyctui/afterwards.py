"""After the screens are gone: training goes on, lines take over, and the exit code is found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from lyctui import plain_monitor, text
from lyctui.capture import Output
from lyctui.monitor import LiveRun
from lyctui.outcome import closing_lines, watch_command
from lyctui.signals import EXIT_HANGUP, Signals

if TYPE_CHECKING:
    from lyctui.app import LyctuiApp


def after_screens(app: LyctuiApp, signals: Signals) -> int:
    """Finish in the terminal, or without one, what the screens began."""
    output = Output(1)

    def say(lines: Sequence[str]) -> None:
        for line in lines:
            output.line(text.ascii_only(line) if app.ascii_only else line)

    if app.crash:
        say([app.crash])
    say(app.parting)
    run = app.run_here
    ended = _tool_ended(app, say)
    if run is None:
        watched = app.shown_run
        if watched is not None and watched.live:
            say([f"The run goes on. See it again: {watch_command(watched.folder)}"])
        if app.crash:
            return 1
        if ended is not None and signals.hangup:
            # Nobody is left to be told, but the work is done: as a run that finished alone.
            return ended
        return EXIT_HANGUP if signals.hangup and app.shown_run is None else app.exit_status
    if run.live:
        say(_going_on(run, signals))
        return plain_monitor.follow(run, signals=signals, ascii_only=app.ascii_only)
    say(closing_lines(run.snapshot(), run.folder))
    return plain_monitor.exit_code(run, signals)


def _tool_ended(app: LyctuiApp, say: Callable[[Sequence[str]], None]) -> int | None:
    """Wait for a file tool whose end no screen has told, and tell it; None where there is none."""
    tool = app.tool
    if tool is None or tool.seen:
        return None
    if tool.live and not tool.stopping and tool.output is not None:
        say([f"{tool.tool} goes on; {text.home(tool.output)} appears when it is whole."])
    while not tool.wait(0.2):
        if app.signals.stop_code:
            tool.cancel()
    say([tool.closing_line()])
    return tool.exit_code


def _going_on(run: LiveRun, signals: Signals) -> list[str]:
    if signals.abandon:
        return ["Leaving without saving."]
    if signals.stop_code:
        return ["Saving, then leaving."]
    return [
        "Training goes on as a line log; closing this terminal is safe. Ctrl+C: save, stop.",
        f"The screen again, from any shell: {watch_command(run.folder)}",
    ]
