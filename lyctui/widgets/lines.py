"""A block of text lines that repaints only the lines that changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual.geometry import Region
from textual.strip import Strip
from textual.widget import Widget

from lyctui.report import Line

ROLES = ("dim", "strong", "accent", "empty", "warning", "error", "done", "raw", "mean", "choice")


class Lines(Widget):
    """Shows lines of (text, role) spans, one row each, without markup and without wrapping."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {f"lines--{role}" for role in ROLES}
    DEFAULT_CSS = """
    Lines {
        height: auto;
        & > .lines--dim { color: $dim; }
        & > .lines--strong { color: $strong; text-style: bold; }
        & > .lines--accent { color: $accent; }
        & > .lines--empty { color: $gauge-empty; }
        & > .lines--warning { color: $warning-text; }
        & > .lines--error { color: $error-text; text-style: bold; }
        & > .lines--done { color: $success-text; }
        & > .lines--raw { color: $raw-line; }
        & > .lines--mean { color: $accent; }
        & > .lines--choice { color: $on-accent; background: $accent; text-style: bold; }
    }
    Lines:ansi > .lines--choice { text-style: bold reverse; }
    Lines:ansi > .lines--raw { text-style: dim; }
    """

    def __init__(self, lines: Sequence[Line] = (), *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._lines: list[Line] = list(lines)

    @property
    def plain(self) -> str:
        """What it shows, without roles."""
        return "\n".join("".join(part for part, _ in line) for line in self._lines)

    def show(self, lines: Sequence[Line]) -> None:
        """Show other lines; only rows that differ are drawn again."""
        new = list(lines)
        old, self._lines = self._lines, new
        if len(new) != len(old) and self.styles.height is not None and self.styles.is_auto_height:
            self.refresh(layout=True)
            return
        width = self.size.width
        changed = [
            Region(0, row, width, 1)
            for row in range(max(len(new), len(old)))
            if row >= len(new) or row >= len(old) or new[row] != old[row]
        ]
        if changed:
            self.refresh(*changed)

    def get_content_height(self, container: object, viewport: object, width: int) -> int:
        """One row a line."""
        return len(self._lines)

    def render_line(self, y: int) -> Strip:
        """Draw one row."""
        base = self.rich_style
        width = self.size.width
        if y >= len(self._lines):
            return Strip.blank(width, base)
        segments = [Segment(part, self._style(role, base)) for part, role in self._lines[y]]
        return Strip(segments).adjust_cell_length(width, base)

    def _style(self, role: str, base: Style) -> Style:
        if not role:
            return base
        return base + self.get_component_rich_style(f"lines--{role}", partial=True)
