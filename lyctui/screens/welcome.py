"""The first screen: what this machine is, and what one may want to do."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.message import Message
from textual.screen import Screen
from textual.widgets import Footer, Static

from engine import program_version
from engine.runs import RunInfo, default_runs_folder, list_runs
from lyctui import terminal, text
from lyctui.background import Latest
from lyctui.draft import Draft, list_drafts
from lyctui.host import Host
from lyctui.report import Line
from lyctui.widgets.lines import Lines
from lyctui.widgets.menu import Menu, Row
from lyctui.widgets.title import TitleLine
from lyctui.wizard import Wizard

if TYPE_CHECKING:
    from engine.hardware import Hardware


@dataclass(frozen=True, slots=True)
class Machine:
    """What the first lines tell."""

    hardware: Hardware
    disk_free: int
    runs_folder: Path


@dataclass(frozen=True, slots=True)
class Shelf:
    """What there is to go on with."""

    drafts: tuple[Draft, ...] = ()
    unreadable: int = 0
    resumable: tuple[RunInfo, ...] = ()
    running: tuple[RunInfo, ...] = ()
    others: tuple[RunInfo, ...] = field(default=())


@dataclass
class Read(Message):
    """Machine or shelf were read."""

    what: Any


def read_machine() -> Machine:
    """Hardware without torch, and the disk of the runs."""
    from engine.hardware import disk_free, read_hardware

    folder = default_runs_folder()
    return Machine(read_hardware(), disk_free(folder), folder)


def read_shelf() -> Shelf:
    """Drafts and runs."""
    drafts = list_drafts()
    runs = list_runs(default_runs_folder())
    return Shelf(
        drafts.drafts,
        len(drafts.unreadable),
        tuple(run for run in runs if run.resumable),
        tuple(run for run in runs if run.state == "running"),
        tuple(run for run in runs if run.state == "finished"),
    )


def machine_lines(machine: Machine | None) -> list[Line]:
    """GPU, memory, disk."""
    if machine is None:
        return [(("  reading the hardware …", "dim"),), ()]
    hardware = machine.hardware
    lines: list[Line] = []
    from engine.hardware import NO_GPU, describe_gpu

    for gpu in hardware.usable:
        first, *rest = text.wrap(text.inert(describe_gpu(gpu)), 76)
        lines += [((f"  {first}", ""),), *(((f"         {line}", ""),) for line in rest)]
    if not hardware.usable:
        lines.append(((f"  {NO_GPU}", "warning"),))
    ram = f"{text.memory(hardware.ram_total)}, {hardware.ram_free / 2**30:.1f} free"
    disk = f"{text.filesize(machine.disk_free)} free in "
    lines.append(
        (
            ("  RAM    ", "dim"),
            (ram, ""),
            ("   CPU  ", "dim"),
            (f"{hardware.cores} cores", ""),
        )
    )
    place = text.fit_middle(text.home(machine.runs_folder), 44)
    lines.append((("  Disk   ", "dim"), (disk, ""), (place, "")))
    return lines


def menu_rows(shelf: Shelf) -> list[Row]:
    """Only what there is."""
    rows = [Row("new", "Train something new", "from pictures to a network file")]
    if shelf.drafts:
        newest = shelf.drafts[0]
        more = f" and {len(shelf.drafts) - 1} more" if len(shelf.drafts) > 1 else ""
        title = text.fit(text.inert(newest.title), 20)
        words = f"“{title}”, {newest.page} page, {text.age(newest.saved_at)}{more}"
        rows.append(Row("drafts", "Continue a draft", words))
    if shelf.resumable or shelf.others:
        rows.append(Row("resume", "Resume a run", _run_words(shelf.resumable or shelf.others)))
    rows.append(
        Row("file", "Continue from a network file", "a .safetensors of any kind of network")
    )
    if shelf.running:
        rows.append(Row("watch", "Watch a running one", _run_words(shelf.running)))
    rows.append(Row("tools", "Tools", "info, merge, extract, resize, convert"))
    rows.append(Row("demo", "Demo", "two minutes, no GPU, nothing to download"))
    rows.append(Row("import", "Import a kohya configuration", "kohya_ss JSON, sd-scripts TOML"))
    return rows


def _run_words(runs: tuple[RunInfo, ...]) -> str:
    run = runs[0]
    name = text.fit(text.inert(run.name), 16)
    steps = (
        f"step {text.grouped(run.step)} of {text.grouped(run.total_steps)}"
        if run.total_steps
        else ""
    )
    more = f" and {len(runs) - 1} more" if len(runs) > 1 else ""
    return f"{name} {run.state}{', ' if steps else ''}{steps}{more}"


class WelcomeScreen(Screen[None]):
    """Hardware in three lines, a menu, and what happens when the line drops."""

    CSS_PATH = "../styles/wizard.tcss"
    HELP = (
        "You need a base model (Stable Diffusion 1, 2 or XL) and 15 to 50 pictures. Without either, "
        "the demo shows the whole way with a tiny model that is built in. Nothing leaves this machine."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("1", "choose('1')", "choose", key_display="1-8"),
        *(Binding(str(digit), f"choose('{digit}')", show=False) for digit in range(2, 9)),
        Binding("f1", "app.help", "help", id="welcome.help"),
        # The app's own binding has priority and is hidden; this one stands in the footer.
        Binding("ctrl+q", "app.leave", "leave", id="welcome.leave", priority=True),
    ]

    def __init__(self, draft: Draft | None = None) -> None:
        super().__init__()
        self.machine: Machine | None = None
        self.shelf = Shelf()
        self._draft = draft
        """Answers given on the command line: the wizard opens with them."""
        self._reader: Latest[Any] = Latest("welcome", self._answered)
        self._shelf_reader: Latest[Any] = Latest("shelf", self._answered)

    def compose(self) -> ComposeResult:
        """Title, machine, menu, a hint."""
        yield TitleLine("welcome", right=_host_name())
        with VerticalScroll(id="body", can_focus=False):
            yield Lines([()])
            yield Lines(id="machine")
            yield Static("What do you want to do?", classes="question", markup=False)
            yield Menu(id="menu", title_cells=28)
            yield Lines(id="hints")
        yield Footer(compact=True)

    def on_mount(self) -> None:
        """Paint first, read then."""
        self._show()
        self.query_one(Menu).focus()
        self._reader.ask(lambda wanted: read_machine())
        self._shelf_reader.ask(lambda wanted: read_shelf())
        if self._draft is not None:
            draft, self._draft = self._draft, None
            self.call_after_refresh(self.open_wizard, draft)

    def on_unmount(self) -> None:
        """Nobody waits any more."""
        self._reader.close()
        self._shelf_reader.close()

    def on_screen_resume(self) -> None:
        """Drafts and runs may have changed meanwhile."""
        self._shelf_reader.ask(lambda wanted: read_shelf())

    def _answered(self, answer: Any) -> None:
        self.post_message(Read(answer))

    @on(Read)
    def _read(self, event: Read) -> None:
        event.stop()
        if isinstance(event.what, Machine):
            self.machine = event.what
        elif isinstance(event.what, Shelf):
            self.shelf = event.what
        self._show()

    def _show(self) -> None:
        self.query_one("#machine", Lines).show(machine_lines(self.machine))
        self.query_one("#menu", Menu).show_rows(menu_rows(self.shelf))
        self.query_one("#hints", Lines).show([(), *self._hints()])

    def _hints(self) -> Iterable[Line]:
        for note in self.machine.hardware.notes if self.machine else ():
            for place, line in enumerate(text.wrap(text.inert(note), 74)):
                yield ((f"{'  ! ' if not place else '    '}{line}", "warning"),)
        if terminal.over_ssh() and not terminal.in_multiplexer():
            yield (
                (
                    "You are connected over SSH outside tmux. If the line drops, training goes on;",
                    "dim",
                ),
            )
            yield (("come back with:  lyctui watch     (tmux keeps the screen, too)", "dim"),)
        if self.shelf.unreadable:
            words = text.counted(self.shelf.unreadable, "draft")
            yield ((f"! {words} cannot be read; the files are left alone.", "warning"),)

    # choosing -----------------------------------------------------------------------------

    def action_choose(self, digit: str) -> None:
        """A digit, wherever the focus is."""
        self.query_one(Menu).pick_digit(digit)

    @on(Menu.Chosen)
    def _chosen(self, event: Menu.Chosen) -> None:
        event.stop()
        from lyctui.screens.drafts import DraftsScreen
        from lyctui.screens.imported import ImportScreen
        from lyctui.screens.resume import NetworkFileScreen, ResumeScreen, WatchScreen
        from lyctui.screens.tools import ToolsScreen

        match event.key:
            case "new":
                self.open_wizard(Draft())
            case "drafts" if len(self.shelf.drafts) == 1:
                self.open_wizard(self.shelf.drafts[0])
            case "drafts":
                self.app.push_screen(DraftsScreen(self.shelf.drafts), self._draft_chosen)
            case "resume":
                self.app.push_screen(ResumeScreen((*self.shelf.resumable, *self.shelf.others)))
            case "file":
                self.app.push_screen(NetworkFileScreen(), self._draft_chosen)
            case "watch" if len(self.shelf.running) == 1:
                cast(Any, self.app).watch_run(self.shelf.running[0].folder)
            case "watch":
                self.app.push_screen(WatchScreen(self.shelf.running))
            case "tools":
                self.app.push_screen(ToolsScreen())
            case "import":
                self.app.push_screen(ImportScreen(), self._draft_chosen)
            case "demo":
                cast(Any, self.app).start_demo()

    def _draft_chosen(self, draft: Draft | None) -> None:
        if draft is not None:
            self.open_wizard(draft)

    def open_wizard(self, draft: Draft) -> None:
        """The wizard at the page where the draft was left."""
        from lyctui.screens.pages import make_page

        hardware = self.machine.hardware if self.machine else None
        wizard = Wizard(draft, hardware=hardware)
        wizard.begin()
        self.app.push_screen(make_page(draft.page, wizard))

    @property
    def host(self) -> Host:
        """The app."""
        return cast(Host, self.app)


def _host_name() -> str:
    return text.inert(" · ".join(one for one in (os.uname().nodename, program_version()) if one))
