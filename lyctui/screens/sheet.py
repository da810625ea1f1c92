"""A contact sheet on the screen: which file at which strength paints the prompts best."""

from __future__ import annotations

import asyncio
from typing import ClassVar

from rich.segment import Segment, Segments
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.screen import Screen
from textual.widget import Widget
from textual.widgets import Footer, Static

from engine.sheet.values import Sheet
from lyctui import text
from lyctui.host import host
from lyctui.report import Line, folded
from lyctui.widgets.lines import Lines
from lyctui.widgets.picture import picture_view
from lyctui.widgets.picture_pair import GAP
from lyctui.widgets.sheet import (
    NARROWEST,
    WIDEST,
    Band,
    band_segments,
    band_title,
    bands,
    missing_lines,
    prompt_lines,
)
from lyctui.widgets.title import TitleLine

HELP = """
Each row is one file at one strength, each column a prompt with its own seed: only the network differs.

Look for the first file that shows what was taught, and for the strength at which the rest of the picture
still follows the prompt. A later epoch that changes the background or the pose too has learnt too much.

The page that is named at the top is one file that any browser opens, with the pictures at their own size.
Other strengths, prompts or files: lyctui sample --help.
"""


class SheetScreen(Screen[None]):
    """The pictures in cells, or their paths where the terminal shows none."""

    AUTO_FOCUS = "#body"
    HELP: ClassVar[str | None] = HELP
    DEFAULT_CSS = """
    SheetScreen #body { height: 1fr; padding: 0 1; }
    SheetScreen .band { height: auto; margin-top: 1; }
    SheetScreen .band > .label { color: $strong; text-style: bold; height: 1; }
    SheetScreen .row { height: auto; }
    SheetScreen .row > * { margin-right: 2; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q", "dismiss", "back", id="sheet.back", key_display="Esc"),
        Binding("f1", "app.help", "help", id="sheet.help", key_display="F1"),
    ]

    def __init__(self, sheet: Sheet) -> None:
        super().__init__()
        self._sheet = sheet
        self._drawn = (0, 0)

    def compose(self) -> ComposeResult:
        """Title, what it is, pictures."""
        right = text.counted(self._sheet.pictures, "picture")
        yield TitleLine(text.inert(self._sheet.title), "contact sheet", right=right)
        with VerticalScroll(id="body", can_focus=True):
            yield Lines(id="head")
            yield Vertical(id="bands")
        yield Footer(compact=True, show_command_palette=False)

    def on_resize(self) -> None:
        """Draw for the new width, which is known only now."""
        width = max(20, self.size.width - 4)
        # A picture is half as many rows high as it is wide: two rows of the sheet are to be seen.
        widest = max(NARROWEST, min(WIDEST, self.size.height - 4))
        if (width, widest) != self._drawn:
            self._drawn = width, widest
            self.query_one("#head", Lines).show(folded(head_lines(self._sheet), width))
            self.run_worker(self._draw(width, widest), exclusive=True)

    async def _draw(self, width: int, widest: int) -> None:
        """Band after band: reading and scaling the pictures is not for the screen's own thread."""
        holder = self.query_one("#bands", Vertical)
        await holder.remove_children()
        found, columns = bands(self._sheet, width, widest)
        for band in found:
            title = Static(band_title(band, self._sheet, columns), classes="label", markup=False)
            parts = [title, await self._pictures(band, columns)]
            missing = missing_lines(band)
            if missing and host(self).pictures.shown:
                parts.append(Lines([((f"! {line}", "warning"),) for line in missing]))
            await holder.mount(Vertical(*parts, classes="band"))

    async def _pictures(self, band: Band, columns: int) -> Widget:
        drawing = host(self).pictures
        if not drawing.shown:
            return Lines(path_lines(band))
        if drawing.widget is not None:
            views = [
                picture_view(cell.path, columns, drawing)
                for cell in band.cells
                if cell.path is not None and cell.path.is_file()
            ]
            return Horizontal(*views, classes="row")
        segments: list[Segment] = await asyncio.to_thread(band_segments, band, columns)
        if not segments:
            return Lines(path_lines(band))
        view = Static(Segments(segments[:-1], new_lines=False))
        view.styles.width = len(band.cells) * (columns + GAP)
        return view


def head_lines(sheet: Sheet) -> list[Line]:
    """Where it was written, what it shows, and the prompts of the columns."""
    lines: list[Line] = []
    if sheet.page is not None:
        lines.append((("Written to ", "dim"), (text.home(sheet.page), "strong")))
    if sheet.grid is not None:
        lines.append((("       and ", "dim"), (text.home(sheet.grid), "")))
    lines.append((("Painted on ", "dim"), (text.inert(sheet.base), "")))
    lines += [((line, "dim"),) for line in prompt_lines(sheet)]
    lines += [((f"! {text.inert(line)}", "warning"),) for line in sheet.left_out]
    return lines


def path_lines(band: Band) -> list[Line]:
    """The pictures of a band as paths, or why there are none."""
    lines: list[Line] = []
    for cell in band.cells:
        if cell.path is None:
            lines.append(((f"! {text.inert(cell.note)}", "warning"),))
        else:
            lines.append(((text.home(cell.path), ""),))
    return lines
