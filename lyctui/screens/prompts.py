"""The prompts of a run, changed while it runs: the next pictures are made with them."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.screen import Screen
from textual.widgets import Button, Footer, TextArea

from engine.errors import EngineError
from engine.runs import RunFolder
from lyctui import text
from lyctui.host import host
from lyctui.report import Line, folded
from lyctui.widgets.lines import Lines
from lyctui.widgets.title import TitleLine

LARGEST = 1_000_000
"""Bytes of the file that are shown."""
HELP = """
One prompt a line; "#" begins a remark. At the end of a line flags set --w width, --h height, --d seed,
--s steps, --l guidance, --n negative prompt and --ss sampler.

The run reads the file before each set of pictures. Pictures of a changed prompt cannot be compared with
those from before; add a line rather than changing one.
"""


class PromptsScreen(Screen[None]):
    """`samples/prompts.txt`, with its mistakes said before it is written."""

    AUTO_FOCUS = "#prompts"
    HELP: ClassVar[str | None] = HELP
    DEFAULT_CSS = """
    PromptsScreen #prompts { height: 1fr; border: none; padding: 0 1; }
    PromptsScreen #wrong { height: auto; padding: 0 1; }
    PromptsScreen .buttons { height: 1; padding: 0 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+n", "keep", "use these", id="prompts.keep", tooltip="Write the prompts"),
        Binding("escape", "dismiss", "leave as it was", id="prompts.back", key_display="Esc"),
        Binding("f1", "app.help", "help", id="prompts.help", key_display="F1"),
    ]

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._path = prompts_file(folder)

    def compose(self) -> ComposeResult:
        """Title, text, what is wrong, two ways out."""
        yield TitleLine("prompts", right=self._path.name)
        yield TextArea(_text_of(self._path), id="prompts", tab_behavior="focus")
        yield Lines(id="wrong")
        with Horizontal(classes="buttons"):
            yield Button("Use these  ^N", id="keep")
            yield Button("Leave as it was  Esc", id="leave")
        yield Footer(compact=True, show_command_palette=False)

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """A button was chosen."""
        if event.button.id == "keep":
            self.action_keep()
        else:
            self.dismiss()

    def action_keep(self) -> None:
        """Write the prompts if they can be read; else say what is wrong and stay."""
        from engine.checkpoint.atomic import write_text
        from engine.prompts import parse_prompts

        typed = self.query_one("#prompts", TextArea).text
        try:
            parse_prompts([typed])
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_text(self._path, typed if typed.endswith("\n") else f"{typed}\n")
        except EngineError as error:
            self._say([f"{one.where.partition(', ')[2]}: {one.what}" for one in error.problems])
        except OSError as error:
            self._say([f"{text.home(self._path)} cannot be written: {error.strerror}"])
        else:
            self.dismiss()

    def _say(self, wrong: list[str]) -> None:
        sign = host(self).signs.error
        lines: list[Line] = [((f"{sign} ", "error"), (text.inert(one), "")) for one in wrong[:4]]
        self.query_one("#wrong", Lines).show(folded(lines, max(20, self.size.width - 2)))


def prompts_file(folder: Path) -> Path:
    """Where a run keeps the prompts that it reads before each set of pictures."""
    return RunFolder(folder).samples / "prompts.txt"


def _text_of(path: Path) -> str:
    """The file as it may be shown: control characters would move the cursor."""
    try:
        with path.open("rb") as file:
            raw = file.read(LARGEST).decode("utf-8-sig", "replace")
    except OSError:
        return ""
    return text.inert(raw, lines=True)
