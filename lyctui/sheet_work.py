"""The contact sheet of a run, made from the results page in a thread of its own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from engine.runs import RunFolder
from lyctui.tool_work import SHEET, ToolWork

if TYPE_CHECKING:
    from engine.sheet.values import Sheet
    from engine.tools.requests import Progress


@dataclass(frozen=True, slots=True)
class SheetTask:
    """Which run."""

    folder: Path

    @property
    def output(self) -> Path:
        """The page that is written."""
        return RunFolder(self.folder).samples / "sheet.html"


def sheet_work(folder: Path) -> ToolWork:
    """Work that makes the sheet of a run: up to four of its files, at two strengths."""
    return ToolWork(SHEET, SheetTask(folder), _make)


def _make(task: SheetTask, progress: Progress) -> Sheet:
    from engine.runs import default_cache_folder
    from engine.sheet.ask import request_for_run
    from engine.sheet.make import make_sheet
    from engine.sheet.outputs import run_places, write_sheet
    from engine.sheet.values import Wishes

    request = request_for_run(task.folder, Wishes())
    sheet = make_sheet(request, default_cache_folder(), progress)
    return write_sheet(sheet, run_places(task.folder))
