"""A picker of files and folders: a path that can be typed, and the folder's content as a list."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.events import Key
from textual.screen import ModalScreen
from textual.widgets import Footer, Input, OptionList, Static
from textual.widgets.option_list import Option

from lyctui.fields import path_text, text_path
from lyctui.text import cells, filesize, fit_middle
from lyctui.widgets.path_input import PathInput, Want

MOST_ROWS = 2000
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif")
MODELS = (".safetensors", ".ckpt")
"""Kinds of file that are shown for a single-file answer; all others are left out."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One row: where it leads, and what it says."""

    path: Path
    name: str
    note: str = ""
    use: bool = False
    """Choosing the row answers the question; otherwise it opens the folder."""


@dataclass(frozen=True, slots=True)
class Listing:
    """What a folder holds, for one question."""

    folder: Path
    entries: tuple[Entry, ...]
    problem: str = ""


def list_folder(folder: Path, want: Want, suffixes: tuple[str, ...] = MODELS) -> Listing:
    """Rows for a folder: folders first, then files that may answer."""
    folders: list[Entry] = []
    files: list[Entry] = []
    pictures = hidden = 0
    try:
        with os.scandir(folder) as found:
            for one in sorted(found, key=lambda entry: entry.name.casefold()):
                if one.name.startswith("."):
                    hidden += 1
                elif _is_folder(one):
                    folders.append(Entry(Path(one.path), path_text(one.name) + "/"))
                elif want == "folder":
                    pictures += one.name.lower().endswith(PICTURES)
                elif one.name.lower().endswith(suffixes):
                    files.append(Entry(Path(one.path), path_text(one.name), _size(one), use=True))
    except OSError as error:
        return Listing(folder, _way_up(folder), f"It cannot be read: {error.strerror or error}.")
    head = _way_up(folder)
    if want == "folder":
        words = f"{pictures} pictures here" if pictures else "no picture right here"
        head = (Entry(folder, "Use this folder", words, use=True), *head)
    elif (folder / "model_index.json").is_file():
        head = (Entry(folder, "Use this diffusers folder", use=True), *head)
    rows = (*head, *folders, *files)
    return Listing(folder, rows[:MOST_ROWS], _left_out(rows, files, want, suffixes, hidden))


def _left_out(
    rows: tuple[Entry, ...], files: list[Entry], want: Want, suffixes: tuple[str, ...], hidden: int
) -> str:
    if len(rows) > MOST_ROWS:
        return f"{len(rows) - MOST_ROWS} more are not shown; type the path instead."
    if want == "file" and not files:
        return f"No file ending in {' or '.join(suffixes)} here."
    return f"{hidden} hidden left out" if hidden else ""


def _way_up(folder: Path) -> tuple[Entry, ...]:
    return (Entry(folder.parent, "../", "one folder up"),) if folder.parent != folder else ()


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _size(entry: os.DirEntry[str]) -> str:
    try:
        return filesize(entry.stat().st_size)
    except OSError:
        return "unreadable"


def starting_folder(path: Path) -> Path:
    """The nearest folder of a path that exists."""
    place = path.expanduser().absolute()
    while not place.is_dir() and place != place.parent:
        place = place.parent
    return place


class FilePicker(ModalScreen[Path | None]):
    """Asks for a file or a folder. Esc leaves everything as it was."""

    DEFAULT_CSS = """
    FilePicker { align: center middle; }
    FilePicker > .dialog { width: 76; max-width: 100%; height: 20; padding: 0 1; }
    FilePicker Input { height: 1; border: none; background: $panel; padding: 0 1; }
    FilePicker Input:focus { border: none; }
    FilePicker OptionList { height: 1fr; margin: 1 0; }
    FilePicker .hint { height: 1; color: $dim; }
    """
    HELP = (
        "Enter opens a folder or takes a file. Type to edit the path; Tab completes it. "
        "Backspace in the list goes one folder up. Esc leaves the answer as it was."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss", "Back", id="picker.back"),
        Binding("ctrl+n", "use_typed", "Take this path", id="picker.use"),
        Binding("tab", "app.focus_next", "Path or list", show=False),
    ]

    def __init__(self, start: Path, want: Want, suffixes: tuple[str, ...] = MODELS) -> None:
        super().__init__()
        self._want: Want = want
        self._suffixes = suffixes
        self._folder = starting_folder(start)
        self._entries: tuple[Entry, ...] = ()

    def compose(self) -> ComposeResult:
        """Path, list, hint."""
        what = "a folder" if self._want == "folder" else "a file"
        with Vertical(classes="dialog"):
            yield Static(f"Choose {what}", classes="strong", markup=False)
            yield PathInput("", want=self._want)
            yield OptionList(markup=False)
            yield Static("", classes="hint", markup=False)
        yield Footer()

    def on_mount(self) -> None:
        """Begin in the list."""
        self._open(self._folder)
        self.query_one(OptionList).focus()

    def _open(self, folder: Path) -> None:
        came_from, self._folder = self._folder, folder
        listing = list_folder(folder, self._want, self._suffixes)
        self._entries = listing.entries
        choices = self.query_one(OptionList)
        choices.clear_options()
        choices.add_options(Option(self._row(entry)) for entry in listing.entries)
        places = [place for place, one in enumerate(listing.entries) if one.path == came_from]
        went_up = bool(places) and came_from.parent == folder
        choices.highlighted = places[0] if went_up else self._first()
        typed = self.query_one(PathInput)
        typed.value = path_text(folder).rstrip("/") + "/"
        typed.cursor_position = len(typed.value)
        self.query_one(".hint", Static).update(listing.problem)

    def _first(self) -> int | None:
        if not self._entries:
            return None
        return next((place for place, one in enumerate(self._entries) if one.use), 0)

    def _row(self, entry: Entry) -> str:
        name = fit_middle(entry.name, 50)
        return f"{name}{' ' * (52 - cells(name))}{entry.note}"

    @on(OptionList.OptionSelected)
    def _selected(self, event: OptionList.OptionSelected) -> None:
        entry = self._entries[event.option_index]
        if entry.use:
            self.dismiss(entry.path)
        else:
            self._open(entry.path)

    @on(Input.Submitted)
    def _submitted(self, event: Input.Submitted) -> None:
        event.stop()
        self._typed(take=False)

    def action_use_typed(self) -> None:
        """Take the path that stands above the list."""
        self._typed(take=True)

    def _typed(self, *, take: bool) -> None:
        path = text_path(self.query_one(PathInput).value)
        try:
            is_folder, exists = path.is_dir(), path.exists()
        except (OSError, ValueError) as error:
            self.query_one(".hint", Static).update(f"It cannot be read: {error}.")
            return
        if is_folder and not take:
            self._open(path)
            self.query_one(OptionList).focus()
        elif is_folder and self._want == "file" and not (path / "model_index.json").is_file():
            self.query_one(".hint", Static).update("That is a folder; a file is asked for.")
        elif exists and not is_folder and self._want == "folder":
            self.query_one(".hint", Static).update("That is a file; a folder is asked for.")
        elif exists:
            self.dismiss(path)
        else:
            self.query_one(".hint", Static).update("There is nothing of that name.")

    def on_key(self, event: Key) -> None:
        """Backspace in the list goes up."""
        if event.key == "backspace" and isinstance(self.focused, OptionList):
            event.stop()
            if self._folder.parent != self._folder:
                self._open(self._folder.parent)
