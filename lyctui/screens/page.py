"""What every page of the wizard shares: title, form, arithmetic, explanation, and the way on and back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, cast

from textual import on
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, Vertical, VerticalScroll
from textual.events import DescendantFocus
from textual.message import Message
from textual.screen import Screen
from textual.widget import Widget
from textual.widgets import Button, Footer, Static

from engine.errors import Problem
from lyctui import text
from lyctui.fields import MANY_LINES, FieldError, FormField, from_text
from lyctui.host import Host
from lyctui.screens.field_words import field_look, full_help, short_help
from lyctui.steps import NAMES, page_fields, step
from lyctui.widgets.arithmetic_line import ArithmeticLine
from lyctui.widgets.guide_panel import GuidePanel
from lyctui.widgets.setting_field import Look, SettingField, field_id
from lyctui.widgets.step_list import StepList, Steps
from lyctui.wizard import Wizard

TYPED_AT_ONCE = ("text", "whole", "number", "pair", "numbers", "mixed", *sorted(MANY_LINES))
"""Kinds whose every keystroke counts; a path counts when it is whole."""
MOST_PROBLEMS = 4


class News(Message):
    """A job of the wizard has an answer."""

    def can_replace(self, message: Message) -> bool:
        """A burst is one."""
        return isinstance(message, News)


@dataclass(frozen=True, slots=True)
class Said:
    """What the explanation says where no field is focused."""

    title: str
    words: str


class WizardPage(Screen[None]):
    """One page. Subclasses give `name_of_page` and what they show beside the fields."""

    CSS_PATH = "../styles/wizard.tcss"
    page: ClassVar[str] = ""
    INTRODUCTION: ClassVar[str] = ""
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+n", "next", "next", id="page.next"),
        Binding("escape", "back", "back", id="page.back"),
        Binding("ctrl+t", "more", "more", id="page.more", tooltip="Show all settings of this page"),
        Binding("a", "more", "More", show=False),
        Binding(
            "ctrl+r",
            "recommended",
            "Recommended",
            id="page.recommended",
            show=False,
            tooltip="Take the recommended value of this field again",
        ),
        Binding("f1", "app.help", "help", id="page.help"),
        Binding("pagedown", "scroll_form(1)", "Further down", id="page.down", show=False),
        Binding("pageup", "scroll_form(-1)", "Further up", id="page.up", show=False),
        *(
            Binding("f20", f"go('{name}')", f"Go to {name}", id=f"page.go.{name}", show=False)
            for name in NAMES
        ),
    ]
    VERTICAL_BREAKPOINTS = [(0, "-short"), (30, "-tall")]  # noqa: RUF012 (an instance variable in Textual)

    def __init__(self, wizard: Wizard) -> None:
        super().__init__()
        self.wizard = wizard
        self.depth = 0
        self.tried = False
        """Whether Next was pressed: then every problem is shown."""
        self._waiting = False
        self._rebuilding = asyncio.Lock()
        self._stop_listening: Callable[[], None] = _nothing
        self._algorithm = wizard.draft.algorithm

    # building -----------------------------------------------------------------------------

    def compose(self) -> ComposeResult:
        """Title, form with its arithmetic, explanation, keys."""
        yield StepList()
        with Container(id="main"):
            with Vertical(id="left"):
                with VerticalScroll(id="form", can_focus=False):
                    yield Static(step(self.page).question, classes="question", markup=False)
                    yield from self.head()
                    with Vertical(id="fields"):
                        for form in self.open_fields():
                            yield self._field(form)
                    if self._folded():
                        yield Button("More settings  ^T", id="more", compact=True)
                    yield from self.tail()
                    yield Static("", id="problems", markup=False)
                yield ArithmeticLine()
            yield GuidePanel()
        yield Footer(compact=True)

    def head(self) -> Iterable[Widget]:
        """What stands above the fields."""
        return ()

    def tail(self) -> Iterable[Widget]:
        """What stands below the fields."""
        return ()

    def open_fields(self) -> tuple[FormField, ...]:
        """The settings that are asked now."""
        return page_fields(self.page, self._algorithm, self.depth)

    def _folded(self) -> bool:
        return len(page_fields(self.page, self._algorithm, 2)) > len(self.open_fields())

    def _field(self, form: FormField) -> SettingField:
        return SettingField(form, self.look(form), help_text=lambda: self.explain(form))

    def on_mount(self) -> None:
        """Listen to the jobs; begin in the first field."""
        self._stop_listening = self.wizard.listen(self._tell_news)
        self._visited()
        self.app.before_leave = self._save_quietly  # type: ignore[attr-defined]
        self.wizard.update()
        self.refresh_page()
        self.call_after_refresh(self.focus_first)

    def _tell_news(self) -> None:
        # Called in a thread of a job: posting is all it may do.
        self.post_message(News())

    def on_resize(self) -> None:
        """Lines are broken for the room there is."""
        self.call_after_refresh(self.refresh_page)

    def on_unmount(self) -> None:
        """No more news."""
        self._stop_listening()

    def focus_first(self) -> None:
        """The first field, or what a page has instead."""
        fields = self.fields
        if fields:
            fields[0].focus_control()

    def _visited(self) -> None:
        draft = self.wizard.draft
        draft.page = self.page
        if self.page not in draft.visited:
            draft.visited.append(self.page)
        self.save_draft()

    # showing ------------------------------------------------------------------------------

    @property
    def host(self) -> Host:
        """The app."""
        return cast(Host, self.app)

    @property
    def fields(self) -> list[SettingField]:
        """Every field of the page, from top to bottom."""
        return list(self.query(SettingField))

    def refresh_page(self) -> None:
        """Show everything as the wizard knows it now."""
        if not self.is_mounted:
            return
        self.query_one(StepList).show_steps(self.steps())
        for field in self.fields:
            field.show(self.look(field.form))
        self.query_one(ArithmeticLine).tell(self.wizard.plan, self.wizard.looking_at)
        self._show_problems()
        self.show_page()
        self._explain_focus()

    def show_page(self) -> None:
        """Show what a page has beside its fields."""

    def steps(self) -> Steps:
        """State of every page, for the title."""
        states: Steps = []
        for name in NAMES:
            if name == self.page:
                state = "here"
            elif name not in self.wizard.draft.visited or name == "review":
                state = "later"
            else:
                state = "wrong" if self.wizard.page_problems(name) else "done"
            states.append((name, state))
        return states

    def look(self, form: FormField) -> Look:
        """How one field stands."""
        return field_look(self.wizard, form)

    def _show_problems(self) -> None:
        found = self.wizard.page_problems(self.page) if self.tried else ()
        shown = {field.form.path for field in self.fields if field.has_class("-wrong")}
        rest = [one for one in found if one.path not in shown and not self.told_already(one)]
        sign = self.host.signs.error
        lines = [f"{sign} {problem}" for problem in rest[:MOST_PROBLEMS]]
        if len(rest) > MOST_PROBLEMS:
            lines.append(f"{sign} and {len(rest) - MOST_PROBLEMS} more")
        box = self.query_one("#problems", Static)
        box.update(text.inert("\n".join(lines), lines=True))
        box.display = bool(lines)

    def told_already(self, problem: Problem) -> bool:
        """Whether the page shows a problem in a place of its own."""
        return False

    # explaining ---------------------------------------------------------------------------

    def on_descendant_focus(self, event: DescendantFocus) -> None:
        """Explain what is focused."""
        self._explain_focus()

    def focused_field(self) -> SettingField | None:
        """The field that holds the focus."""
        node = self.focused
        if node is None:
            return None
        return next(
            (one for one in node.ancestors_with_self if isinstance(one, SettingField)), None
        )

    def _explain_focus(self) -> None:
        panel = self.query_one(GuidePanel)
        field = self.focused_field()
        if field is None:
            panel.say(self.said())
        elif self.has_class("-wide"):
            panel.say(self.explain(field.form))
        else:
            panel.say(self.short_help(field.form))

    def said(self) -> str:
        """What the explanation says while no field is focused."""
        return self.INTRODUCTION

    def short_help(self, form: FormField) -> str:
        """Two or three sentences."""
        return short_help(self.wizard, form)

    def explain(self, form: FormField) -> str:
        """The guide text of a setting with this run's numbers, below its short help."""
        return full_help(self.wizard, form)

    def help_text(self) -> str:
        """For the help page: the focused field, else the page."""
        field = self.focused_field()
        title = f"{step(self.page).question} {self.INTRODUCTION}"
        steps = f"Steps: {self.query_one(StepList).words()}."
        if field is not None:
            return f"{self.explain(field.form)}\n\n{steps}"
        return f"{title}\n\n{steps}"

    # answering ----------------------------------------------------------------------------

    @on(SettingField.Edited)
    def _edited(self, event: SettingField.Edited) -> None:
        event.stop()
        form = event.field.form
        if event.finished or form.kind in TYPED_AT_ONCE:
            self.answer(form, event.text, finished=event.finished)
            self.answered(form.path)
            self.refresh_page()

    def answer(self, form: FormField, typed: str, *, finished: bool) -> None:
        """Take a field's text as an answer; text that is no value stays for correction."""
        draft = self.wizard.draft
        empty = not typed.strip()
        has_preset = form.path in draft.preset_values
        if empty and (form.nullable or form.kind != "text" or not has_preset):
            if form.path in draft.answers or form.path in self.wizard.unreadable:
                self.wizard.clear(form.path)
            return
        try:
            value = from_text(form, typed)
        except FieldError as error:
            if finished or form.path in self.wizard.unreadable:
                self.wizard.cannot_read(form.path, error.problem)
            return
        if form.path in self.wizard.unreadable or draft.answers.get(form.path, draft) != value:
            self.wizard.set(form.path, value)

    def answered(self, path: str) -> None:
        """An answer was given; pages that hang on it override this."""

    def action_recommended(self) -> None:
        """Take the recommended value of the focused field again."""
        field = self.focused_field()
        if field is None:
            return
        self.wizard.clear(field.form.path)
        look = self.look(field.form)
        control = field.control
        if hasattr(control, "value") and not field.form.picks:
            control.value = ""
        elif hasattr(control, "text"):
            control.text = ""
        field.show(look)
        self.answered(field.form.path)
        self.refresh_page()

    def on_news(self) -> None:
        """A job has an answer."""
        self.refresh_page()
        if self._waiting and not self.must_wait():
            self._waiting = False
            self.action_next()

    # unfolding ----------------------------------------------------------------------------

    async def action_more(self) -> None:
        """Unfold: advanced settings, then all, then the first ones again."""
        if not page_fields(self.page, self._algorithm, 2):
            return
        everything = len(page_fields(self.page, self._algorithm, 2))
        self.depth = self.depth + 1 if len(self.open_fields()) < everything else 0
        if self.depth and len(self.open_fields()) == len(self.fields):
            self.depth = 2
        await self.rebuild_fields()

    @on(Button.Pressed, "#more")
    async def _more_pressed(self, event: Button.Pressed) -> None:
        event.stop()
        await self.action_more()

    async def rebuild_fields(self) -> None:
        """Show other fields; those that stay keep their state and the focus."""
        # A key and an answer of a job may ask at once, in two queues: one after the other.
        async with self._rebuilding:
            await self._rebuild()

    async def _rebuild(self) -> None:
        box = self.query_one("#fields", Vertical)
        wanted = self.open_fields()
        now = {field.form.path: field for field in self.fields}
        for path, field in now.items():
            if not any(form.path == path and form == field.form for form in wanted):
                await field.remove()
        here = {field.form.path for field in self.fields}
        before: SettingField | None = None
        for form in wanted:
            if form.path not in here:
                new = self._field(form)
                if before is None:
                    await box.mount(new, before=0 if box.children else None)
                else:
                    await box.mount(new, after=before)
            before = self.query_one(f"#{field_id(form.path)}", SettingField)
        for button in self.query("#more").results(Button):
            button.label = "More settings  ^T" if self._folded() else "Fewer settings  ^T"
        self.refresh_page()

    def action_scroll_form(self, pages: int) -> None:
        """Show what is further down; the focus stays."""
        form = self.query_one("#form")
        form.scroll_relative(y=pages * max(1, form.size.height - 2), animate=False)

    # moving -------------------------------------------------------------------------------

    def must_wait(self) -> bool:
        """Whether what this page needs is still being read."""
        return False

    def action_next(self) -> None:
        """To the next page, or to the first thing that is wrong."""
        field = self.focused_field()
        if field is not None and not field.form.picks:
            field.touched = True
            self.answer(field.form, field.text, finished=True)
            self.answered(field.form.path)
        if self.must_wait():
            self._waiting = True
            self.notify("Still reading; the next page follows.", timeout=3)
            return
        self.tried = True
        problems = self.wizard.page_problems(self.page)
        for each in self.fields:
            each.touched = True
        self.refresh_page()
        if problems:
            self._go_to(problems[0])
            return
        self.leave_forward()

    def leave_forward(self) -> None:
        """Every answer of this page is good."""
        self.save_draft()
        self.open_page(NAMES[NAMES.index(self.page) + 1])

    def _go_to(self, problem: Problem) -> None:
        places = list(self.query(f"#{field_id(problem.path)}").results(SettingField)) or self.fields
        if places:
            places[0].focus_control()
        box = self.query_one("#problems", Static)
        if box.display:
            self.call_after_refresh(box.scroll_visible, animate=False)
        elif self.told_already(problem):
            self.call_after_refresh(self.query_one("#form").scroll_end, animate=False)
        self.app.bell()

    def action_back(self) -> None:
        """To the page before, or out of the wizard; answers stay."""
        self.save_draft()
        place = NAMES.index(self.page)
        if place == 0:
            self.leave_wizard()
        else:
            self.open_page(NAMES[place - 1])

    def leave_wizard(self) -> None:
        """Back to the welcome page; nothing but the draft was written."""
        self.wizard.close()
        self.app.before_leave = None  # type: ignore[attr-defined]
        go_home(self.app)
        if self.wizard.draft.answers:
            self.app.notify("Nothing was started or changed. Your answers are kept as a draft.")

    def open_page(self, name: str) -> None:
        """Show another page."""
        from lyctui.screens.pages import make_page

        self.app.switch_screen(make_page(name, self.wizard))

    def action_go(self, name: str) -> None:
        """To any page whose way is valid; earlier ones always."""
        if name == self.page:
            return
        earlier = NAMES.index(name) < NAMES.index(self.page)
        if not earlier and not self.wizard.reachable(name):
            first = self.wizard.first_open_page()
            self.notify(f"First finish the page {first}.", severity="warning")
            name = first
        if name != self.page:
            self.save_draft()
            self.open_page(name)

    # keeping ------------------------------------------------------------------------------

    def save_draft(self) -> None:
        """Keep the answers; a disk that refuses is told once, and the wizard goes on."""
        if not self.wizard.draft.answers:
            return
        try:
            self.wizard.draft.save()
        except OSError as error:
            self.notify(f"The draft cannot be kept: {error}.", severity="warning", timeout=8)

    def _save_quietly(self) -> str | None:
        self.wizard.close()
        if not self.wizard.draft.answers:
            return None
        self.wizard.draft.save()
        title = text.inert(self.wizard.draft.title)
        return f"Nothing was started. The draft “{title}” is kept; `lyctui` offers to continue it."


def _nothing() -> None:
    """Before the page listens there is nothing to end."""


def go_home(app: App[Any]) -> None:
    """To the welcome page, which is below unless the wizard was opened by a verb of its own."""
    from lyctui.screens.welcome import WelcomeScreen

    if any(isinstance(screen, WelcomeScreen) for screen in app.screen_stack[:-1]):
        app.pop_screen()
    else:
        app.switch_screen(WelcomeScreen())
