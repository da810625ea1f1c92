"""The preview pictures of a run on the screen, the newest first, each with prompt and path."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import Screen
from textual.widgets import Footer

from engine.events import Sampled
from engine.snapshot import Snapshot
from lyctui import report, text
from lyctui.host import host
from lyctui.pictures import Pictures
from lyctui.report import Line
from lyctui.screens.log import TextScreen
from lyctui.widgets.lines import Lines
from lyctui.widgets.picture import picture_view
from lyctui.widgets.title import TitleLine

MOST_PICTURES = 12
WIDEST = 48


def samples_screen(snapshot: Snapshot, folder: Path, pictures: Pictures) -> Screen[Any]:
    """Pictures where the terminal shows them, else their paths."""
    if pictures.shown and snapshot.samples:
        return SamplesScreen(snapshot, folder)
    lines = report.sample_lines(snapshot.samples, folder)
    return TextScreen("samples", [report.plain(line) for line in lines], where=folder / "samples")


class SamplesScreen(Screen[None]):
    """The newest pictures in cells; the older ones as paths."""

    AUTO_FOCUS = "#body"
    DEFAULT_CSS = """
    SamplesScreen #body { height: 1fr; padding: 0 1; }
    SamplesScreen #body > * { margin-bottom: 1; }
    SamplesScreen #where { height: 1; padding: 0 1; margin: 0; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q", "dismiss", "back", id="samples.back", key_display="Esc"),
        Binding("f1", "app.help", "help", id="samples.help", key_display="F1"),
    ]

    def __init__(self, snapshot: Snapshot, folder: Path) -> None:
        super().__init__()
        self._snapshot = snapshot
        self._folder = folder

    def compose(self) -> ComposeResult:
        """Words, picture, words, picture."""
        pictures = sum(len(each.paths) for each in self._snapshot.samples)
        yield TitleLine("samples", right=text.counted(pictures, "picture"))
        with VerticalScroll(id="body", can_focus=True):
            left = MOST_PICTURES
            for sampled in reversed(self._snapshot.samples):
                if left <= 0:
                    yield Lines(report.sample_lines((sampled,), self._folder))
                    continue
                yield from self._shown(sampled)
                left -= len(sampled.paths)
        where: Line = ((text.home(self._folder / "samples"), "dim"),)
        yield Lines([where], id="where")
        yield Footer(compact=True, show_command_palette=False)

    def _shown(self, sampled: Sampled) -> ComposeResult:
        columns = min(WIDEST, self.app.size.width - 6)
        for number, path in enumerate(sampled.paths):
            one = Sampled(
                sampled.step, sampled.epoch, (path,), sampled.prompts[number : number + 1]
            )
            yield Lines(report.sample_lines((one,), self._folder))
            try:
                found = report.located(path, self._folder)
                yield picture_view(found, columns, host(self).pictures)
            except (OSError, ValueError):  # Moved, or no picture: its path still stands.
                continue
