"""The file tools: which one, with what it does in a sentence."""

from __future__ import annotations

from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import Screen
from textual.widgets import Footer, Static

from lyctui.tool_forms import TOOLS, ToolDraft, tool_named
from lyctui.widgets.guide_panel import GuidePanel
from lyctui.widgets.menu import Menu, Row
from lyctui.widgets.title import TitleLine

HELP = """
The tools read network files and base models and write new ones. What they read stays as it is, and a
file that is there already is never replaced unless Overwrite says so.

Each file is written under a temporary name and appears only when it is whole, so a stopped tool leaves
nothing. The same tools are verbs of the command line: lyctui info, merge, extract, resize, convert.
"""


class ToolsScreen(Screen[None]):
    """A list of tools; answers of each are kept while the list is open."""

    CSS_PATH = "../styles/wizard.tcss"
    HELP = HELP
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("1", "choose('1')", "choose", key_display="1-6"),
        *(Binding(str(digit), f"choose('{digit}')", show=False) for digit in range(2, 7)),
        Binding("escape", "dismiss", "back", id="tools.back"),
        Binding("f1", "app.help", "help", id="tools.help"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._drafts = {tool.key: ToolDraft(tool) for tool in TOOLS}

    def compose(self) -> ComposeResult:
        """A list and an explanation."""
        yield TitleLine("tools")
        with VerticalScroll(id="body", can_focus=False):
            yield Static("What do you want to do with a file?", classes="question", markup=False)
            yield Menu(id="tools", title_cells=20)
        yield GuidePanel()
        yield Footer(compact=True)

    def on_mount(self) -> None:
        """Fill the list."""
        menu = self.query_one(Menu)
        menu.show_rows([Row(tool.key, tool.title, tool.note) for tool in TOOLS])
        menu.focus()

    @on(Menu.Moved)
    def _moved(self, event: Menu.Moved) -> None:
        event.stop()
        self.query_one(GuidePanel).say(tool_named(event.key).introduction)

    def action_choose(self, digit: str) -> None:
        """A digit, wherever the focus is."""
        self.query_one(Menu).pick_digit(digit)

    @on(Menu.Chosen)
    def _chosen(self, event: Menu.Chosen) -> None:
        event.stop()
        from lyctui.screens.tools_form import ToolFormScreen

        draft = next(one for key, one in self._drafts.items() if key == event.key)
        self.app.push_screen(ToolFormScreen(draft))
