"""A file tool at work: how far it is, and stopping it between two tensors."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.screen import ModalScreen, Screen
from textual.widgets import Button, Footer, Static

from lyctui import text
from lyctui.host import host
from lyctui.report import Line, folded
from lyctui.text import Signs
from lyctui.tool_work import Stand, ToolWork
from lyctui.widgets.lines import Lines
from lyctui.widgets.title import TitleLine

HELP = """
The file appears under its name only when it is whole. x or Esc stops before the next tensor and removes
what was begun. When the terminal is lost, the tool finishes without it.
"""


def work_lines(work: ToolWork, stand: Stand, width: int, signs: Signs) -> list[Line]:
    """Bar, count, name and time."""
    percent = f"{int(stand.share * 100):3} %"
    room = max(4, width - len(percent) - 2)
    full = int(stand.share * room)
    lines: list[Line] = [
        (
            (signs.full * full, "accent"),
            (signs.empty * (room - full), "empty"),
            (f"  {percent}", ""),
        ),
        ((_step_words(work, stand), "strong"),),
        ((text.fit_middle(text.inert(stand.name), width), "dim"),),
        ((f"{text.duration(stand.seconds)} elapsed", ""),),
        (),
    ]
    if work.output is not None:
        lines += folded([(("Writes  ", "dim"), (text.home(work.output), ""))], width)
    if work.stopping:
        lines += [(), ((f"{signs.warning} Stopping before the next tensor.", "warning"),)]
    return lines


def _step_words(work: ToolWork, stand: Stand) -> str:
    if not stand.total:
        return "loading torch and opening the files"
    if stand.done >= stand.total:
        return "writing the file to the disk" if work.output else "reading"
    return f"{work.unit} {text.grouped(stand.done + 1)} of {text.grouped(stand.total)}"


class ToolRunScreen(Screen[ToolWork | None]):
    """Starts the work and gives it back when it has ended."""

    HELP = HELP
    DEFAULT_CSS = """
    ToolRunScreen #body { height: 1fr; padding: 1 2; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("x,escape", "cancel", "stop", id="toolrun.cancel", tooltip="Stop; leave nothing"),
        Binding("f1", "app.help", "help", id="toolrun.help"),
    ]

    def __init__(self, work: ToolWork) -> None:
        super().__init__()
        self._work = work

    def compose(self) -> ComposeResult:
        """Title and one block of lines."""
        yield TitleLine("tools", self._work.tool, right="at work")
        with VerticalScroll(id="body", can_focus=False):
            yield Lines(id="work")
        yield Footer(compact=True)

    def on_mount(self) -> None:
        """Begin; look at it a few times a second."""
        self.app.tool = self._work  # type: ignore[attr-defined]
        self._work.start()
        self.set_interval(host(self).poll_seconds, self._look)
        self._look()

    def on_resize(self) -> None:
        """Use the room there is."""
        self._look()

    def _look(self) -> None:
        if not self.query("#work"):
            return
        stand = self._work.stand()
        lines = work_lines(self._work, stand, max(20, self.size.width - 4), host(self).signs)
        self.query_one("#work", Lines).show(lines)
        if self._work.output is not None and stand.total:
            host(self).window_title(f"{int(stand.share * 100)} % {self._work.tool}")
        # Help or the question before leaving may lie on top; the end waits for them.
        if not self._work.live and not self._work.seen and self.app.screen is self:
            self._work.seen = True
            self.dismiss(self._work)

    def action_cancel(self) -> None:
        """Stop before the next tensor."""
        self._work.cancel()
        self._look()


class LeaveToolScreen(ModalScreen[str]):
    """Leaving while a tool works: stay, stop it, or let it finish without the screen."""

    AUTO_FOCUS = "#stay"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("n,escape", "choose('')", "Stay", id="leavetool.stay"),
        Binding("y", "choose('stop')", "Stop and leave", id="leavetool.stop"),
        Binding("k", "choose('keep')", "Let it finish", id="leavetool.keep"),
        Binding("left", "app.focus_previous", show=False),
        Binding("right", "app.focus_next", show=False),
    ]

    def __init__(self, work: ToolWork) -> None:
        super().__init__()
        self._work = work

    def compose(self) -> ComposeResult:
        """What is lost, and three ways."""
        with Vertical(classes="dialog"):
            yield Static("Leave while a tool works?", classes="strong", markup=False)
            yield Static(
                "Stopping removes what was begun: no file is written. Letting it finish closes the "
                "screen only, and the terminal says when the file is there.",
                classes="dim",
                markup=False,
            )
            with Horizontal(classes="buttons"):
                yield Button("Stay (n)", id="stay")
                yield Button("Stop and leave (y)", id="stop")
                yield Button("Let it finish (k)", id="keep")

    def on_mount(self) -> None:
        """The question falls away when the tool ends meanwhile."""
        self.set_interval(0.25, self._look)

    def _look(self) -> None:
        if not self._work.live and self.app.screen is self:
            self.dismiss("")

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """A button was chosen."""
        self.action_choose("" if event.button.id == "stay" else str(event.button.id))

    def action_choose(self, choice: str) -> None:
        """Close with the choice."""
        self.dismiss(choice)
