"""Going on: with a stopped run exactly, with a network file from its weights, or watching one."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, cast

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import Screen
from textual.widgets import Button, Footer, Static

from engine.runs import RunInfo
from lyctui import text
from lyctui.draft import Draft
from lyctui.host import Host
from lyctui.network_file import NetworkFacts, draft_from_network, read_network_facts
from lyctui.report import Line
from lyctui.screens.file_first import FileScreen
from lyctui.widgets.lines import Lines
from lyctui.widgets.menu import Menu, Row
from lyctui.widgets.path_input import PathInput
from lyctui.widgets.title import TitleLine

EXACT = "weights, optimizer state, step, learning-rate curve, order of the pictures and every random draw"


def run_row(run: RunInfo) -> Row:
    """One run in a list."""
    steps = (
        f"step {text.grouped(run.step)} of {text.grouped(run.total_steps)}"
        if run.total_steps
        else ""
    )
    parts = (run.state, steps, text.age(run.updated_at))
    return Row(str(run.folder), run.name, " · ".join(part for part in parts if part))


class _RunList(Screen[None]):
    """A list of runs; subclasses say what choosing does."""

    CSS_PATH = "../styles/wizard.tcss"
    QUESTION: ClassVar[str] = ""
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss", "back", id="runs.back"),
        Binding("f1", "app.help", "help", id="runs.help"),
    ]

    def __init__(self, runs: tuple[RunInfo, ...]) -> None:
        super().__init__()
        self.runs = {str(run.folder): run for run in runs}

    def compose(self) -> ComposeResult:
        """List and details."""
        yield TitleLine("runs")
        with VerticalScroll(id="body", can_focus=False):
            yield Static(self.QUESTION, classes="question", markup=False)
            yield Menu(title_cells=26)
            yield Lines([()])
            yield Lines(id="details")
        yield Footer(compact=True)

    def on_mount(self) -> None:
        """Fill the list."""
        self.query_one(Menu).show_rows([run_row(run) for run in self.runs.values()])
        self.query_one(Menu).focus()
        self._details()

    @on(Menu.Moved)
    def _moved(self) -> None:
        self._details()

    def _details(self) -> None:
        key = self.query_one(Menu).key_at_highlight()
        run = self.runs.get(key or "")
        self.query_one("#details", Lines).show(self.details(run) if run else [])

    def details(self, run: RunInfo) -> list[Line]:
        """What there is to know of a run."""
        return [(("  ", ""), (text.home(run.folder), "dim"))]


class ResumeScreen(_RunList):
    """Which run goes on, and what of it is exact."""

    QUESTION = "Which run goes on?"
    HELP = (
        "A stopped, failed or lost run goes on from its newest state that passes its checksums, and ends "
        "in the same file as if it had never stopped. A finished run is trained on with more epochs: "
        "lyctui resume NAME --set train.epochs=N"
    )

    def details(self, run: RunInfo) -> list[Line]:
        """Exact, fixed, fresh."""
        lines = super().details(run)
        if run.message:
            lines.append((("  Ended with  ", "dim"), (text.fit(text.inert(run.message), 60), "")))
        if not run.resumable:
            lines.append((("  Finished. Train on with more epochs: ", "dim"),))
            lines.append(((f"    lyctui resume {text.inert(run.name)} --set train.epochs=N", ""),))
            return lines
        for line in text.wrap(f"Exact: {EXACT}.", 74):
            lines.append((("  " + line, ""),))
        lines.append(
            (("  Fixed: base, pictures, network, optimizer, batch, seed. Fresh: nothing.", "dim"),)
        )
        lines.append(
            (
                (
                    "  If base, pictures or state do not fit any more, it is refused and told why.",
                    "dim",
                ),
            )
        )
        return lines

    @on(Menu.Chosen)
    def _chosen(self, event: Menu.Chosen) -> None:
        event.stop()
        run = self.runs[event.key]
        if not run.resumable:
            self.notify(
                "This run is finished; the line below says how to train it on.", severity="warning"
            )
            return
        self.app.pop_screen()
        cast(Any, self.app).resume_run(run.folder)


class WatchScreen(_RunList):
    """Which running run is shown."""

    QUESTION = "Which run do you want to watch?"
    HELP = "Watching never disturbs a run; closing the watcher neither."

    @on(Menu.Chosen)
    def _chosen(self, event: Menu.Chosen) -> None:
        event.stop()
        self.app.pop_screen()
        cast(Any, self.app).watch_run(Path(event.key))


class NetworkFileScreen(FileScreen[NetworkFacts]):
    """A network file whose weights a new run starts from; gives a draft that asks the rest."""

    HELP = (
        "The file itself stays as it is. Its weights are the start of a new run; base model and pictures "
        "are asked on the next pages."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss", "back", id="file.back"),
        Binding("ctrl+n", "next", "next", id="file.next"),
        Binding("f1", "app.help", "help", id="file.help"),
    ]

    def __init__(self) -> None:
        super().__init__("network file")

    def compose(self) -> ComposeResult:
        """Path, facts, Next."""
        yield TitleLine("continue from a network file")
        with VerticalScroll(id="body", can_focus=False):
            yield Static(
                "Which network file?  (Tab completes, Ctrl+O browses)",
                classes="question",
                markup=False,
            )
            yield PathInput("", want="file", placeholder="path of a .safetensors file")
            yield Lines([()])
            yield Lines(id="facts")
            yield Button("Next: base model and pictures", id="next", compact=True, disabled=True)
        yield Footer(compact=True)

    def read_file(self, path: Path) -> NetworkFacts:
        """What the file's header and tensors tell."""
        return read_network_facts(path)

    def lines_of(self, found: NetworkFacts) -> list[Line]:
        """The network, and what is exact, fresh and asked."""
        return fact_lines(found, cast(Host, self.app).signs.done)

    def draft_of(self, found: NetworkFacts) -> Draft:
        """A new run that starts from the file."""
        return draft_from_network(found)


def fact_lines(facts: NetworkFacts, done: str) -> list[Line]:
    """What the tensors tell, what is exact, what starts fresh, what is asked."""
    lines: list[Line] = [((f"{done} ", "done"), (text.inert(facts.words), ""))]
    lines.append(
        (
            ("  Exact   ", "dim"),
            ("the weights, with algorithm, rank, alpha and layers of the file", ""),
        )
    )
    lines.append(
        (
            ("  Fresh   ", "dim"),
            ("optimizer state, learning-rate curve, step and order of the pictures", ""),
        )
    )
    lines.append((("  Asked   ", "dim"), ("base model and pictures, on the next pages", "")))
    if facts.base:
        lines.append((("  Made on ", "dim"), (text.inert(facts.base), "")))
    return lines
