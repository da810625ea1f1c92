"""A long text to scroll through: the log, the list of samples, a report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import Screen
from textual.widgets import Footer, Log, Static

from lyctui import report, text
from lyctui.widgets.title import TitleLine

TAIL_BYTES = 200_000
"""Of a log file, the end is what is wanted."""
READ_SECONDS = 1.0
MOST_LINES = 10_000
BORDER_CELLS = 4
"""Beside the text, with the bar that shows how far down one is."""


class TextScreen(Screen[None]):
    """Lines that do not change."""

    DEFAULT_CSS = """
    TextScreen Log { height: 1fr; padding: 0 1; background: $background; }
    TextScreen #where { height: 1; padding: 0 1; color: $dim; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q", "dismiss", "back", id="text.back", key_display="Esc"),
        Binding("home,g", "top", "top", id="text.top"),
        Binding("end,G", "bottom", "end", id="text.end"),
    ]

    def __init__(self, title: str, lines: Sequence[str], *, where: Path | None = None) -> None:
        super().__init__()
        self._title = title
        self._lines = [text.inert(line) for line in lines]
        self._where = where

    def compose(self) -> ComposeResult:
        """Title, text, path."""
        yield TitleLine(self._title)
        yield Log(highlight=False, max_lines=MOST_LINES)
        yield Static(text.home(self._where) if self._where else "", id="where", markup=False)
        yield Footer(compact=True, show_command_palette=False)

    def on_mount(self) -> None:
        """Fill it."""
        self.fill()
        self.query_one(Log).focus()

    def on_resize(self) -> None:
        """Fold for the new width."""
        self.query_one(Log).clear()
        self._write(self._lines)

    def fill(self) -> None:
        """Write what there is. Overridden, not `on_mount`: of that every class's own is called."""
        self._lines = self._lines or ["nothing yet"]
        self._write(self._lines)

    def _write(self, lines: Sequence[str]) -> None:
        # Nobody finds what is beyond the right border.
        width = self.app.size.width - BORDER_CELLS
        rows = report.folded([((line, ""),) for line in lines], width)
        self.query_one(Log).write_lines([report.plain(row) for row in rows])

    def action_top(self) -> None:
        """The beginning."""
        self.query_one(Log).scroll_home(animate=False)

    def action_bottom(self) -> None:
        """The end."""
        self.query_one(Log).scroll_end(animate=False)


class LogScreen(TextScreen):
    """A log file, followed while it grows."""

    def __init__(self, path: Path) -> None:
        super().__init__("log", [], where=path)
        self._path = path
        self._offset = 0

    def fill(self) -> None:
        """Show the end of the file and follow it."""
        try:
            self._offset = max(0, self._path.stat().st_size - TAIL_BYTES)
        except OSError:
            self._lines = ["The log is empty."]
            self._write(self._lines)
        self._read()
        self.set_interval(READ_SECONDS, self._read)

    def _read(self) -> None:
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                new = file.read(TAIL_BYTES)
        except OSError:
            return
        whole = new[: new.rfind(b"\n") + 1]
        self._offset += len(whole)
        if whole:
            lines = whole.decode("utf-8", "replace").splitlines()
            new_lines = [text.inert(line) for line in lines]
            self._lines = [*self._lines, *new_lines][-MOST_LINES:]
            self._write(new_lines)
