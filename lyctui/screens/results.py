"""What came out of a run: files, scores, pictures, where they go, and how to go on."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import Screen
from textual.widgets import Footer

from engine.events import Proved, Saved
from engine.sheet.values import Sheet
from engine.snapshot import Snapshot
from engine.toml_text import parse_toml
from lyctui import outcome, report, terminal, text
from lyctui.host import host
from lyctui.monitor import RunView
from lyctui.report import Line
from lyctui.screens.log import LogScreen
from lyctui.screens.pictures import samples_screen
from lyctui.screens.sheet import SheetScreen
from lyctui.screens.tools_run import ToolRunScreen
from lyctui.sheet_work import sheet_work
from lyctui.text import Signs
from lyctui.tool_work import ToolWork
from lyctui.widgets.lines import Lines
from lyctui.widgets.picture_pair import PicturePair, pair_of
from lyctui.widgets.title import TitleLine

MOST_FILES = 5
MOST_PICTURES = 4

HELP = """
The file that carries the name of the run is its last state; the numbered ones are from the ends of
epochs. The last is not always the best: compare the samples of several.

Put the file where the program looks, reload its list, and write the trigger into the prompt. Begin at
strength 1; lower it where the pictures are stiff or their style leaks, raise it where too little shows.
"""


class ResultsScreen(Screen[None]):
    """A finished or stopped run."""

    AUTO_FOCUS = "#body"
    HELP: ClassVar[str | None] = HELP
    DEFAULT_CSS = """
    ResultsScreen #body { height: 1fr; padding: 1 1 0 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("v", "samples", "pictures", id="results.samples", tooltip="Show the pictures"),
        Binding(
            "c", "sheet", "contact sheet", id="results.sheet", tooltip="Compare the saved files"
        ),
        Binding("l", "log", "log", id="results.log", tooltip="Show the log"),
        Binding("r", "resume", "resume", id="results.resume", tooltip="Go on with this run"),
        Binding(
            "escape",
            "back",
            "back",
            id="results.back",
            tooltip="Back to the start page",
            key_display="Esc",
        ),
        Binding("q", "app.leave", "leave", id="results.leave"),
        Binding("f1", "app.help", "help", id="results.help", key_display="F1"),
    ]

    def __init__(self, run: RunView) -> None:
        super().__init__()
        self._run = run
        self._snapshot = run.snapshot()

    def compose(self) -> ComposeResult:
        """One block of lines under the title."""
        yield TitleLine(text.inert(self._run.folder.name), report.phase_words(self._snapshot))
        with VerticalScroll(id="body", can_focus=True):
            yield Lines(id="results")
            colors = host(self).pictures.shown
            yield PicturePair(pair_of(self._snapshot, self._run.folder) if colors else ())
            yield Lines(id="onward")
        yield Footer(compact=True, show_command_palette=False)

    def on_mount(self) -> None:
        """The first size may have come before there was anything to fold."""
        self._fill()

    def on_resize(self) -> None:
        """Fold for the new width."""
        self._fill()

    def _fill(self) -> None:
        if not self.query("#onward"):
            return
        room = self.size.width - 4
        snapshot, folder = self._snapshot, self._run.folder
        came_out = result_lines(snapshot, folder, host(self).signs)
        self.query_one("#results", Lines).show(report.folded(came_out, room))
        onward: list[Line] = [(), *onward_lines(snapshot, folder, host(self).signs)]
        self.query_one("#onward", Lines).show(report.folded(onward, room))

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Only a run that has not finished can go on; there may be no page behind."""
        if action == "resume":
            return self._snapshot.state != "finished" and not self._run.live
        if action == "sheet":
            return bool(self._snapshot.files)
        if action == "back":
            return len(self.app.screen_stack) > 2
        return True

    def action_samples(self) -> None:
        """Every picture's path."""
        self.app.push_screen(samples_screen(self._snapshot, self._run.folder, host(self).pictures))

    def action_sheet(self) -> None:
        """Paint the prompts with several of the run's files at two strengths."""
        self.app.push_screen(ToolRunScreen(sheet_work(self._run.folder)), self._sheet_made)

    def _sheet_made(self, work: ToolWork | None) -> None:
        if work is None:
            return
        if isinstance(work.result, Sheet):
            self.app.push_screen(SheetScreen(work.result))
        elif work.cancelled:
            self.notify("Stopped. The pictures made so far are kept for the next time.")
        elif work.problems:
            host(self).show_problems(work.problems, report=work.report)

    def action_log(self) -> None:
        """The log file."""
        self.app.push_screen(LogScreen(self._run.folder / "run.log"))

    def action_resume(self) -> None:
        """Go on with this run."""
        host(self).resume_run(self._run.folder)

    def action_back(self) -> None:
        """To the page behind."""
        self.dismiss()


