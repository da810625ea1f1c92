"""The newest sample pictures beside each other, drawn again only when there are new ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from textual.containers import Horizontal

from lyctui.pictures import Pictures
from lyctui.widgets.picture import picture_view

GAP = 1


class PictureRow(Horizontal):
    """At most two pictures; takes no room while there are none."""

    DEFAULT_CSS = """
    PictureRow { height: auto; display: none; margin-bottom: 1; }
    PictureRow > * { margin-right: 1; }
    """

    def __init__(self, pictures: Pictures, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._pictures = pictures
        self._shown: tuple[object, ...] = ()

    def follow(self, paths: Sequence[Path], columns: int) -> None:
        """Show these files, so many cells wide each, unless they are shown already."""
        wanted = (columns, *paths)
        if not self._pictures.shown or columns < 8 or wanted == self._shown:
            return
        self._shown = wanted
        self.remove_children()
        views = []
        for path in paths:
            try:
                views.append(picture_view(path, columns, self._pictures))
            except (OSError, ValueError):  # Still being written, or gone: its path is in the list.
                continue
        self.display = bool(views)
        if views:
            self.mount(*views)
