"""A configuration of kohya's: its file, what became of each key, and the wizard with its answers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.widgets import Button, Footer, Static

from lyctui import text
from lyctui.draft import Draft, draft_from_recipe
from lyctui.report import Line
from lyctui.screens.file_first import FileScreen
from lyctui.screens.goal import NO_PRESET
from lyctui.widgets.lines import Lines
from lyctui.widgets.path_input import PathInput
from lyctui.widgets.title import TitleLine

if TYPE_CHECKING:
    from engine.kohya.report import Imported, Row

SUFFIXES = (".json", ".toml", ".sh", ".txt", ".bat")
"""Files that may hold a configuration or a command."""
GROUPS = (
    ("unsupported", "Cannot be had here", "warning"),
    ("unknown", "Not known", "warning"),
    ("translated", "Translated", ""),
    ("default", "Not in the file: what kohya takes then", ""),
    ("taken", "Taken as they are", ""),
    ("no effect", "Without effect", "dim"),
)
KEY_CELLS = 30


class ImportScreen(FileScreen["Imported"]):
    """Reads a configuration, shows the report, and gives its recipe as a draft."""

    HELP = (
        "A JSON file of the kohya_ss GUI, a TOML file of sd-scripts, its data set TOML, or a file with "
        "its command. The file stays as it is. Each key is listed with the setting that it became; the "
        "wizard then opens with these answers."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss", "back", id="import.back"),
        Binding("ctrl+n", "next", "next", id="import.next"),
        Binding("f1", "app.help", "help", id="import.help"),
    ]

    def __init__(self) -> None:
        super().__init__("kohya configuration")

    def compose(self) -> ComposeResult:
        """Path, button, report."""
        yield TitleLine("import a kohya configuration")
        with VerticalScroll(id="body", can_focus=True):
            yield Static(
                "Which file?  (Tab completes, Ctrl+O browses)", classes="question", markup=False
            )
            yield PathInput(
                "", want="file", placeholder="path of a JSON or TOML file", suffixes=SUFFIXES
            )
            yield Button(
                "Next: the wizard with these answers", id="next", compact=True, disabled=True
            )
            yield Lines([()])
            yield Lines(id="facts")
        yield Footer(compact=True)

    def read_file(self, path: Path) -> Imported:
        """The recipe, and what became of each key."""
        from engine.kohya.load import import_file

        return import_file(path)

    def lines_of(self, found: Imported) -> list[Line]:
        """Every key, folded for the width."""
        return report_lines(found, max(40, self.size.width - 6))

    def draft_of(self, found: Imported) -> Draft:
        """The recipe's settings as answers, with no goal's values below: the file is the whole plan."""
        draft = draft_from_recipe(found.data)
        draft.choose_preset(NO_PRESET, {})
        return draft


def report_lines(found: Imported, width: int) -> list[Line]:
    """Every key by what became of it, what cannot be had first."""
    kind = found.kind
    lines: list[Line] = [((f"This is {kind}.", ""),)]
    for status, title, role in GROUPS:
        rows = [row for row in found.rows if row.status == status]
        if rows:
            lines += [(), ((f"{title} ({len(rows)})", "strong"),)]
            lines += [line for row in rows for line in row_lines(row, width, role)]
    return lines


def row_lines(row: Row, width: int, role: str) -> list[Line]:
    """Key and value, then settings and note, folded."""
    key = text.fit(text.inert(row.key), KEY_CELLS)
    head = f"  {text.pad(key, KEY_CELLS)}  "
    value = text.fit(text.inert(row.value), 18)
    became = "; ".join(part for part in (", ".join(row.settings), row.note) if part)
    words = f"{value}  {became}" if value and became else value or became
    if text.cells(head) + text.cells(words) <= width:
        return [((head, role), (text.inert(words), role))]
    lines: list[Line] = [((head, role), (value, role))]
    return lines + [((f"      {line}", role),) for line in text.wrap(text.inert(became), width - 6)]