def result_lines(snapshot: Snapshot, folder: Path, signs: Signs) -> list[Line]:
    """What came out: how it ended, files, what was found in the finished one, scores."""
    return _apart(
        [
            _outcome(snapshot, signs),
            _files(snapshot, folder, signs),
            _verdict(snapshot, signs),
            _scores(snapshot),
        ]
    )


def onward_lines(snapshot: Snapshot, folder: Path, signs: Signs) -> list[Line]:
    """What to do with it: use, pictures, the next run; then what was looked at in the file."""
    return _apart(
        [
            _use(snapshot, folder),
            _pictures(snapshot, folder),
            _next(snapshot, folder),
            _findings(snapshot, signs),
        ]
    )


def _apart(blocks: list[list[Line]]) -> list[Line]:
    """Blocks with an empty line between."""
    lines: list[Line] = []
    for block in blocks:
        if block and lines:
            lines.append(())
        lines.extend(block)
    return lines


def _outcome(snapshot: Snapshot, signs: Signs) -> list[Line]:
    sign = signs.done if snapshot.state == "finished" else signs.warning
    role = "done" if snapshot.state == "finished" else "warning"
    lines: list[Line] = [((f"{sign} {outcome.result_line(snapshot)}", role),)]
    parts = []
    if snapshot.loss_mean is not None:
        parts.append(f"mean loss {text.loss(snapshot.loss_mean)}")
    if snapshot.vram_peak_bytes:
        where = "VRAM" if snapshot.vram_total_bytes else "RAM"
        parts.append(f"{where} peak {text.memory(snapshot.vram_peak_bytes)}")
    if parts:
        lines.append((("  " + ", ".join(parts), "dim"),))
    return lines


def _files(snapshot: Snapshot, folder: Path, signs: Signs) -> list[Line]:
    saved = {each.path: each for each in snapshot.log if isinstance(each, Saved)}
    shown = list(reversed(snapshot.files[-MOST_FILES:]))
    width = max((text.cells(report.within(path, folder)) for path in shown), default=0)
    lines = [_file(path, saved.get(path), folder, signs, width) for path in shown]
    more = len(snapshot.files) - MOST_FILES
    if more > 0:
        lines.append(((f"  and {more} more in {text.home(folder)}", "dim"),))
    return lines or [(("  no network file was written", "dim"),)]


def _file(path: str, saved: Saved | None, folder: Path, signs: Signs, width: int) -> Line:
    name = text.pad(report.within(path, folder), width)
    if not report.located(path, folder).exists():
        return ((f"{signs.error} {name}", "error"), ("  missing: it was moved or removed", "dim"))
    size = _size(report.located(path, folder))
    checked = saved is not None and saved.checked
    words = "read back and checked" if checked else "not checked"
    return ((f"{signs.done if checked else ' '} {name}", ""), (f"  {size}, {words}", "dim"))


def _size(path: Path) -> str:
    try:
        return text.filesize(path.stat().st_size)
    except OSError:
        return "unknown size"


def _verdict(snapshot: Snapshot, signs: Signs) -> list[Line]:
    """Whether the finished file does what was trained; every fault, where it does not."""
    proof = _proof(snapshot)
    if proof is None:
        return []
    if proof.good:
        return [((f"{signs.done} Checked: {outcome.proof_line(proof)}", ""),)]
    return [_CHECKED, *(((f"{signs.error} {text.inert(each)}", "error"),) for each in proof.faults)]


