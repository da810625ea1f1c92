"""The steps of the wizard in one line, which is the title of each page."""

from __future__ import annotations

from lyctui.report import Line
from lyctui.text import UNICODE_SIGNS, Signs
from lyctui.widgets.lines import Lines

Steps = list[tuple[str, str]]
"""(name, state): "done", "here", "wrong" or "later"."""

STATE_WORDS = {"done": "done", "here": "here", "wrong": "has errors", "later": "still to come"}


def step_line(steps: Steps, signs: Signs, width: int) -> Line:
    """`lyctui  ✓ goal  ▶ MODEL  · dataset …`, shorter where there is no room."""
    marks = {
        "done": (signs.done, "done"),
        "here": (signs.here, "accent"),
        "wrong": (signs.warning, "warning"),
        "later": (signs.later, "dim"),
    }
    spans: list[tuple[str, str]] = [("lyctui", "strong")]
    full = len("lyctui") + sum(len(name) + 4 for name, _ in steps)
    for name, state in steps:
        sign, role = marks[state]
        here = state == "here"
        shown = name.upper() if here else name
        if full > width and not here:
            shown = name[:4]
        spans += [("  ", ""), (f"{sign} ", role), (shown, "strong" if here else "")]
    return tuple(spans)


class StepList(Lines):
    """Where one is: done, here, wrong, still to come."""

    DEFAULT_CSS = """
    StepList { height: 1; dock: top; background: $surface; padding: 0 1; }
    """

    def __init__(self) -> None:
        super().__init__(id="steps")
        self._steps: Steps = []

    def on_resize(self) -> None:
        """Use the room there is."""
        self.show_steps(self._steps)

    def show_steps(self, steps: Steps) -> None:
        """Show where one is."""
        self._steps = steps
        signs = getattr(self.app, "signs", UNICODE_SIGNS)
        self.show([step_line(steps, signs, max(20, self.size.width))])

    def words(self) -> str:
        """The same in words, for the help page."""
        return ", ".join(f"{name}: {STATE_WORDS[state]}" for name, state in self._steps)


__all__ = ["StepList", "Steps", "step_line"]
