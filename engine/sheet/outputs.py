"""Where a sheet goes: a PNG with everything, a page, and the single pictures."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from engine.checkpoint.atomic import write_text
from engine.errors import EnvironmentFault, Problem, UsageError
from engine.runs import RunFolder
from engine.sheet.grid import LARGEST_CELL, GridRow, draw_grid, save_png
from engine.sheet.page import page_of
from engine.sheet.values import Row, Sheet

LONGEST_NAME = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """What is written where; None is not written."""

    grid: Path | None = None
    page: Path | None = None
    pictures: Path | None = None
    """Folder of the single pictures."""

    def check(self) -> None:
        """Raises UsageError for files that are there already."""
        problems = [
            Problem("The file is there already.", str(path), "Give another name, or --force.")
            for path in (self.grid, self.page)
            if path is not None and path.exists()
        ]
        if problems:
            raise UsageError(*problems)


def run_places(folder: Path) -> Places:
    """Beside the run's samples."""
    samples = RunFolder(folder).samples
    return Places(grid=samples / "sheet.png", page=samples / "sheet.html")


def file_places(path: Path) -> Places:
    """Beside a network file."""
    return Places(
        grid=path.with_name(f"{path.stem}-sheet.png"),
        page=path.with_name(f"{path.stem}-sheet.html"),
    )


def write_sheet(sheet: Sheet, places: Places) -> Sheet:
    """Write what is asked for; gives the sheet with its places. EnvironmentFault where it fails."""
    written: list[Path] = []
    try:
        if places.grid is not None:
            write_grid(sheet, places.grid)
        if places.page is not None:
            places.page.parent.mkdir(parents=True, exist_ok=True)
            write_text(places.page, page_of(sheet))
        if places.pictures is not None:
            written = list(_copy(sheet, places.pictures))
    except OSError as error:
        where = str(error.filename or places.grid or places.page or places.pictures)
        raise EnvironmentFault(
            Problem(f"The sheet cannot be written: {error.strerror}.", where=where)
        ) from error
    return replace(sheet, grid=places.grid, page=places.page, written=tuple(written))


def write_grid(sheet: Sheet, path: Path) -> None:
    """Write all pictures as one PNG, with the words beside them."""
    rows = [GridRow(row.label, list(_pictures(row))) for row in sheet.rows]
    save_png(draw_grid(f"{sheet.title} on {sheet.base}", sheet.columns, rows), path)


def _pictures(row: Row) -> Iterable[Image.Image | None]:
    for cell in row.cells:
        if cell.path is None:
            yield None
            continue
        with Image.open(cell.path) as picture:
            small = picture.convert("RGB")
        small.thumbnail((LARGEST_CELL, LARGEST_CELL), Image.Resampling.LANCZOS)
        yield small


def _copy(sheet: Sheet, folder: Path) -> Iterable[Path]:
    """The pictures under names that tell row, prompt and seed, with their text fields."""
    folder.mkdir(parents=True, exist_ok=True)
    for row in sheet.rows:
        name = re.sub(r"[^\w.+-]+", "_", row.label.replace("×", "x"))[:LONGEST_NAME]
        for number, cell in enumerate(row.cells):
            if cell.path is not None:
                target = folder / f"{name}_{number}_{cell.shot.seed}.png"
                shutil.copyfile(cell.path, target)
                yield target
