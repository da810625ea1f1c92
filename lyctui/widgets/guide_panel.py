"""The quiet explanation of what is focused: a bar below the form, a column beside it where there is room."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.widgets import Static

from lyctui.text import inert


class GuidePanel(VerticalScroll, can_focus=False):
    """Shows a few sentences; the page decides which."""

    DEFAULT_CSS = """
    GuidePanel {
        height: 4;
        margin: 0 1;
        padding: 0 0 0 1;
        border-left: outer $accent;
        scrollbar-size-vertical: 0;
        color: $dim;
    }
    GuidePanel Static { height: auto; }
    """

    def __init__(self) -> None:
        super().__init__(id="guide")
        self.said = ""

    def compose(self) -> ComposeResult:
        """One text."""
        yield Static("", markup=False)

    def say(self, words: str) -> None:
        """Show other sentences."""
        words = inert(words, lines=True)
        if words != self.said:
            self.said = words
            self.query_one(Static).update(words)
            self.scroll_home(animate=False)
