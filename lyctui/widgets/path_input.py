"""A path typed with Tab completion, or picked with Ctrl+O."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from textual.binding import Binding, BindingType
from textual.events import Key
from textual.message import Message
from textual.widgets import Input

from lyctui.fields import path_text, text_path

Want = Literal["file", "folder"]
MOST_ENTRIES = 5000
"""Entries read of a folder while completing; larger ones are cut."""


def complete(text: str, want: Want) -> str:
    """`text` with as much added as all candidates share; a single folder gets its slash."""
    head, slash, tail = text.rpartition("/")
    folder = text_path(head + slash) if slash else Path()
    names = _candidates(folder, tail, want)
    if not names:
        return text
    shared = _shared(names)
    if len(shared) <= len(tail) and len(names) > 1:
        return text
    whole = folder / shared
    end = "/" if len(names) == 1 and whole.is_dir() else ""
    return f"{head}{slash}{path_text(shared)}{end}"


def _shared(names: list[str]) -> str:
    """What all names begin with; of sorted names the first and the last tell."""
    first, last = names[0], names[-1]
    length = next(
        (place for place, (a, b) in enumerate(zip(first, last, strict=False)) if a != b),
        min(len(first), len(last)),
    )
    return first[:length]


def _candidates(folder: Path, start: str, want: Want) -> list[str]:
    found: list[str] = []
    try:
        with os.scandir(folder) as entries:
            for count, entry in enumerate(entries):
                if count >= MOST_ENTRIES:
                    break
                if not entry.name.startswith(start) or (entry.name[0] == "." and not start):
                    continue
                if want == "file" or entry.is_dir():
                    found.append(entry.name)
    except (OSError, ValueError):
        return []
    return sorted(found)


class PathInput(Input):
    """Tab completes at the end of the text while there is something to add; else it moves on."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+o", "browse", "browse", id="path.browse"),
        Binding("down", "app.focus_next", "Next field", show=False),
        Binding("up", "app.focus_previous", "Previous field", show=False),
    ]

    @dataclass
    class Chosen(Message):
        """A path was picked or completed to its end."""

        text: str

    def __init__(
        self,
        value: str,
        *,
        want: Want,
        placeholder: str = "",
        compact: bool = True,
        suffixes: tuple[str, ...] = (),
    ) -> None:
        super().__init__(value, placeholder=placeholder, compact=compact, select_on_focus=False)
        self.want: Want = want
        self._suffixes = suffixes
        """Kinds of file that the picker shows; empty for base models."""

    def on_key(self, event: Key) -> None:
        """Tab completes."""
        if event.key != "tab" or not self.value or self.cursor_position < len(self.value):
            return
        longer = complete(self.value, self.want)
        if longer != self.value:
            event.prevent_default()
            event.stop()
            self.value = longer
            self.cursor_position = len(longer)

    def action_browse(self) -> None:
        """Pick it in a list of files."""
        from lyctui.widgets.file_picker import MODELS, FilePicker

        def picked(path: Path | None) -> None:
            if path is not None:
                self.value = path_text(path)
                self.cursor_position = len(self.value)
                self.post_message(self.Chosen(self.value))

        start, suffixes = text_path(self.value or "~"), self._suffixes or MODELS
        self.app.push_screen(FilePicker(start, self.want, suffixes), picked)
