"""Leaving while a run of this process goes on."""

from __future__ import annotations

from typing import ClassVar, Literal

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.screen import ModalScreen
from textual.widgets import Button, Static

from engine.snapshot import Snapshot
from lyctui import report, text
from lyctui.monitor import LiveRun

QuitChoice = Literal["stop", "keep"]

CHOICES = (
    "Save and stop writes the exact state first: nothing is lost, and resume goes on from there. "
    "Keep training closes the screen only; a line log follows in this terminal, which may then be "
    "closed."
)
ASKED = (
    "The run was asked to save and stop, and does so at the end of this step. Leaving now does not "
    "wait for that: what was done since the last saved state is lost."
)


def loss_words(snapshot: Snapshot) -> str:
    """What leaving costs, in numbers: "step 812, last save at 750"."""
    step, saved = snapshot.step, snapshot.last_saved_step
    now = f"step {text.grouped(step)} of {text.grouped(snapshot.total_steps)}"
    if not snapshot.total_steps:
        return "The run is being prepared; no step is done yet."
    kept = (
        f"the last saved state is of step {text.grouped(saved)}"
        if saved
        else "no state is saved yet"
    )
    words = f"Training is at {now}; {kept}."
    waiting = report.waiting_words(snapshot)
    return f"{words} {waiting}" if waiting else words


class QuitScreen(ModalScreen[QuitChoice | None]):
    """Cancel has the focus; `y` saves and stops, `k` keeps training, `n` and Esc go back."""

    AUTO_FOCUS = "#cancel"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("n,escape", "choose('')", "Cancel", id="quit.cancel"),
        Binding("y", "choose('stop')", "Save and stop", id="quit.stop"),
        Binding("k", "choose('keep')", "Keep training", id="quit.keep"),
        Binding("left", "app.focus_previous", show=False),
        Binding("right", "app.focus_next", show=False),
    ]

    def __init__(self, run: LiveRun, *, asked: bool = False) -> None:
        super().__init__()
        self._run = run
        self._asked = asked
        """Saving and stopping was chosen before and is under way."""

    def compose(self) -> ComposeResult:
        """What is lost, and three ways."""
        with Vertical(classes="dialog"):
            yield Static("Leave the monitor?", classes="strong", markup=False)
            yield Static(loss_words(self._run.snapshot()), markup=False)
            yield Static(ASKED if self._asked else CHOICES, classes="dim", markup=False)
            with Horizontal(classes="buttons"):
                yield Button("Cancel (n)", id="cancel")
                yield Button("Leave unsaved (y)" if self._asked else "Save and stop (y)", id="stop")
                yield Button("Keep training (k)", id="keep")

    def on_mount(self) -> None:
        """The question falls away when the run ends meanwhile."""
        self.set_interval(0.25, self._look)

    def _look(self) -> None:
        if not self._run.live and self.app.screen is self:
            self.dismiss(None)

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """A button was chosen."""
        self.action_choose("" if event.button.id == "cancel" else str(event.button.id))

    def action_choose(self, choice: str) -> None:
        """Close with the choice."""
        self.dismiss("stop" if choice == "stop" else "keep" if choice == "keep" else None)
