"""A configuration of kohya's: its file, what became of each key, and the wizard with its answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, cast

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.message import Message
from textual.screen import Screen
from textual.widgets import Button, Footer, Input, Static

from engine.errors import EngineError
from lyctui import text
from lyctui.background import Latest
from lyctui.draft import Draft, draft_from_recipe
from lyctui.fields import text_path
from lyctui.host import Host
from lyctui.report import Line
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


class _FileRead(Message):
    def __init__(self, found: Imported | BaseException) -> None:
        super().__init__()
        self.found = found


class ImportScreen(Screen[Draft | None]):
    """Reads a configuration, shows the report, and gives its recipe as a draft."""

    CSS_PATH = "../styles/wizard.tcss"
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
        super().__init__()
        self.found: Imported | None = None
        self._reader: Latest[Imported] = Latest("kohya configuration", self._read)

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
            yield Lines(id="report")
        yield Footer(compact=True)

    def on_mount(self) -> None:
        """Begin in the path."""
        self.query_one(PathInput).focus()

    def on_unmount(self) -> None:
        """Nobody waits any more."""
        self._reader.close()

    def on_resize(self) -> None:
        """Fold for the new width."""
        if self.found is not None:
            self._fill(self.found)

    @on(Input.Submitted)
    @on(PathInput.Chosen)
    def _given(self) -> None:
        from engine.kohya.load import import_file

        path = text_path(self.query_one(PathInput).value)
        self.found = None
        self._reader.ask(lambda wanted: import_file(path))

    def _read(self, answer: Imported | BaseException) -> None:
        self.post_message(_FileRead(answer))

    @on(_FileRead)
    def _show(self, event: _FileRead) -> None:
        event.stop()
        button = self.query_one("#next", Button)
        if isinstance(event.found, BaseException):
            self.query_one("#report", Lines).show(self._error_lines(event.found))
            button.disabled = True
            return
        self.found = event.found
        self._fill(event.found)
        button.disabled = False
        button.focus()

    def _fill(self, found: Imported) -> None:
        width = max(40, self.size.width - 6)
        self.query_one("#report", Lines).show(report_lines(found, width))

    def _error_lines(self, error: BaseException) -> list[Line]:
        sign = cast(Host, self.app).signs.error
        problems = (
            error.problems if isinstance(error, EngineError) else (f"It cannot be read: {error}",)
        )
        lines: list[Line] = []
        for problem in problems:
            first, *rest = text.wrap(text.inert(str(problem)), max(40, self.size.width - 8))
            lines.append(((f"{sign} ", "error"), (first, "")))
            lines += [((f"  {line}", ""),) for line in rest]
        return lines

    @on(Button.Pressed)
    def _pressed(self) -> None:
        self.action_next()

    def action_next(self) -> None:
        """On to the wizard, or read the file first."""
        if self.found is None:
            self._given()
        else:
            self.dismiss(draft_from_recipe(self.found.data))


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
