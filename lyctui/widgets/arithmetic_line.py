"""The live arithmetic, always in the same place: what these answers come to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lyctui import text
from lyctui.report import Line
from lyctui.widgets.lines import Lines

if TYPE_CHECKING:
    from engine.plan import Plan


def arithmetic_lines(plan: Plan | None, busy: str, width: int) -> list[Line]:
    """Two rows: images x repeats x epochs / batch = steps; exposures, time, memory, file."""
    if plan is None or not plan.samples_per_epoch:
        return [((busy or "Steps are counted here as soon as pictures are chosen.", "dim"),), ()]
    from engine.plan import arithmetic_line

    sum_part, _, memory = arithmetic_line(plan).rpartition(", about ")
    remark = ""
    if text.cells(sum_part) > width and sum_part.endswith(")"):
        sum_part, _, remark = sum_part[:-1].rpartition(" (")
    first: Line = ((text.fit(sum_part, width), "strong"),)
    size = plan.sizes.file_bytes
    file = "file size at load" if size is None else f"file {text.filesize(size)}"
    parts = [remark, exposures(plan), f"about {memory}", file]
    if plan.seconds is not None:
        parts.insert(2, f"about {text.span(*plan.seconds)}")
    if busy:
        parts.append(busy)
    second = " · ".join(part for part in parts if part)
    if text.cells(second) > width:
        second = second.replace(" (estimate)", "").replace(" an image", "")
    if text.cells(second) > width:
        # Table and review tell the size of the file, too.
        second = second.replace(f" · {file}", "")
    return [first, ((text.fit(second, width), ""),)]


def exposures(plan: Plan) -> str:
    """How often each picture is seen, at all resolutions: as a range where that differs."""
    seen = plan.exposures
    if seen is None:
        return ""
    low, high = seen
    number = text.grouped(low) if low == high else f"{text.grouped(low)} to {text.grouped(high)}"
    return f"{number} exposures an image"


class ArithmeticLine(Lines):
    """Two rows at the foot of the form."""

    DEFAULT_CSS = """
    ArithmeticLine { height: 2; margin: 0 1; }
    """

    def __init__(self) -> None:
        super().__init__(id="arithmetic")
        self._shown: tuple[Plan | None, str] = (None, "")

    def on_resize(self) -> None:
        """Use the room there is."""
        self.tell(*self._shown)

    def tell(self, plan: Plan | None, busy: str) -> None:
        """Show the newest plan, and what is being looked at."""
        self._shown = (plan, busy)
        self.show(arithmetic_lines(plan, busy, max(20, self.size.width)))
