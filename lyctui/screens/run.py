"""The monitor: one screen for `train`, `resume` and `watch`, fed by polling snapshots."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.screen import Screen
from textual.widgets import Footer

from engine.control import Request
from engine.events import Event
from engine.snapshot import Snapshot
from lyctui import outcome, report, terminal, text
from lyctui.host import Host, host
from lyctui.monitor import RunView
from lyctui.report import Line
from lyctui.screens.ended import ending_screen
from lyctui.screens.log import LogScreen, TextScreen
from lyctui.screens.pictures import samples_screen
from lyctui.screens.prompts import PromptsScreen, prompts_file
from lyctui.widgets.chart import LossChart
from lyctui.widgets.lines import Lines
from lyctui.widgets.picture_row import PictureRow
from lyctui.widgets.title import TitleLine

HELP = """
Loss jumps by nature, and no value is the goal: pictures differ in how hard they are. A lasting change
late in the run is the sign to look at (guide 001). The samples judge, not the number. The chart shows
each loss dim, as the span of its column, and the running mean on top.

Fixed is the loss at fixed timesteps with fixed noise, so it does not jump: of the pictures held out, and
of some that are trained. Trained falls while held out rises: the run learns its pictures by heart, and
Lowest names the step before that. With few pictures held out, trust a trend, not one value.

LR is the learning rate of each part now, after warmup and schedule. "× 0.5 rolled back" below it: the loss
became no number or leapt, so the run went back to its last good state and goes on at half the rate.
Loss and chart begin again at the step it went back to; the events name the pictures.

Gradient is the length of the whole gradient before clipping; a steady rise late in a run is a sign of
a learning rate that is too high.

VRAM is what this run holds now, of what the card has, and the most it ever held; RAM without a card.

Passes of 2 pictures: memory ran short, so each step is computed in smaller passes, slower and with the
same result. fp16 updates skipped: a gradient left the range of fp16; a few are normal, many call for bf16.

Waiting: something outside the run must change first, such as room on the disk. Nothing is lost meanwhile,
and the run goes on by itself; stop is heard.

Left is a range while the pace is uncertain; its ends meet as steps become regular.