def _findings(snapshot: Snapshot, signs: Signs) -> list[Line]:
    """What was looked at in the finished file and is in order."""
    proof = _proof(snapshot)
    if proof is None or not proof.findings:
        return []
    return [_CHECKED, *(((f"{signs.done} {text.inert(each)}", ""),) for each in proof.findings)]


_CHECKED: Line = (("Checked", "strong"), ("  loaded again into the base model", "dim"))


def _proof(snapshot: Snapshot) -> Proved | None:
    """The proof of the finished file; None for runs that did not look."""
    return snapshot.proofs[-1] if snapshot.proofs and snapshot.state == "finished" else None


def _scores(snapshot: Snapshot) -> list[Line]:
    lines = outcome.score_lines(snapshot.scores)
    if not lines:
        return []
    head: Line = (("Scores, 0 to 1, judged from pictures", "strong"),)
    verdict = outcome.verdict_line(snapshot.scores)
    said: list[Line] = [((f"  {verdict}", "strong"),)] if verdict else []
    return [head, *(((f"  {line}", ""),) for line in lines), *said]


def _use(snapshot: Snapshot, folder: Path) -> list[Line]:
    lines: list[Line] = []
    prompt = _prompt(snapshot, folder)
    if prompt:
        lines.append((("Prompt   ", "dim"), (text.inert(prompt), "")))
    if snapshot.files:
        lines.append(
            (("Copy to  ", "dim"), ("ComfyUI: models/loras   A1111, Forge: models/Lora", ""))
        )
        lines.append((("Strength ", "dim"), ("begin at 1.0; try 0.6 to 1.0", "")))
        last = report.located(snapshot.files[-1], folder)
        fetch = terminal.fetch_line(str(last))
        if fetch:
            lines.append((("Fetch    ", "dim"), (text.inert(fetch), "")))
            lines.append((("         on your own machine; the address is a guess", "dim"),))
    return lines


def _prompt(snapshot: Snapshot, folder: Path) -> str:
    """A prompt to paste: the first one sampled, else the trigger of the recipe."""
    for sampled in reversed(snapshot.samples):
        if sampled.prompts:
            return sampled.prompts[0]
    return trigger(folder)


def trigger(folder: Path) -> str:
    """The trigger words of the run's recipe, or ""."""
    with contextlib.suppress(OSError, ValueError, AttributeError, RecursionError):
        recipe: dict[str, Any] = parse_toml((folder / "run.toml").read_text("utf-8"))
        data = recipe.get("data", {})
        words = [str(data.get("trigger") or ""), str(data.get("class_word") or "")]
        return " ".join(word for word in words if word)
    return ""


def _pictures(snapshot: Snapshot, folder: Path) -> list[Line]:
    # The demo lays base and trained pictures side by side here.
    compared = [folder / name for name in ("before.png", "after.png")]
    found = [path for path in compared if path.is_file()]
    if snapshot.samples:
        newest = snapshot.samples[-1]
        found.extend(report.located(path, folder) for path in newest.paths[:MOST_PICTURES])
        grid = folder / "samples" / f"{newest.step:06d}.png"
        found += [grid] if grid.is_file() else []
    if not found:
        return []
    return [
        (("Pictures", "strong"), ("  v shows them all, c compares the saved files", "dim")),
        *(((f"  {text.home(path)}", ""),) for path in found),
    ]


def _next(snapshot: Snapshot, folder: Path) -> list[Line]:
    command = outcome.resume_command(folder)
    if snapshot.state == "stopped":
        return [(("Go on    ", "dim"), (command, ""))]
    return [
        (("What next", "strong"),),
        (("  Compare the samples of the epochs: the last is not always the best.", ""),),
        (("  Too little learnt: more epochs, or a higher rank.", ""),),
        (("  Stiff, or the style leaks: an earlier epoch, or a lower strength.", ""),),
        (("  Train on from this file:", ""),),
        ((f"    lyctui resume {_last(snapshot, folder)}", ""),),
    ]


def _last(snapshot: Snapshot, folder: Path) -> str:
    import shlex

    if not snapshot.files:
        return shlex.quote(str(folder))
    return text.inert(shlex.quote(str(report.located(snapshot.files[-1], folder))))
