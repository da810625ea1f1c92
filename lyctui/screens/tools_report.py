"""What came of a file tool: the file, its size, what was lost, and what to know."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import Screen
from textual.widgets import Footer

from engine.tools.requests import ToolReport
from lyctui.host import host
from lyctui.tool_forms import InfoRequest
from lyctui.tool_report import lines_of
from lyctui.tool_work import ToolWork
from lyctui.widgets.lines import Lines
from lyctui.widgets.title import TitleLine

HELP = """
Error is the part of the trained change that is not in the new file: |written - exact| / |exact|. Rounding
to fp16 alone makes about 0.03 %. A few percent in single modules are seldom seen in a picture; tens of
percent are another network.
"""


class ToolReportScreen(Screen[None]):
    """One report to scroll through."""

    AUTO_FOCUS = "#body"
    HELP: ClassVar[str | None] = HELP
    DEFAULT_CSS = """
    ToolReportScreen #body { height: 1fr; padding: 1 1 0 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss", "back", id="toolreport.back", tooltip="Back to the answers"),
        Binding("t", "tools", "tools", id="toolreport.tools", tooltip="Back to the list of tools"),
        Binding("i", "look", "info", id="toolreport.info", tooltip="Look into the new file"),
        Binding("f1", "app.help", "help", id="toolreport.help"),
    ]

    def __init__(self, work: ToolWork) -> None:
        super().__init__()
        self._work = work

    def compose(self) -> ComposeResult:
        """Title and one block of lines."""
        right = "done" if isinstance(self._work.result, ToolReport) else ""
        yield TitleLine("tools", self._work.tool, right=right)
        with VerticalScroll(id="body", can_focus=True):
            yield Lines(id="report")
        yield Footer(compact=True)

    def on_mount(self) -> None:
        """The first size may have come before there was anything to fill."""
        self._fill()

    def on_resize(self) -> None:
        """Fold for the new width."""
        self._fill()

    def _fill(self) -> None:
        if self.query("#report"):
            lines = lines_of(self._work, host(self).signs, max(20, self.size.width - 4))
            self.query_one("#report", Lines).show(lines)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Info looks into a network that was written."""
        if action == "look":
            result = self._work.result
            return isinstance(result, ToolReport) and result.tool != "merge"
        return True

    def action_tools(self) -> None:
        """Past the form, to the list."""
        self.dismiss()
        self.app.call_later(self._pop_form)

    def _pop_form(self) -> None:
        from lyctui.screens.tools_form import ToolFormScreen

        if isinstance(self.app.screen, ToolFormScreen):
            self.app.screen.dismiss()

    def action_look(self) -> None:
        """What the new file is, as Info tells it."""
        from lyctui.screens.tools_run import ToolRunScreen

        if isinstance(self._work.result, ToolReport):
            work = ToolWork("info", InfoRequest(source=self._work.result.output))
            self.app.push_screen(ToolRunScreen(work), self._looked)

    def _looked(self, work: ToolWork | None) -> None:
        if work is None or work.cancelled:
            return
        if work.problems:
            host(self).show_problems(work.problems, report=work.report)
        else:
            self.app.push_screen(ToolReportScreen(work))
