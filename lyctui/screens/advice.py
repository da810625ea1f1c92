"""Advice: what the guides change after a training that went wrong, or for a wish."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.message import Message
from textual.screen import ModalScreen
from textual.widgets import Static

from lyctui import text
from lyctui.advice import TOPICS, changes, consequence, outcome_of
from lyctui.background import Latest
from lyctui.network_numbers import Outcome, outcome
from lyctui.remedies import Change
from lyctui.text import UNICODE_SIGNS, Signs
from lyctui.widgets.menu import Menu, Row
from lyctui.wizard import Wizard

INDENT = 5
FRAME = 4
"""Border, padding and scroll bar of the dialog."""
MOST_CELLS = 94


class Changes(Menu):
    """Changes with their reasons and consequences, several lines each."""

    DEFAULT_CSS = "Changes { max-height: 17; }"

    def _text(self, place: int, here: int | None) -> Text:
        row = self.rows[place]
        signs: Signs = getattr(self.app, "signs", UNICODE_SIGNS)
        mark = signs.choice if place == here else " "
        room = min(MOST_CELLS, self.app.size.width) - FRAME - INDENT
        lines = [
            f"{' ' * INDENT}{part}"
            for paragraph in row.note.split("\n")
            for part in text.wrap(text.inert(paragraph), room)
        ]
        return Text(
            "\n".join([f"{mark} {place + 1}  {text.inert(row.title)}", *lines]), no_wrap=True
        )


@dataclass
class Counted(Message):
    """What each change would come to."""

    outcomes: tuple[Outcome, ...]


class AdviceScreen(ModalScreen[Change | None]):
    """The questions, then the changes of one; Enter takes a change, Esc goes back."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "back", "Back", id="advice.back"),
    ]
    CSS = """
    AdviceScreen > .dialog { width: 100%; max-width: 94; max-height: 100%; padding: 1 1; }
    AdviceScreen .hint { margin: 1 0 0 2; }
    AdviceScreen #question { padding: 0 0 1 2; }
    """

    def __init__(self, wizard: Wizard, topic: str, now: Outcome | None) -> None:
        super().__init__()
        self.wizard = wizard
        self._asked = topic
        """The question that it was opened with; empty for all of them."""
        self._topic = topic
        self._now = now
        self._changes: tuple[Change, ...] = ()
        self._counting: Latest[tuple[Outcome, ...]] = Latest("advice", self._counted)

    def compose(self) -> ComposeResult:
        """A question and its answers."""
        with Vertical(classes="dialog"):
            yield Static("", id="question", classes="strong", markup=False)
            yield Menu(id="topics", title_cells=18)
            yield Changes(id="changes")
            yield Static("", id="hint", classes="dim hint", markup=False)

    def on_mount(self) -> None:
        """Begin with the question that was asked."""
        self._show()

    def on_unmount(self) -> None:
        """Nobody waits any more."""
        self._counting.close()

    def _show(self) -> None:
        topics, menu = self.query_one("#topics", Menu), self.query_one(Changes)
        topics.display, menu.display = not self._topic, bool(self._topic)
        question = "What do you want from the next training?"
        hint = "Enter shows what the guides change. Esc leaves."
        if self._topic:
            topic = TOPICS[self._topic]
            question = f"{topic.title}: {topic.note}"
            hint = "Enter takes the change, Esc leaves everything as it is."
            self._changes = changes(self.wizard, self._topic)
            if not self._changes:
                hint = "Nothing that the guides name goes further than the present answers. Esc leaves."
            self._show_changes(())
            offered = self._changes
            self._counting.ask(lambda wanted: self._count(offered))
        else:
            topics.show_rows([Row(key, one.title, one.note) for key, one in TOPICS.items()])
        self.query_one("#question", Static).update(question)
        self.query_one("#hint", Static).update(hint)
        (menu if self._topic else topics).focus()

    def _count(self, offered: tuple[Change, ...]) -> tuple[Outcome, ...]:
        if self._now is None:
            self._now = outcome(self.wizard, self.wizard.draft)
        return tuple(outcome_of(self.wizard, one) for one in offered)

    def _counted(self, answer: tuple[Outcome, ...] | BaseException) -> None:
        if not isinstance(answer, BaseException):
            self.post_message(Counted(answer))

    @on(Counted)
    def _show_outcomes(self, event: Counted) -> None:
        event.stop()
        if len(event.outcomes) == len(self._changes):
            self._show_changes(event.outcomes)

    def _show_changes(self, outcomes: tuple[Outcome, ...]) -> None:
        found: tuple[Any, ...] = outcomes or (None,) * len(self._changes)
        self.query_one(Changes).show_rows(
            [
                Row(
                    change.title,
                    change.title,
                    f"{change.reason}\n{consequence(change, self._now, after, short=True)}",
                )
                for change, after in zip(self._changes, found, strict=True)
            ]
        )

    @on(Menu.Chosen)
    def _chosen(self, event: Menu.Chosen) -> None:
        event.stop()
        if not self._topic:
            self._topic = event.key
            self._show()
            return
        self.dismiss(next(one for one in self._changes if one.title == event.key))

    @on(Menu.Moved)
    def _moved(self, event: Menu.Moved) -> None:
        event.stop()

    def action_back(self) -> None:
        """To the questions, or out without a change."""
        if self._topic and not self._asked:
            self._topic = ""
            self._show()
        else:
            self.dismiss(None)
