"""How it is trained: batch, resolution, length, optimizer; proposed from the machine, with the reason."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from textual.widget import Widget

from lyctui import text
from lyctui.report import Line
from lyctui.screens.page import WizardPage
from lyctui.widgets.lines import Lines
from lyctui.widgets.rate_curve import RateCurve

MOST_NOTICES = 6


class TrainingPage(WizardPage):
    """Seven settings and what they come to."""

    page: ClassVar[str] = "training"
    INTRODUCTION: ClassVar[str] = (
        "Everything here has a proposal with its reason; an empty field takes it. "
        "The line below shows what it comes to."
    )

    def tail(self) -> Iterable[Widget]:
        """The curve of the learning rate, and what should be known."""
        yield RateCurve(id="rates")
        yield Lines(id="notices")

    def show_page(self) -> None:
        """The curve, then notices of the plan."""
        plan = self.wizard.plan
        room = max(30, self.query_one("#form").size.width - 5)
        curve = self.query_one("#rates", RateCurve)
        curve.tell(plan, room, ascii_only=self.host.ascii_only)
        lines: list[Line] = []
        if plan is not None:
            if plan.device.gpu is not None:
                words = f"  Device {text.inert(plan.device.name)}: {plan.device.reason}"
                lines.append(((text.fit(words, room), "dim"),))
            for notice in plan.notices[:MOST_NOTICES]:
                first, *rest = text.wrap(text.inert(notice), room)
                lines.append(((f"{self.host.signs.warning} ", "warning"), (first, "")))
                lines += [(("  " + line, ""),) for line in rest]
        self.query_one("#notices", Lines).show(lines)
