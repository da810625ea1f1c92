"""The first row of a screen: where one is on the left, one number on the right."""

from __future__ import annotations

from lyctui import text
from lyctui.report import Line
from lyctui.widgets.lines import Lines


class TitleLine(Lines):
    """`lyctui · place` and a short word at the right edge."""

    DEFAULT_CSS = """
    TitleLine { height: 1; dock: top; background: $surface; padding: 0 1; }
    """

    def __init__(self, *places: str, right: str = "", id: str | None = None) -> None:
        super().__init__(id=id)
        self._places = places
        self._right = right

    def on_resize(self) -> None:
        """Keep the right part at the edge."""
        self.place(*self._places, right=self._right)

    def place(self, *places: str, right: str = "") -> None:
        """Say where one is."""
        self._places, self._right = places, right
        ascii_only = bool(getattr(self.app, "ascii_only", False))
        dot = " - " if ascii_only else " · "
        left = text.fit(dot.join(("lyctui", *places)), max(8, self.size.width - len(right) - 2))
        gap = max(1, self.size.width - text.cells(left) - text.cells(right))
        head, _, tail = left.partition(dot)
        line: Line = (
            (head, "strong"),
            (dot + tail if tail else "", ""),
            (" " * gap, ""),
            (right, ""),
        )
        self.show([line])