Requests are taken at the end of a step; the log says when. t changes the prompts of the samples.
"""


SAID_SECONDS = 4.0
SAMPLE_LINES = 5
"""Rows below the pictures for what they are."""
MOST_NEWS = 3
"""Warnings that are told at once; the list of events has them all."""


def last_of(log: Sequence[Event]) -> Event | None:
    """The newest event, if there is any."""
    return log[-1] if log else None


class RunScreen(Screen[None]):
    """Progress, numbers, chart, events, samples, and what one may ask of the run."""

    HELP: ClassVar[str | None] = HELP
    DEFAULT_CSS = """
    RunScreen #body { height: 1fr; padding: 1 1 0 1; }
    RunScreen #progress { height: auto; min-height: 2; }
    RunScreen #numbers { height: auto; min-height: 3; margin-top: 1; }
    RunScreen #middle { height: 1fr; min-height: 3; margin-top: 1; }
    RunScreen #chart { height: 100%; width: 1fr; }
    RunScreen #beside { display: none; width: 44; height: 100%; margin-left: 2; }
    RunScreen #samples { height: 1fr; }
    RunScreen #events { height: 4; margin-top: 1; }
    RunScreen #log { height: 1; }
    RunScreen.-wide #beside { display: block; }
    RunScreen.-wide #events { height: 9; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("s", "ask('save')", "save", id="run.save", tooltip="Save a state now"),
        Binding("p", "ask('sample')", "sample", id="run.sample", tooltip="Make samples now"),
        Binding("space", "pause", "pause", id="run.pause", key_display="Space"),
        Binding("x", "stop", "stop", id="run.stop", tooltip="Save the state and stop"),
        Binding("l", "log", "log", id="run.log", tooltip="Show the log"),
        Binding("g", "scale", "chart", id="run.scale", tooltip="Chart scale: linear or log"),
        Binding("q", "app.leave", "leave", id="run.leave", tooltip="Leave the monitor"),
        Binding("f1", "app.help", "help", id="run.help", key_display="F1"),
        Binding(
            "v", "samples", "samples", id="run.samples", show=False, tooltip="Show the samples"
        ),
        Binding(
            "t", "prompts", "prompts", id="run.prompts", show=False, tooltip="Change the prompts"
        ),
        Binding("e", "events", "events", id="run.events", show=False, tooltip="List all events"),
        Binding("h", "pause", "pause", id="run.hold", show=False, tooltip="Pause or go on"),
    ]

    def __init__(self, run: RunView) -> None:
        super().__init__()
        self._run = run
        self._host: Host
        self._chart_at = 0.0
        self._chart_late = False
        self._polled_at = 0.0
        # What a watched run told before it was watched is no news.
        self._last_told = None if run.own else last_of(run.snapshot().log)
        self._percent = -1
        self._seen: Snapshot | None = None
        self._ended = False
        self._told = False

    def compose(self) -> ComposeResult:
        """Panels from the top; the samples beside the chart where there is room."""
        self._host = host(self)
        yield TitleLine(text.inert(self._run.folder.name), "loading", id="title")
        with Vertical(id="body"):
            yield Lines(id="progress")
            yield Lines(id="numbers")
            with Horizontal(id="middle"):
                yield LossChart(ascii_only=self._host.ascii_only, id="chart")
                with Vertical(id="beside"):
                    yield PictureRow(self._host.pictures, id="newest")
                    yield Lines(id="samples")
            yield Lines(id="events")
            yield Lines(id="log")
        yield Footer(compact=True, show_command_palette=False)

    def on_mount(self) -> None:
        """Begin to poll."""
        self._show_where()
        self.set_interval(self._host.poll_seconds, self._tick)
        if self._run.read_only:
            self.notify(self._run.read_only, timeout=12, markup=False)
        if self._run.own and terminal.over_ssh() and not terminal.in_multiplexer():
            self.notify(
                "If the line drops, training goes on; see it again with "
                f"{outcome.watch_command(self._run.folder)}. In tmux the screen stays, too.",
                timeout=12,
                markup=False,
            )

    def _show_where(self) -> None:
        line = self.query_one("#log", Lines)
        where = f"log: {text.home(self._run.folder / 'run.log')}"
        line.show([((text.fit_middle(where, line.size.width or 78), "dim"),)])

    # --- polling ---

    def _tick(self) -> None:
        now = time.monotonic()
        # The pace may have been lowered since the timer was set: a slow line.
        if now - self._polled_at >= self._host.poll_seconds - 0.05:
            self._polled_at = now
            self._poll()

    def _poll(self) -> None:
        if self._ended:
            return
        snapshot = self._run.snapshot()
        # Covered by another page nothing is drawn; behind help or a dialog the end waits.
        still = self._seen is snapshot and snapshot.state == "paused" and not self._chart_late
        if self.is_current and not still:
            self._show(snapshot)
            self._seen = snapshot
        # The last event precedes the end of the thread, which still closes files and sockets.
        if snapshot.end is not None and not self._run.live:
            self._end(snapshot)

    def on_screen_resume(self) -> None:
        """Seen again: draw what happened meanwhile."""
        self._seen = None
        self.call_after_refresh(self._poll)

    def _show(self, snapshot: Snapshot) -> None:
        width = self.query_one("#progress", Lines).size.width or 78
        signs = self._host.signs
        name = text.inert(self._run.folder.name)
        places = [name, report.phase_words(snapshot)]
        if not self._run.own:
            places.append("watching, read-only" if self._run.read_only else "watching")
        self.query_one("#title", TitleLine).place(*places, right=report.step_words(snapshot))
        waiting: Line = ((report.waiting_words(snapshot), "warning"),)
        self.query_one("#progress", Lines).show(
            [
                *(report.folded([waiting], width) if snapshot.waiting else ()),
                report.gauge(snapshot, width, signs),
                report.time_line(snapshot, signs, width),
            ]
        )
        self.query_one("#numbers", Lines).show(report.number_lines(snapshot))
        if self._seen is None or snapshot.log is not self._seen.log:
            self._show_events(snapshot)
        now = time.monotonic()
        self._chart_late = now - self._chart_at < 1 / self._host.fps
        if not self._chart_late:
            self._chart_at = now
            self.query_one(LossChart).follow(snapshot.points)
        self._show_window_title(name, snapshot)

    def _show_events(self, snapshot: Snapshot) -> None:
        self._tell_news(snapshot)
        events = self.query_one("#events", Lines)
        rows = events.size.height or 4
        events.show(report.log_lines(snapshot, self._run.folder, rows, self._host.signs))
        if self.query_one("#beside").display:
            self._show_samples(snapshot)

    def _tell_news(self, snapshot: Snapshot) -> None:
        """Warnings that came since the last look, each once; their lines stay among the events."""
        since = takewhile(lambda event: event is not self._last_told, reversed(snapshot.log))
        news = [words for event in since if (words := report.news(event))]
        for words in reversed(news[:MOST_NEWS]):
            self.notify(words, severity="warning", timeout=8, markup=False)
        self._last_told = last_of(snapshot.log)

    def _show_samples(self, snapshot: Snapshot) -> None:
        """The newest pictures, and the paths of as many as there is room for."""
        beside, samples = self.query_one("#beside"), self.query_one("#samples", Lines)
        if snapshot.samples:
            paths = snapshot.samples[-1].paths[:2]
            columns = min((beside.size.width - 1) // 2, 2 * (beside.size.height - SAMPLE_LINES))
            located = [report.located(path, self._run.folder) for path in paths]
            self.query_one("#newest", PictureRow).follow(located, columns)
        head: Line = (("Samples", "strong"),)
        none: list[Line] = [(("none yet", "dim"),)]
        found = report.sample_lines(snapshot.samples, self._run.folder) or none
        samples.show([head, *found])

    def _show_window_title(self, name: str, snapshot: Snapshot) -> None:
        percent = int(report.progress(snapshot) * 100)
        if percent != self._percent:
            self._percent = percent
            self._host.window_title(f"{percent} % {name}")

    def on_resize(self) -> None:
        """Everything is cut to the new width."""
        self._seen = None
        if not self._ended:
            self._show_where()
        self.call_after_refresh(self._poll)

    def _end(self, snapshot: Snapshot) -> None:
        if not self._told:
            self._told = True
            name = text.inert(self._run.folder.name)
            self._host.tell_end(f"{name}: {report.phase_words(snapshot)}")
            self._host.window_title(f"{report.phase_words(snapshot)} {name}")
        if self._host.run_ended(self._run):
            self._ended = True
        elif self.app.screen is self:
            self._ended = True
            self.app.switch_screen(ending_screen(self._run, self._host))

    # --- requests ---

    def action_ask(self, request: Request) -> None:
        """Ask the run; a watched one may take seconds to answer, so the screen does not wait."""
        if self._run.read_only:
            self.notify(self._run.read_only, severity="warning", markup=False)
            return
        self.run_worker(self._ask(request))

    async def _ask(self, request: Request) -> None:
        refusal = await asyncio.to_thread(self._run.ask, request)
        if refusal:
            self.notify(text.inert(refusal), severity="error", timeout=30, markup=False)
        else:
            words = report.REQUEST_WORDS[request]
            self._say(f"Asked to {words}; it is taken at the end of this step.")

    def _say(self, words: str) -> None:
        """A word in the last line for a while: it covers nothing."""
        self.query_one("#log", Lines).show([((words, "strong"),)])
        self.set_timer(SAID_SECONDS, self._show_where)

    def action_pause(self) -> None:
        """Pause, or go on."""
        paused = self._run.snapshot().state == "paused"
        self.action_ask("continue" if paused else "pause")

    def action_stop(self) -> None:
        """Save the exact state and stop: nothing is lost, so no question."""
        self.action_ask("stop")

    # --- other views ---

    def action_log(self) -> None:
        """The log file."""
        self.app.push_screen(LogScreen(self._run.folder / "run.log"))

    def action_events(self) -> None:
        """Every notable event."""
        snapshot = self._run.snapshot()
        lines = report.log_lines(snapshot, self._run.folder, 200, self._host.signs)
        where = self._run.folder / "events.jsonl"
        self._list("events", [report.plain(line) for line in lines], where)

    def action_samples(self) -> None:
        """The newest sample pictures, and every one's path."""
        snapshot, pictures = self._run.snapshot(), self._host.pictures
        self.app.push_screen(samples_screen(snapshot, self._run.folder, pictures))

    def action_prompts(self) -> None:
        """The prompts of the coming pictures, to be changed."""
        if self._run.read_only:
            self.notify(self._run.read_only, severity="warning", markup=False)
            return
        if not prompts_file(self._run.folder).exists():
            # What is written before the run has written its own would replace the recipe's unseen.
            self.notify("The prompts can be changed as soon as the run has loaded.")
            return
        self.app.push_screen(PromptsScreen(self._run.folder))

    def _list(self, title: str, lines: list[str], where: Path) -> None:
        self.app.push_screen(TextScreen(title, lines, where=where))

    def action_scale(self) -> None:
        """Linear or logarithmic."""
        logarithmic = self.query_one(LossChart).switch_scale()
        self._say(f"Chart scale: {'logarithmic' if logarithmic else 'linear'}.")
