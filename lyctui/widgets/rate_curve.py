"""The learning rate of the run that is planned, drawn small: what the numbers of the schedule come to."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from engine.settings.walk import number_text
from lyctui import text
from lyctui.report import Line
from lyctui.widgets.chart import LABEL_WIDTH, Scale, ascii_rows, braille_rows
from lyctui.widgets.lines import Lines

if TYPE_CHECKING:
    from engine.plan import Plan

ROWS = 3
WIDEST = 72
TIGHT = 40


def rate_lines(plan: Plan | None, width: int, *, ascii_only: bool) -> list[Line]:
    """The curve in a few rows, its highest rate and the steps at which something begins or ends.

    Nothing while the steps are not known.
    """
    if plan is None or not plan.steps or width < TIGHT:
        return []
    from engine.settings.idle import follows_no_schedule

    recipe = plan.recipe
    rate = recipe.optim.unet_lr or recipe.optim.te_lr or recipe.optim.lr or 0.0
    idle = follows_no_schedule(recipe)
    if rate <= 0 or (idle and recipe.optim.optimizer == "adafactor"):
        return [((text.fit(f"  No curve: {idle or 'nothing is trained'}.", width), "dim"),)]
    across = min(width, WIDEST) - LABEL_WIDTH - 2
    factor = _factor(plan)
    return [*_drawn(factor, rate, plan.steps, across, ascii_only), _caption(plan, width)]


def _factor(plan: Plan) -> Callable[[int], float]:
    from engine.planning.curve import curve_of

    recipe = plan.recipe
    curve = curve_of(recipe, plan.steps)
    rate = recipe.optim.unet_lr or recipe.optim.te_lr or recipe.optim.lr or 0.0
    return lambda step: curve.factor(step, rate)


def _drawn(
    factor: Callable[[int], float], rate: float, steps: int, across: int, ascii_only: bool
) -> list[Line]:
    dots_x, dots_y = (1, 1) if ascii_only else (2, 4)
    columns = across * dots_x
    values = [factor(min(steps - 1, slot * steps // columns)) for slot in range(columns)]
    top = max(1.0, *values)
    scale = Scale(0.0, top, ROWS * dots_y, log=False)
    curve: list[tuple[int, int] | None] = []
    before = None
    for value in values:
        row = scale.row(value)
        # Joined with the column before, so that a restart is a line and not a gap.
        start = row if before is None else before + (row > before) - (row < before)
        curve.append((min(start, row), max(start, row)))
        before = row
    rows = (ascii_rows if ascii_only else braille_rows)([None] * columns, curve, ROWS, across)
    labels = {0: number_text(rate * top), ROWS - 1: "0"}
    tick, line = ("+", "|") if ascii_only else ("┤", "│")
    return [
        (
            (f"{labels.get(row, ''):>{LABEL_WIDTH}}", "dim"),
            (f" {tick if row in labels else line}", "dim"),
            *spans,
        )
        for row, spans in enumerate(rows)
    ]


def _caption(plan: Plan, width: int) -> Line:
    """ "cosine · 300 steps · warmup 30 · text encoder to 150"."""
    from engine.planning.curve import curve_of
    from lyctui.run_numbers import run_numbers

    recipe, numbers = plan.recipe, run_numbers(plan)
    curve = curve_of(recipe, plan.steps)
    parts = [curve.scheduler.replace("_", " "), text.counted(plan.steps, "step")]
    if curve.warmup:
        parts.append(f"warmup {text.grouped(curve.warmup)}")
    if "te_stop_step" in numbers:
        parts.append(f"text encoder to {numbers['te_stop_step']}")
    words = " · ".join(parts)
    return ((f"{'':{LABEL_WIDTH}}  {text.fit(words, width - LABEL_WIDTH - 2)}", "dim"),)


class RateCurve(Lines):
    """Four rows on the training page."""

    def tell(self, plan: Plan | None, width: int, *, ascii_only: bool) -> None:
        """Draw the newest plan."""
        self.show(rate_lines(plan, width, ascii_only=ascii_only))
        self.display = bool(self._lines)
