"""A contact sheet in cells: rows of pictures under what they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lyctui import text
from lyctui.widgets.picture import half_cells
from lyctui.widgets.picture_pair import GAP, Shown, joined

if TYPE_CHECKING:
    from rich.segment import Segment

    from engine.sheet.values import Cell, Sheet

NARROWEST, WIDEST = 16, 36
"""Cells of a picture."""


@dataclass(frozen=True, slots=True)
class Band:
    """One row of the sheet, or a part of it where the screen is too narrow for all prompts."""

    label: str
    first: int
    """Number of its first prompt, from 0."""
    cells: tuple[Cell, ...]


def bands(sheet: Sheet, width: int, widest: int = WIDEST) -> tuple[list[Band], int]:
    """The rows cut to a width, and the cells that a picture gets: `widest` at most."""
    count = max(1, len(sheet.columns))
    across = max(1, min(count, (width + GAP) // (NARROWEST + GAP)))
    columns = min(widest, (width + GAP) // across - GAP)
    found = [
        Band(row.label, start, row.cells[start : start + across])
        for row in sheet.rows
        for start in range(0, count, across)
    ]
    return found, max(NARROWEST // 2, columns)


def band_title(band: Band, sheet: Sheet, columns: int) -> str:
    """Label of the row, and which prompts where they do not all fit or were not all painted."""
    label = text.inert(band.label)
    last = band.first + len(band.cells)
    there = [number for number, cell in numbered(band) if cell.path is not None]
    if there and len(there) < len(band.cells):
        return f"{label}, {'prompts' if len(there) > 1 else 'prompt'} {', '.join(map(str, there))}"
    if len(band.cells) == len(sheet.columns):
        return label
    return f"{label}, prompts {band.first + 1} to {last}"


def numbered(band: Band) -> Iterator[tuple[int, Cell]]:
    """The cells of a band with the numbers of their prompts, from 1."""
    return enumerate(band.cells, start=band.first + 1)


def missing_lines(band: Band) -> list[str]:
    """Which pictures of a band could not be painted, and why."""
    return [
        f"prompt {number}: {text.inert(cell.note)}"
        for number, cell in numbered(band)
        if cell.path is None
    ]


def shown_cells(cells: Sequence[Cell], columns: int) -> list[Shown]:
    """The pictures of some cells; those that are not there any more are left out."""
    found = []
    for cell in cells:
        if cell.path is None:
            continue
        try:
            found.append(Shown("", half_cells(cell.path, columns)))
        except (OSError, ValueError):
            continue
    return found


def prompt_lines(sheet: Sheet) -> Iterator[str]:
    """The prompts with the numbers of their columns."""
    for number, prompt in enumerate(sheet.columns, start=1):
        yield f"{number}  {text.inert(prompt)}"


def band_segments(band: Band, columns: int) -> list[Segment]:
    """The pictures of a band beside each other; empty where there are none."""
    shown = shown_cells(band.cells, columns)
    return joined(shown) if shown else []


def print_sheet(sheet: Sheet) -> None:
    """Write the sheet to standard output, as wide as the terminal."""
    from rich.console import Console
    from rich.segment import Segments

    console = Console(highlight=False, markup=False)
    for line in prompt_lines(sheet):
        console.print(text.fit(line, console.width))
    found, columns = bands(sheet, console.width)
    for band in found:
        console.print(band_title(band, sheet, columns))
        console.print(Segments(band_segments(band, columns)), end="")
