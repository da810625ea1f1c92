"""Base and trained picture side by side, in half cells, for the results page and for plain mode."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.segment import Segment, Segments
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.widgets import Static

from engine.snapshot import Snapshot
from lyctui.report import located
from lyctui.widgets.picture import half_cells

GRID_COLUMNS, SINGLE_COLUMNS = 36, 24
"""Cells of a sheet of several pictures, and of one picture."""
GAP = 2


@dataclass(frozen=True, slots=True)
class Shown:
    """One picture: what it is, and its rows of half cells."""

    title: str
    rows: list[list[Segment]]

    @property
    def columns(self) -> int:
        """Its width in cells."""
        return len(self.rows[0])


def pair_of(snapshot: Snapshot, folder: Path) -> list[Shown]:
    """The demo's sheets before and after, else the first prompt's first and last sample."""
    demo = _read(
        [("before training", folder / "before.png"), ("after training", folder / "after.png")],
        GRID_COLUMNS,
    )
    return demo if len(demo) == 2 else _read(_samples(snapshot, folder), SINGLE_COLUMNS)


def _samples(snapshot: Snapshot, folder: Path) -> list[tuple[str, Path]]:
    taken = [each for each in snapshot.samples if each.paths]
    ends = taken[:1] + taken[-1:] if len(taken) > 1 else taken
    return [
        (
            f"samples of step {each.step}" if each.step else "before training",
            located(each.paths[0], folder),
        )
        for each in ends
    ]


def _read(pictures: Sequence[tuple[str, Path]], columns: int) -> list[Shown]:
    found = []
    for title, path in pictures:
        try:
            found.append(Shown(title, half_cells(path, columns)))
        except (OSError, ValueError):  # Moved, half written, or no picture: its path still stands.
            continue
    return found


class PicturePair(Horizontal):
    """The pictures from left to right, each under its title."""

    DEFAULT_CSS = """
    PicturePair { height: auto; margin: 1 0 0 0; }
    PicturePair > Vertical { width: auto; height: auto; margin: 0 2 0 2; }
    PicturePair > Vertical > Static { width: auto; height: auto; }
    PicturePair .title { color: $dim; }
    """

    def __init__(self, pictures: Sequence[Shown], *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._pictures = pictures
        self.display = bool(pictures)

    def compose(self) -> ComposeResult:
        """Title above picture."""
        for each in self._pictures:
            with Vertical():
                yield Static(each.title, classes="title", markup=False)
                picture = Static(Segments(joined([each]), new_lines=False))
                picture.styles.width = each.columns
                yield picture


def joined(pictures: Sequence[Shown]) -> list[Segment]:
    """The pictures' rows beside each other, each row with its end of line."""
    segments: list[Segment] = []
    for row in range(max(len(each.rows) for each in pictures)):
        for place, each in enumerate(pictures):
            if place:
                segments.append(Segment(" " * GAP))
            blank = [Segment(" " * each.columns)]
            segments += each.rows[row] if row < len(each.rows) else blank
        segments.append(Segment.line())
    return segments


def print_pair(pictures: Sequence[Shown]) -> None:
    """Write titles and pictures to standard output."""
    from rich.console import Console

    if not pictures:
        return
    console = Console(highlight=False, markup=False)
    titles = (" " * GAP).join(each.title.ljust(each.columns) for each in pictures)
    console.print(titles.rstrip())
    console.print(Segments(joined(pictures)), end="")
