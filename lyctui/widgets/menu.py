"""A list of choices with digits: arrows move, Enter or the digit chooses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from rich.text import Text
from textual import on
from textual.binding import Binding, BindingType
from textual.events import Key
from textual.message import Message
from textual.widgets import OptionList
from textual.widgets.option_list import Option

from lyctui.text import UNICODE_SIGNS, Signs, cells, fit, inert


@dataclass(frozen=True, slots=True)
class Row:
    """One choice: its name, what it is, and whether it is the chosen one."""

    key: str
    title: str
    note: str = ""
    chosen: bool = False


class Menu(OptionList):
    """Choices in rows; posts `Chosen`."""

    DEFAULT_CSS = """
    Menu {
        height: auto; max-height: 10; border: none; padding: 0; background: transparent;
        text-wrap: nowrap; text-overflow: ellipsis;
    }
    Menu:focus { border: none; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("space", "select", "Choose", show=False),
    ]

    @dataclass
    class Chosen(Message):
        """A row was chosen."""

        menu: Menu
        key: str

    @dataclass
    class Moved(Message):
        """Another row is highlighted."""

        menu: Menu
        key: str

    def __init__(self, *, title_cells: int = 26, id: str | None = None) -> None:
        super().__init__(id=id, markup=False, compact=True)
        self._title_cells = title_cells
        self.rows: tuple[Row, ...] = ()
        self._marked = 0

    def show_rows(self, rows: Sequence[Row]) -> None:
        """Show other rows; the highlight stays on its row."""
        new = tuple(rows)
        if new == self.rows:
            return
        at = self.highlighted
        before = self.rows[at].key if at is not None and at < len(self.rows) else None
        self.rows = new
        keys = [row.key for row in new]
        chosen = next((place for place, row in enumerate(new) if row.chosen), 0)
        here = keys.index(before) if before in keys else chosen
        self.clear_options()
        self.add_options(Option(self._text(place, here)) for place in range(len(new)))
        self._marked = here
        if new:
            self.highlighted = here

    def _text(self, place: int, here: int | None) -> Text:
        row = self.rows[place]
        signs: Signs = getattr(self.app, "signs", UNICODE_SIGNS)
        mark = (signs.choice if place == here else " ") + (signs.done if row.chosen else " ")
        digit = "1234567890"[place] if place < 10 else " "
        title = fit(inert(row.title), self._title_cells)
        space = " " * (self._title_cells + 2 - cells(title))
        return Text(
            f"{mark}{digit}  {title}{space}{inert(row.note)}", no_wrap=True, overflow="ellipsis"
        )

    def choose(self, key: str) -> None:
        """Choose a row as if Enter had been pressed on it."""
        self.post_message(self.Chosen(self, key))

    def key_at_highlight(self) -> str | None:
        """Key of the highlighted row."""
        place = self.highlighted
        return self.rows[place].key if place is not None and place < len(self.rows) else None

    @on(OptionList.OptionSelected)
    def _selected(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        self.choose(self.rows[event.option_index].key)

    @on(OptionList.OptionHighlighted)
    def _highlighted(self, event: OptionList.OptionHighlighted) -> None:
        event.stop()
        if event.option_index < len(self.rows):
            self._mark(event.option_index)
            self.post_message(self.Moved(self, self.rows[event.option_index].key))

    def _mark(self, place: int) -> None:
        """The highlight is a sign too, not only a colour."""
        before, self._marked = self._marked, place
        for one in {before, place}:
            if one < len(self.rows):
                self.replace_option_prompt_at_index(one, self._text(one, place))

    def pick_digit(self, digit: str) -> bool:
        """Choose by digit; whether there is such a row."""
        place = "1234567890".index(digit)
        if place >= len(self.rows):
            return False
        self.highlighted = place
        self.choose(self.rows[place].key)
        return True

    def on_key(self, event: Key) -> None:
        """A digit chooses its row."""
        if event.key in tuple("1234567890") and self.pick_digit(event.key):
            event.stop()
