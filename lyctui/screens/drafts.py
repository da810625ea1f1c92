"""Drafts that can be continued or deleted."""

from __future__ import annotations

from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import Screen
from textual.widgets import Footer, Static

from lyctui import text
from lyctui.draft import Draft
from lyctui.widgets.menu import Menu, Row
from lyctui.widgets.title import TitleLine


class DraftsScreen(Screen[Draft | None]):
    """Gives the draft to continue, or None."""

    CSS_PATH = "../styles/wizard.tcss"
    HELP = (
        "Enter continues a draft where it was left. d twice deletes it; pictures and models stay."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss", "back", id="drafts.back"),
        Binding("d", "delete", "delete", id="drafts.delete"),
        Binding("f1", "app.help", "help", id="drafts.help"),
    ]

    def __init__(self, drafts: tuple[Draft, ...]) -> None:
        super().__init__()
        self.drafts = list(drafts)
        self._asked = ""

    def compose(self) -> ComposeResult:
        """A list."""
        yield TitleLine("drafts")
        with VerticalScroll(id="body", can_focus=False):
            yield Static("Which draft do you want to continue?", classes="question", markup=False)
            yield Menu(title_cells=30)
            yield Static("", id="asked", classes="warning", markup=False)
        yield Footer(compact=True)

    def on_mount(self) -> None:
        """Fill the list."""
        self._show()
        self.query_one(Menu).focus()

    def _show(self) -> None:
        self.query_one(Menu).show_rows(
            [
                Row(
                    one.id,
                    one.title,
                    f"{one.page} page · {text.date(one.saved_at)} · {text.age(one.saved_at)}",
                )
                for one in self.drafts
            ]
        )

    def _named(self, key: str) -> Draft | None:
        return next((one for one in self.drafts if one.id == key), None)

    @on(Menu.Chosen)
    def _chosen(self, event: Menu.Chosen) -> None:
        event.stop()
        self.dismiss(self._named(event.key))

    @on(Menu.Moved)
    def _moved(self) -> None:
        self._asked = ""
        self.query_one("#asked", Static).update("")

    def action_delete(self) -> None:
        """Delete the highlighted draft; the first press only asks."""
        key = self.query_one(Menu).key_at_highlight() or ""
        draft = self._named(key)
        if draft is None:
            return
        title = text.inert(draft.title)
        if self._asked != key:
            self._asked = key
            self.query_one("#asked", Static).update(
                f"Delete the answers of “{title}”? Press d again; anything else keeps them."
            )
            return
        draft.delete()
        self.drafts.remove(draft)
        self._asked = ""
        self.query_one("#asked", Static).update(f"The draft “{title}” was deleted.")
        self._show()
        if not self.drafts:
            self.dismiss(None)
