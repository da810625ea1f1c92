"""What went wrong, on a screen instead of a traceback: what, likely cause, what to do, the report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import Screen
from textual.widgets import Footer, OptionList, Static
from textual.widgets.option_list import Option

from engine.errors import Problem
from lyctui import text
from lyctui.widgets.title import TitleLine


@dataclass(frozen=True, slots=True)
class Remedy:
    """Something to do about it, one key away."""

    label: str
    act: Callable[[], None]


class ProblemScreen(Screen[None]):
    """Every problem with its place and its remedy, up to three actions, and the report's path."""

    AUTO_FOCUS = "#actions"
    DEFAULT_CSS = """
    ProblemScreen #body { height: 1fr; padding: 1 2; }
    ProblemScreen .what { text-style: bold; margin-top: 1; }
    ProblemScreen #actions { height: auto; max-height: 6; padding: 0 2; }
    ProblemScreen #report { height: auto; padding: 0 2; color: $dim; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "back", "back", id="problem.back", key_display="Esc"),
        Binding("q", "app.leave", "leave", id="problem.leave"),
        Binding("f1", "app.help", "help", id="problem.help", key_display="F1"),
    ]

    def __init__(
        self,
        problems: Sequence[Problem],
        *,
        title: str = "",
        report: Path | None = None,
        remedies: Sequence[Remedy] = (),
    ) -> None:
        super().__init__()
        self._problems = tuple(problems)
        self._title = title or "this cannot go on"
        self._report = report
        self._remedies = tuple(remedies[:3])

    def compose(self) -> ComposeResult:
        """Problems, actions, the report."""
        yield TitleLine(self._title)
        error = getattr(self.app, "signs", text.UNICODE_SIGNS).error
        with VerticalScroll(id="body"):
            count = text.counted(len(self._problems), "problem")
            yield Static(f"{error} error: {count}", classes="error", markup=False)
            for problem in self._problems:
                yield from self._one(problem)
        if self._report is not None:
            yield Static(f"The full report: {text.home(self._report)}", id="report", markup=False)
        options = [Option(f"{n}  {each.label}") for n, each in enumerate(self._remedies, 1)]
        yield OptionList(*options, Option(f"{len(options) + 1}  Back"), id="actions", markup=False)
        yield Footer(compact=True, show_command_palette=False)

    def _one(self, problem: Problem) -> ComposeResult:
        yield Static(text.inert(problem.what, lines=True), classes="what", markup=False)
        place = " · ".join(part for part in (problem.path, problem.where) if part)
        if place:
            yield Static(text.inert(place), classes="dim", markup=False)
        if problem.remedy:
            yield Static(text.inert(problem.remedy, lines=True), markup=False)

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """Do what was chosen."""
        self._act(event.option_index)

    def on_key(self, event: object) -> None:
        """A digit chooses, too."""
        key = str(getattr(event, "key", ""))
        if key.isdigit() and 1 <= int(key) <= len(self._remedies) + 1:
            self._act(int(key) - 1)

    def _act(self, index: int) -> None:
        self.action_back()
        if index < len(self._remedies):
            self._remedies[index].act()

    def action_back(self) -> None:
        """Back to where it came from; with nothing behind, leave."""
        if len(self.app.screen_stack) > 2:
            self.dismiss()
        else:
            self.app.run_worker(self.app.run_action("app.leave"))
