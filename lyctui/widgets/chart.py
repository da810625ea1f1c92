"""The loss chart: our own braille renderer, and the widget around it.

Raw losses are drawn dim as the span between least and greatest of each dot column, so that no spike
is lost to decimation; the mean is drawn on top in the accent.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

from engine.snapshot import Point
from lyctui import text
from lyctui.report import Line, Span
from lyctui.widgets.lines import Lines

BRAILLE = 0x2800
DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""Bit of each dot in a braille cell, by row and column (Unicode block 28)."""
LABEL_WIDTH = 8


@dataclass(frozen=True, slots=True)
class Column:
    """What falls into one column of dots."""

    low: float
    high: float
    mean: float


class LossSeries:
    """The raw points, kept as plain arrays so that thousands of them are decimated in a moment."""

    def __init__(self) -> None:
        self.steps = array("q")
        self._losses = array("d")
        self._means = array("d")

    def __len__(self) -> int:
        return len(self.steps)

    def follow(self, points: Sequence[Point]) -> bool:
        """Take in what is new; True when anything is. A resumed run may have taken points back."""
        count = len(points)
        known = len(self.steps)
        if known > count or (known and points[known - 1].step != self.steps[-1]):
            self.steps, self._losses, self._means = array("q"), array("d"), array("d")
            known = 0
        for point in points[known:count]:
            self.steps.append(point.step)
            self._losses.append(point.loss if math.isfinite(point.loss) else math.nan)
            self._means.append(point.mean if math.isfinite(point.mean) else math.nan)
        return len(self.steps) != known or known > count

    def columns(self, width: int) -> list[Column | None]:
        """`width` columns, each with least, greatest and last mean of its points.

        Fewer points than columns are stretched, so that the curve always ends at the right edge.
        """
        count = len(self.steps)
        found: list[Column | None] = []
        for slot in range(width if count else 0):
            first = slot * count // width
            last = max(first + 1, (slot + 1) * count // width)
            losses = [value for value in self._losses[first:last] if value == value]
            mean = self._means[last - 1]
            found.append(Column(min(losses), max(losses), mean) if losses else None)
        return found


def bounds(columns: Sequence[Column | None], *, log: bool) -> tuple[float, float] | None:
    """Least and greatest value to show; a flat line gets room around it."""
    present = [column for column in columns if column is not None]
    if log:
        present = [column for column in present if column.low > 0]
    if not present:
        return None
    low = min(column.low for column in present)
    high = max(column.high for column in present)
    if high - low < 1e-12 * max(1.0, abs(high)):
        room = abs(high) * 0.1 or 0.1
        low, high = low - room, high + room
        if log and low <= 0:
            low = high / 10
    return low, high


class Scale:
    """Maps values to rows of dots, 0 at the top; linear or logarithmic."""

    def __init__(self, low: float, high: float, rows: int, *, log: bool) -> None:
        self._log = log
        self._low = math.log(low) if log else low
        self._high = math.log(high) if log else high
        self._rows = rows

    def row(self, value: float) -> int:
        """Row of a value, kept inside."""
        if self._log:
            value = math.log(max(value, 1e-300))
        share = (value - self._low) / (self._high - self._low)
        return min(self._rows - 1, max(0, round((1 - share) * (self._rows - 1))))

    def value(self, row: float) -> float:
        """Value in the middle of a row."""
        value = self._high - (row / max(1, self._rows - 1)) * (self._high - self._low)
        return math.exp(value) if self._log else value


def draw(series: LossSeries, width: int, height: int, *, log: bool, ascii_only: bool) -> list[Line]:
    """The chart as `height` lines of `width` columns: labels, axis, curve, steps."""
    rows, across = max(1, height - 1), max(4, width - LABEL_WIDTH - 2)
    dots_x, dots_y = (1, 1) if ascii_only else (2, 4)
    columns = series.columns(across * dots_x)
    limits = bounds(columns, log=log)
    if limits is None:
        return [((f"{'':{LABEL_WIDTH}} the chart begins with the first step", "dim"),)]
    scale = Scale(*limits, rows * dots_y, log=log)
    raw, mean = _dots(columns, scale)
    plot = ascii_rows if ascii_only else braille_rows
    body = plot(raw, mean, rows, across)
    labels = _labels(scale, rows, dots_y)
    tick, line, corner, base = ("+", "|", "+", "-") if ascii_only else ("┤", "│", "└", "─")
    lines: list[Line] = [
        (
            (f"{labels.get(row, ''):>{LABEL_WIDTH}}", "dim"),
            (f" {tick if row in labels else line}", "dim"),
            *spans,
        )
        for row, spans in enumerate(body)
    ]
    last = f" {text.grouped(series.steps[-1])}"
    rule = base * max(0, across - len(last))
    lines.append(((f"{'':{LABEL_WIDTH}} {corner}{rule}{last}", "dim"),))
    return lines


def _dots(
    columns: Sequence[Column | None], scale: Scale
) -> tuple[list[tuple[int, int] | None], list[tuple[int, int] | None]]:
    """Rows (from, to) that the raw losses and the mean fill in each column of dots."""
    raw: list[tuple[int, int] | None] = []
    mean: list[tuple[int, int] | None] = []
    before: int | None = None
    for column in columns:
        if column is None:
            raw.append(None)
            mean.append(None)
            before = None
            continue
        raw.append((scale.row(column.high), scale.row(column.low)))
        if column.mean != column.mean:
            mean.append(None)
            before = None
            continue
        row = scale.row(column.mean)
        # Join with the column before, so that the mean is a line and not a cloud.
        start = row if before is None else before + (row > before) - (row < before)
        mean.append((min(start, row), max(start, row)))
        before = row
    return raw, mean


def _labels(scale: Scale, rows: int, dots_y: int) -> dict[int, str]:
    chosen = {0, rows - 1} | ({rows // 2} if rows >= 5 else set())
    middle = (dots_y - 1) / 2
    edges = {0: 0.0, rows - 1: rows * dots_y - 1.0}
    return {
        row: text.significant(scale.value(edges.get(row, row * dots_y + middle)), 3)
        for row in chosen
    }


def braille_rows(
    raw: Sequence[tuple[int, int] | None],
    mean: Sequence[tuple[int, int] | None],
    rows: int,
    across: int,
) -> list[list[Span]]:
    """Rows of braille: `raw` and `mean` are the rows of dots (from, to) of each column of dots."""
    cells = {
        "raw": [[0] * across for _ in range(rows)],
        "mean": [[0] * across for _ in range(rows)],
    }
    for role, spans in (("raw", raw), ("mean", mean)):
        grid = cells[role]
        for x, span in enumerate(spans):
            if span is None:
                continue
            for y in range(span[0], span[1] + 1):
                grid[y // 4][x // 2] |= DOTS[y % 4][x % 2]
    drawn = []
    for row in range(rows):
        marks = [
            (chr(BRAILLE + top), "mean") if top else (chr(BRAILLE + under) if under else " ", "raw")
            for top, under in zip(cells["mean"][row], cells["raw"][row], strict=True)
        ]
        drawn.append(_joined(marks))
    return drawn


def ascii_rows(
    raw: Sequence[tuple[int, int] | None],
    mean: Sequence[tuple[int, int] | None],
    rows: int,
    across: int,
) -> list[list[Span]]:
    """The same in ASCII, a column of cells each."""
    grid = [[(" ", "raw")] * across for _ in range(rows)]
    for sign, role, spans in ((".", "raw", raw), ("*", "mean", mean)):
        for x, span in enumerate(spans):
            if span is not None:
                for y in range(span[0], span[1] + 1):
                    grid[y][x] = (sign, role)
    return [_joined(row) for row in grid]


def _joined(marks: Sequence[tuple[str, str]]) -> list[Span]:
    """Neighbours of one role as one span: fewer colour changes to send."""
    spans: list[Span] = []
    for mark, role in marks:
        if spans and spans[-1][1] == role:
            spans[-1] = (spans[-1][0] + mark, role)
        else:
            spans.append((mark, role))
    return spans


class LossChart(Lines):
    """The chart of a run; `follow` draws only when there is something new."""

    def __init__(self, *, ascii_only: bool = False, id: str | None = None) -> None:
        super().__init__(id=id)
        self.series = LossSeries()
        self.log_scale = False
        self._ascii = ascii_only

    def follow(self, points: Sequence[Point]) -> None:
        """Draw the points, if there are new ones."""
        if self.series.follow(points):
            self.draw()

    def switch_scale(self) -> bool:
        """Linear to logarithmic and back; True when it is logarithmic now."""
        self.log_scale = not self.log_scale
        self.draw()
        return self.log_scale

    def on_resize(self) -> None:
        """Draw for the new size."""
        self.draw()

    def draw(self) -> None:
        """Draw the whole chart for the present size."""
        width, height = self.size
        if width and height:
            self.show(draw(self.series, width, height, log=self.log_scale, ascii_only=self._ascii))
