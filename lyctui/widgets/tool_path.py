"""A path of a file tool: a picker that begins beside the other files, or picks where to write."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from lyctui.fields import path_text, text_path
from lyctui.widgets.path_input import PathInput

SUFFIXES = (".safetensors",)


class ToolPathInput(PathInput):
    """Like every path input, but its picker lists only what a tool reads.

    With `save` it picks the folder and keeps the name.
    """

    def __init__(
        self,
        value: str,
        *,
        start: Callable[[], Path],
        save: bool = False,
        placeholder: str = "",
    ) -> None:
        super().__init__(value, want="file", placeholder=placeholder)
        self._start = start
        self._save = save

    def action_browse(self) -> None:
        """Pick it in a list of files, or the folder to write to."""
        from lyctui.widgets.file_picker import FilePicker

        shown = text_path(self.value or (self.placeholder if self._save else ""))
        here = shown.parent if self._save else shown
        begin = here if self.value or (self._save and self.placeholder) else self._start()
        picker = FilePicker(begin, "folder" if self._save else "file", SUFFIXES)
        self.app.push_screen(picker, self._picked)

    def _picked(self, path: Path | None) -> None:
        if path is None:
            return
        if self._save:
            path = path / (text_path(self.value or self.placeholder).name or "network.safetensors")
        self.value = path_text(path)
        self.cursor_position = len(self.value)
        self.post_message(self.Chosen(self.value))
