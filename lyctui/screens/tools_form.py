"""The form of one file tool: its answers, what the files are, what will be written, and Start."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, cast

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, Vertical, VerticalScroll
from textual.events import DescendantFocus
from textual.message import Message
from textual.screen import Screen
from textual.widget import Widget
from textual.widgets import Button, Footer, Static

from engine.errors import Problem
from lyctui import text
from lyctui.background import Latest
from lyctui.fields import FormField
from lyctui.host import Host
from lyctui.report import Line, folded
from lyctui.tool_check import Findings, examine
from lyctui.tool_forms import ToolDraft, ToolField
from lyctui.tool_work import ToolWork
from lyctui.widgets.guide_panel import GuidePanel
from lyctui.widgets.lines import Lines
from lyctui.widgets.setting_field import Look, SettingField
from lyctui.widgets.title import TitleLine
from lyctui.widgets.tool_field import NetworkRows, ToolSettingField

MOST_PROBLEMS = 4
MORE, FEWER = "More answers   ^T", "Fewer answers  ^T"
Asked = NetworkRows | ToolSettingField


@dataclass
class Examined(Message):
    """The files were looked at."""

    findings: Findings | BaseException

    def can_replace(self, message: Message) -> bool:
        """A burst is its last."""
        return isinstance(message, Examined)


class ToolFormScreen(Screen[None]):
    """Asks what one tool needs. Its answers stay, whatever comes of the tool."""

    CSS_PATH = "../styles/wizard.tcss"
    DEFAULT_CSS = """
    ToolFormScreen #will { height: auto; min-height: 2; margin: 0 1; color: $dim; }
    ToolFormScreen #start { margin: 1 0 0 2; }
    ToolFormScreen.-short #start { margin: 0 0 0 2; }
    ToolFormScreen #facts { margin-top: 1; }
    ToolFormScreen.-short #facts { margin-top: 0; }
    ToolFormScreen #fields NetworkRows .label { width: 25; }
    ToolFormScreen.-short #problems { margin-top: 0; }
    """
    VERTICAL_BREAKPOINTS = [(0, "-short"), (30, "-tall")]  # noqa: RUF012 (an instance variable in Textual)
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+n", "start", "start", id="tool.start", tooltip="Start the tool"),
        Binding("ctrl+t", "more", "more", id="tool.more", tooltip="Show all answers of this tool"),
        Binding("escape", "dismiss", "back", id="tool.back"),
        Binding("f1", "app.help", "help", id="tool.help"),
        Binding("pagedown", "scroll_form(1)", "Further down", id="tool.down", show=False),
        Binding("pageup", "scroll_form(-1)", "Further up", id="tool.up", show=False),
    ]

    def __init__(self, draft: ToolDraft) -> None:
        super().__init__()
        self.draft = draft
        self.findings = Findings()
        self.failed: tuple[Problem, ...] = ()
        """What the tool itself said, until an answer changes."""
        self.all_levels = False
        self.tried = False
        """Whether Start was pressed: then everything that is missing is told."""
        self._waiting = False
        self._reader: Latest[Findings] = Latest("tool", self._answered)
        self._rebuilding = asyncio.Lock()

    # building -----------------------------------------------------------------------------

    def compose(self) -> ComposeResult:
        """Title, form, what will be written, explanation, keys."""
        tool = self.draft.tool
        yield TitleLine("tools", tool.title.lower())
        with Container(id="main"):
            with Vertical(id="left"):
                with VerticalScroll(id="form", can_focus=False):
                    yield Static(f"{tool.title}: {tool.note}", classes="question", markup=False)
                    with Vertical(id="fields"):
                        for form in self.draft.fields(all_levels=self.all_levels):
                            yield self._field(form)
                    if self._folded():
                        yield Button(MORE, id="more", compact=True)
                    yield Lines(id="facts")
                    yield Static("", id="problems", markup=False)
                    yield Button(f"{self._verb()}  ^N", id="start", compact=True)
                if tool.writes:
                    yield Lines(id="will")
            yield GuidePanel()
        yield Footer(compact=True)

    def _verb(self) -> str:
        return "Start" if self.draft.tool.writes else "Look into it"

    def _folded(self) -> bool:
        return len(self.draft.fields()) > len(self.draft.fields(all_levels=False))

    def _field(self, form: ToolField) -> Widget:
        start = self.draft.starting_folder
        if form.kind == "lines":
            rows = [row for row in self.draft.networks if row[0].strip()]
            return NetworkRows(form, rows, help_text=lambda: self.explain(form), start=start)
        look = self.look(form)
        return ToolSettingField(form, look, help_text=lambda: self.explain(form), start=start)

    def on_mount(self) -> None:
        """Begin in the first field."""
        self.refresh_page()
        self._look_at_files()
        self.call_after_refresh(self.asked[0].focus_control)

    def on_resize(self) -> None:
        """Lines are broken for the room there is."""
        self.call_after_refresh(self.refresh_page)

    def on_unmount(self) -> None:
        """Nobody waits any more."""
        self._reader.close()

    @property
    def asked(self) -> list[Asked]:
        """Every field, from top to bottom."""
        found = self.query_one("#fields").children
        return [one for one in found if isinstance(one, NetworkRows | ToolSettingField)]

    @property
    def host(self) -> Host:
        """The app."""
        return cast(Host, self.app)

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What the files tell, and what the tool said last."""
        return self.findings.problems + self.failed

    # showing ------------------------------------------------------------------------------

    def look(self, form: FormField) -> Look:
        """How one field stands."""
        return Look(
            text=self.draft.answers.get(form.path, ""),
            recommended=self.draft.recommended(form) if isinstance(form, ToolField) else "",
            note=form.blank if form.kind in ("whole", "number") else "",
            problem=self._problem_at(form.path),
        )

    def _problem_at(self, path: str) -> str:
        """Words below a field: what is wrong, or that it waits for an answer."""
        section = path.removesuffix(".value")
        found = [one for one in self.problems if one.path in (path, section)]
        if path == "networks":
            # Of several files, the ones that are meant.
            return "\n".join(map(_named, found[:MOST_PROBLEMS]))
        for one in found:
            return f"{one.what} {one.remedy}".strip()
        if self.tried and path in self.findings.waiting and path != "output":
            return "This is needed."
        return ""

    def refresh_page(self) -> None:
        """Show everything as it is known now."""
        if not self.is_mounted:
            return
        for one in self.asked:
            if isinstance(one, NetworkRows):
                one.show_problem(self._problem_at("networks"))
            else:
                one.show(self.look(one.form))
        self.query_one("#facts", Lines).show(self._facts())
        self._show_problems()
        if self.draft.tool.writes:
            self.query_one("#will", Lines).show(self._will())
        self._explain_focus()

    def _room(self) -> int:
        return max(30, self.query_one("#form").size.width - 4)

    def _facts(self) -> list[Line]:
        signs = self.host.signs
        lines: list[Line] = []
        for level, words in self.findings.facts:
            sign = signs.done if level == "done" else signs.warning
            lines.append(((f"{sign} ", level), (words, "")))
        return folded(lines, self._room())

    def _will(self) -> list[Line]:
        findings, room = self.findings, max(30, self.query_one("#left").size.width - 2)
        if findings.problems:
            return [(("Nothing is written until what is marked is put right.", "dim"),)]
        if not findings.writes:
            return [(("What will be written is shown here.", "dim"),)]
        lines: list[Line] = [((text.fit_middle(findings.writes, room), "strong"),)]
        if findings.reads:
            lines += [((line, ""),) for line in text.wrap(findings.reads, room)[:2]]
        return lines

    def _show_problems(self) -> None:
        shown = {one.form.path for one in self.asked if one.has_class("-wrong")}
        rest = [one for one in self.problems if not self._told(one, shown)]
        sign = self.host.signs.error
        lines = [f"{sign} {problem}" for problem in rest[:MOST_PROBLEMS]] if self.tried else []
        box = self.query_one("#problems", Static)
        box.update(text.inert("\n".join(lines), lines=True))
        box.display = bool(lines)

    def _told(self, problem: Problem, shown: set[str]) -> bool:
        told = self._problem_at(problem.path)
        here = problem.path in shown or f"{problem.path}.value" in shown
        return here and problem.what in told

    def on_descendant_focus(self, event: DescendantFocus) -> None:
        """Explain what is focused."""
        self._explain_focus()

    def _explain_focus(self) -> None:
        node = self.focused
        found = (
            [one for one in node.ancestors_with_self if isinstance(one, NetworkRows | SettingField)]
            if node is not None
            else []
        )
        words = self.explain(found[0].form) if found else self.draft.tool.introduction
        if found and self.has_class("-wide"):
            words = f"{words}\n\n{self.draft.tool.introduction}"
        self.query_one(GuidePanel).say(words)

    def explain(self, form: FormField) -> str:
        """A field in two or three sentences."""
        words = f"{form.label}: {form.help}"
        return f"{words} It may be {form.range}." if form.range else words

    def help_text(self) -> str:
        """For the help page."""
        files = " ".join(words for _, words in self.findings.facts)
        will = f"{self.findings.writes} {self.findings.reads}".strip()
        return "\n\n".join(part for part in (self.draft.tool.introduction, files, will) if part)

    # answering ----------------------------------------------------------------------------

    @on(SettingField.Edited)
    async def _edited(self, event: SettingField.Edited) -> None:
        event.stop()
        path = event.field.form.path
        if self.draft.answers.get(path, "") != event.text:
            self.draft.answers[path] = event.text
            self.failed = ()
            self._look_at_files()
            if path.endswith(".kind"):
                await self.rebuild()
        if event.finished:
            self.refresh_page()

    @on(NetworkRows.Edited)
    def _networks_edited(self, event: NetworkRows.Edited) -> None:
        event.stop()
        if self.draft.networks != event.rows:
            self.draft.networks = event.rows
            self.failed = ()
            self._look_at_files()
        if event.finished:
            self.refresh_page()

    def _look_at_files(self) -> None:
        draft = self.draft.copy()
        self._reader.ask(lambda wanted: examine(draft, wanted))

    def _answered(self, answer: Findings | BaseException) -> None:
        self.post_message(Examined(answer))

    @on(Examined)
    def _examined(self, event: Examined) -> None:
        event.stop()
        if isinstance(event.findings, Findings):
            self.findings = event.findings
        else:
            what = f"The files cannot be looked at: {event.findings}"
            self.findings = Findings((Problem(what),))
        self.refresh_page()
        if self._waiting and not self._reader.busy:
            self._waiting = False
            self._go()

    # unfolding ----------------------------------------------------------------------------

    @on(Button.Pressed, "#more")
    async def _more_pressed(self, event: Button.Pressed) -> None:
        event.stop()
        await self.action_more()

    async def action_more(self) -> None:
        """All answers, or the first ones again."""
        if not self._folded():
            return
        self.all_levels = not self.all_levels
        self.query_one("#more", Button).label = FEWER if self.all_levels else MORE
        await self.rebuild()

    async def rebuild(self) -> None:
        """Show other fields; those that stay keep their state and the focus."""
        async with self._rebuilding:
            box = self.query_one("#fields", Vertical)
            wanted = self.draft.fields(all_levels=self.all_levels)
            forms = {form.path: form for form in wanted}
            for one in self.asked:
                if forms.get(one.form.path) != one.form:
                    await one.remove()
            here = {one.form.path for one in self.asked}
            for place, form in enumerate(wanted):
                if form.path not in here:
                    await box.mount(self._field(form), before=self._at(box, place))
        self.refresh_page()

    def _at(self, box: Vertical, place: int) -> int | None:
        return place if place < len(box.children) else None

    def action_scroll_form(self, pages: int) -> None:
        """Show what is further down; the focus stays."""
        form = self.query_one("#form")
        form.scroll_relative(y=pages * max(1, form.size.height - 2), animate=False)

    # starting -----------------------------------------------------------------------------

    @on(Button.Pressed, "#start")
    def _start_pressed(self, event: Button.Pressed) -> None:
        event.stop()
        self.action_start()

    def action_start(self) -> None:
        """Look at the files once more, then begin, or show what is wrong."""
        self.tried = True
        self.failed = ()
        for one in self.asked:
            one.touched = True
            if isinstance(one, SettingField):
                self.draft.answers[one.form.path] = one.text
            else:
                self.draft.networks = one.rows
        self._waiting = True
        self._look_at_files()

    def _go(self) -> None:
        if not self.findings.ready:
            self._show_wrong()
            return
        from lyctui.screens.tools_run import ToolRunScreen

        request, _, _ = self.draft.request()
        work = ToolWork(self.draft.tool.title.lower(), request)
        self.app.push_screen(ToolRunScreen(work), self._ended)

    def _show_wrong(self) -> None:
        wrong = {one.path for one in self.problems} | self.findings.waiting
        hidden = {
            one.path
            for one in self.draft.fields()
            if one.level != "basic" and {one.path, one.path.partition(".")[0]} & wrong
        }
        if hidden and not self.all_levels:
            self.app.call_later(self._unfold)
            return
        self.refresh_page()
        first = next((one for one in self.asked if _concerned(one, wrong)), None)
        if first is not None:
            first.focus_control()
        box = self.query_one("#problems", Static)
        if box.display:
            self.call_after_refresh(box.scroll_visible, animate=False)
        self.app.bell()

    async def _unfold(self) -> None:
        await self.action_more()
        for one in self.asked:
            one.touched = True
        self._show_wrong()

    def _ended(self, work: ToolWork | None) -> None:
        """The tool has ended in one way or another; the answers are as they were."""
        if work is None:
            return
        self._look_at_files()
        if work.problems:
            self.failed = work.problems
            self._show_wrong()
            title = f"{work.tool}: nothing was written" if self.draft.tool.writes else work.tool
            self.host.show_problems(work.problems, title=title, report=work.report)
        elif work.cancelled:
            self.notify("Stopped. Nothing was written.", timeout=5)
        elif work.result is not None:
            from lyctui.screens.tools_report import ToolReportScreen

            self.host.window_title(f"{work.tool} done")
            self.app.push_screen(ToolReportScreen(work))


def _named(problem: Problem) -> str:
    head = f"{Path(problem.where).name}: " if problem.where else ""
    return text.inert(f"{head}{problem.what} {problem.remedy}".strip())


def _concerned(one: Asked, wrong: Iterable[str]) -> bool:
    paths = {one.form.path, one.form.path.removesuffix(".value")}
    return bool(paths & set(wrong))
