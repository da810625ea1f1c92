"""Shown while the terminal is too small; everything behind it keeps its state and training goes on."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.screen import Screen
from textual.widgets import Static

from lyctui.terminal import MIN_HEIGHT, MIN_WIDTH


class TooSmallScreen(Screen[None]):
    """Both sizes, and that nothing is lost."""

    DEFAULT_CSS = """
    TooSmallScreen { align: center middle; }
    TooSmallScreen > Static { width: auto; height: auto; text-align: center; }
    """

    def compose(self) -> ComposeResult:
        """One short block of text."""
        yield Static("", markup=False)

    def on_resize(self) -> None:
        """Say the size of now."""
        now = f"{self.size.width}x{self.size.height}"
        self.query_one(Static).update(
            f"terminal too small\n{now}, needs {MIN_WIDTH}x{MIN_HEIGHT}\nnothing is lost"
        )
