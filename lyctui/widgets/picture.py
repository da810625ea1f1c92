"""A picture in half cells: two pixels a cell, one above the other. Works in every terminal with colour.

`picture_view` makes a widget of a file, in half cells or in the way that was settled at the start.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.segment import Segment, Segments
from rich.style import Style
from textual.widget import Widget
from textual.widgets import Static

from lyctui.pictures import Pictures, read_picture

if TYPE_CHECKING:
    import PIL.Image
    from rich.console import Console, ConsoleOptions, RenderResult

UPPER_HALF = "▀"
MOST_ROWS = 200


class HalfCellPicture:
    """A Rich renderable of an image file, `columns` cells wide."""

    def __init__(self, path: Path, columns: int) -> None:
        self.path = path
        self.columns = columns

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for row in half_cells(self.path, min(self.columns, options.max_width)):
            yield from row
            yield Segment.line()


def half_cells(path: Path, columns: int) -> list[list[Segment]]:
    """Rows of half cells; a cell is about twice as high as wide, so pixels come out square."""
    return _half_cells(read_picture(path), columns)


def _half_cells(image: PIL.Image.Image, columns: int) -> list[list[Segment]]:
    from PIL import Image

    rows = max(1, round(image.height / image.width * columns / 2))
    # A line of pixels from top to bottom would make a million rows.
    rows = min(rows, MOST_ROWS)
    image = image.resize((columns, rows * 2), Image.Resampling.BOX)
    pixels = image.load()
    assert pixels is not None
    return [
        [
            Segment(UPPER_HALF, _style(pixels[column, 2 * row], pixels[column, 2 * row + 1]))
            for column in range(columns)
        ]
        for row in range(rows)
    ]


def _style(upper: object, lower: object) -> Style:
    return Style.parse(f"{_hex(upper)} on {_hex(lower)}")


def _hex(pixel: object) -> str:
    assert isinstance(pixel, tuple)
    red, green, blue = pixel[:3]
    return f"#{red:02x}{green:02x}{blue:02x}"


def picture_rows(rows: list[list[Segment]]) -> Segments:
    """Rows of half cells as one renderable, each with its end of line."""
    joined = [segment for row in rows for segment in (*row, Segment.line())]
    return Segments(joined[:-1], new_lines=False)


def picture_view(path: Path, columns: int, pictures: Pictures) -> Widget:
    """A widget that shows a picture file, so many cells wide; raises OSError or ValueError."""
    image = read_picture(path)
    rows = _half_cells(image, columns)
    if pictures.widget is None:
        view: Widget = Static(picture_rows(rows))
    else:
        view = pictures.widget(image)
    view.styles.width = columns
    view.styles.height = len(rows)
    return view
