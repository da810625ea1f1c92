"""The last door before the terminal: no cell of a screen carries anything that it would obey."""

from __future__ import annotations

from rich.segment import Segment
from textual.color import Color
from textual.filter import LineFilter

from lyctui.text import without_controls


class InertFilter(LineFilter):
    """Takes controls and direction marks out of what widgets draw, whoever forgot to.

    They take no cells, so that nothing moves. Segments that are commands themselves, as those of
    pictures are, pass.
    """

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        """The same segments, each without what is obeyed."""
        return [
            segment
            if segment.control or (segment.text.isascii() and segment.text.isprintable())
            else Segment(without_controls(segment.text), segment.style)
            for segment in segments
        ]
