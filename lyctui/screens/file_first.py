"""A screen that reads one file, tells what it holds, and goes on to the wizard with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from textual import on
from textual.message import Message
from textual.screen import Screen
from textual.widgets import Button, Input

from engine.errors import EngineError
from lyctui import text
from lyctui.background import Latest
from lyctui.draft import Draft
from lyctui.fields import text_path
from lyctui.host import Host
from lyctui.report import Line
from lyctui.widgets.lines import Lines
from lyctui.widgets.path_input import PathInput

Found = TypeVar("Found")


class FileRead(Message):
    """The thread has read the file, or could not."""

    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.answer = answer


class FileScreen(Screen[Draft | None], Generic[Found]):
    """Subclasses compose a PathInput, a button #next and Lines #facts, and say what is read and told."""

    CSS_PATH = "../styles/wizard.tcss"

    def __init__(self, what: str) -> None:
        super().__init__()
        self.found: Found | None = None
        self._reader: Latest[Found] = Latest(what, self._read)

    def read_file(self, path: Path) -> Found:
        """What the file holds; called in a thread. Whatever it raises is shown."""
        raise NotImplementedError

    def lines_of(self, found: Found) -> list[Line]:
        """What is told of it."""
        raise NotImplementedError

    def draft_of(self, found: Found) -> Draft:
        """The answers with which the wizard opens."""
        raise NotImplementedError

    def on_mount(self) -> None:
        """Begin in the path."""
        self.query_one(PathInput).focus()

    def on_unmount(self) -> None:
        """Nobody waits any more."""
        self._reader.close()

    def on_resize(self) -> None:
        """Fold for the new width."""
        if self.found is not None:
            self.query_one("#facts", Lines).show(self.lines_of(self.found))

    @on(Input.Submitted)
    @on(PathInput.Chosen)
    def _given(self) -> None:
        path = text_path(self.query_one(PathInput).value)
        self.found = None
        self._reader.ask(lambda wanted: self.read_file(path))

    def _read(self, answer: Found | BaseException) -> None:
        self.post_message(FileRead(answer))

    @on(FileRead)
    def _show(self, event: FileRead) -> None:
        event.stop()
        wrong = isinstance(event.answer, BaseException)
        self.found = None if wrong else event.answer
        lines = self._error_lines(event.answer) if wrong else self.lines_of(event.answer)
        self.query_one("#facts", Lines).show(lines)
        button = self.query_one("#next", Button)
        button.disabled = wrong
        if not wrong:
            button.focus()

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
            self.dismiss(self.draft_of(self.found))
