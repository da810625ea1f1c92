"""Puts a tool's report together while it works."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

from engine.networks.base import ALPHA
from engine.networks.dora_rules import SCALE
from engine.networks.shapes import KEPT_EXACT
from engine.tools.forms import Written
from engine.tools.requests import ModuleReport, ToolReport
from engine.tools.stream import Planned

PRECISION_NAMES = {"F32": "fp32", "F16": "fp16", "BF16": "bf16", "F64": "fp64"}


class ReportMaker:
    """What was written so far, what was left out, and what the user should know."""

    def __init__(self, tool: str, left_out: Iterable[str] = ()) -> None:
        self.tool = tool
        self.modules: list[ModuleReport] = []
        self.alphas: list[float | None] = []
        self.dora = False
        """Whether a module with magnitudes was written."""
        self._skipped = dict.fromkeys(left_out)
        self._notes: dict[str, None] = {}
        self._norm = self._lost = 0.0

    def add(self, name: str, written: Written) -> None:
        """A module that was written."""
        self.modules.append(ModuleReport(name, written.algorithm, written.rank, written.relative))
        self.dora = self.dora or SCALE in written.tensors
        alpha = written.tensors.get(ALPHA)
        self.alphas.append(None if alpha is None else float(alpha))
        self._norm = math.hypot(self._norm, written.norm)
        self._lost = math.hypot(self._lost, written.error)

    def skip(self, why: str) -> None:
        """Something that was left out, by name."""
        self._skipped[why] = None

    def note(self, text: str) -> None:
        """Something to know; told once."""
        if text:
            self._notes[text] = None

    @property
    def error(self) -> float:
        """|written - exact| / |exact| over all modules whose change was computed."""
        return self._lost / self._norm if self._norm > 0 else 0.0

    def report(self, output: Path, size: int, planned: Iterable[Planned]) -> ToolReport:
        """The finished report."""
        return ToolReport(
            self.tool,
            output,
            size,
            precision_of(planned),
            tuple(self.modules),
            self.error,
            tuple(self._skipped),
            tuple(self._notes),
        )


def precision_of(planned: Iterable[Planned]) -> str:
    """Number format of the weights: one name, or "mixed"."""
    exact = tuple(KEPT_EXACT)
    found = {
        PRECISION_NAMES.get(item.dtype, item.dtype.lower())
        for item in planned
        if not item.name.endswith(exact)
    }
    if len(found) > 1:
        return "mixed"
    return next(iter(found), "fp32")
