"""Several pictures as one, with words beside them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from engine.checkpoint.atomic import write_whole
from engine.inert import inert

GAP, TEXT_HEIGHT, TEXT_SIZE, LABEL_WIDTH = 8, 18, 13, 150
LARGEST_CELL, NARROWEST_COLUMN = 512, 160
"""Pixels of a picture's longer side in a grid, and of a column, so that its words can be read."""
PAPER, INK, FAINT, MISSING = (255, 255, 255), (32, 32, 32), (110, 110, 110), (228, 228, 228)
LARGEST_SIDE = 16_000
"""Pixels of a grid's side that every program opens; beyond it the cells shrink."""


@dataclass(frozen=True, slots=True)
class GridRow:
    """One row: what it is, its pictures, and words above each of them; None where there is none."""

    label: str
    pictures: Sequence[Image.Image | None]
    words: Sequence[str] = ()


def draw_grid(title: str, columns: Sequence[str], rows: Sequence[GridRow]) -> Image.Image:
    """Pictures in rows under their columns' names, each as large as it is up to `LARGEST_CELL`."""
    width, height = _cell_size(columns, rows)
    column = max(width, min(NARROWEST_COLUMN, _room(columns)))
    labels = LABEL_WIDTH if any(row.label for row in rows) else 0
    heads = TEXT_HEIGHT if any(columns) else 0
    top = (TEXT_HEIGHT + GAP if title else 0) + heads
    sheet_width = labels + GAP + len(columns) * (column + GAP)
    sheet_height = top + GAP + sum(height + GAP + TEXT_HEIGHT * bool(row.words) for row in rows)
    sheet = Image.new("RGB", (sheet_width, sheet_height), PAPER)
    pen = ImageDraw.Draw(sheet)
    _write(pen, (GAP, GAP // 2), title, sheet_width - 2 * GAP, INK)
    starts = [labels + GAP + number * (column + GAP) for number in range(len(columns))]
    for x, name in zip(starts, columns, strict=True):
        _write(pen, (x, top - heads + GAP // 2), name, column, FAINT)
    y = top + GAP
    for row in rows:
        for x, words in zip(starts, row.words, strict=False):
            _write(pen, (x, y), words, column, FAINT)
        y += TEXT_HEIGHT * bool(row.words)
        _write(pen, (GAP, y), row.label, labels - GAP, INK)
        for x, picture in zip(starts, row.pictures, strict=False):
            if picture is None:
                pen.rectangle((x, y, x + width - 1, y + height - 1), fill=MISSING)
            else:
                sheet.paste(_fitted(picture, width, height), (x, y))
        y += height + GAP
    return sheet


def draw_strip(title: str, pictures: Sequence[Image.Image], words: Sequence[str]) -> Image.Image:
    """Pictures in rows of up to four, each under its own words."""
    across = min(4, max(1, len(pictures)))
    rows = [
        GridRow("", pictures[start : start + across], words[start : start + across])
        for start in range(0, len(pictures), across)
    ]
    return draw_grid(title, [""] * across, rows)


def save_png(picture: Image.Image, path: Path) -> None:
    """Write a picture, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    body = io.BytesIO()
    picture.save(body, format="PNG")
    write_whole(path, body.getvalue())


def _cell_size(columns: Sequence[str], rows: Sequence[GridRow]) -> tuple[int, int]:
    sizes = [one.size for row in rows for one in row.pictures if one is not None] or [(64, 64)]
    width, height = max(w for w, _ in sizes), max(h for _, h in sizes)
    room_x = _room(columns)
    room_y = LARGEST_SIDE // max(1, len(rows)) - GAP
    scale = min(1.0, LARGEST_CELL / max(width, height), room_x / width, room_y / height)
    return max(8, int(width * scale)), max(8, int(height * scale))


def _room(columns: Sequence[str]) -> int:
    """Pixels that a column can have."""
    return (LARGEST_SIDE - LABEL_WIDTH) // max(1, len(columns)) - GAP


def _fitted(picture: Image.Image, width: int, height: int) -> Image.Image:
    if picture.width <= width and picture.height <= height:
        return picture
    scale = min(width / picture.width, height / picture.height)
    size = (max(1, int(picture.width * scale)), max(1, int(picture.height * scale)))
    return picture.resize(size, Image.Resampling.LANCZOS)


def _write(
    pen: ImageDraw.ImageDraw, place: tuple[int, int], words: str, width: int, ink: tuple[int, ...]
) -> None:
    """One line of words, cut to a width in pixels."""
    font = ImageFont.load_default(TEXT_SIZE)
    # Pillow's font has no such sign.
    shown = inert(words, 300).replace("×", "x")
    if not isinstance(font, ImageFont.FreeTypeFont):
        # Pillow's own small font, which has no more letters than that.
        shown = shown.encode("latin-1", "replace").decode("latin-1")
    if pen.textlength(shown, font) > width:
        while shown and pen.textlength(f"{shown}...", font) > width:
            shown = shown[:-1]
        shown = f"{shown}..." if shown else ""
    pen.text(place, shown, fill=ink, font=font)
