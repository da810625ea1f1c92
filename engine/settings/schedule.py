"""How the learning rate changes over the run."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Le

from engine.settings.ask import Ask, Section


class Schedule(Section):
    """How the learning rate changes over the run."""

    scheduler: Annotated[
        Literal["constant", "linear", "cosine", "cosine_with_restarts"], Ask("Schedule")
    ] = "cosine"
    """Shape of the learning-rate curve."""
    warmup_percent: Annotated[
        float | None,
        Ge(0),
        Le(100),
        Ask("Warmup", "advanced", unit="%", blank="10, or 0 for Prodigy"),
    ] = None
    """Share of the steps in which the rate rises to its full size."""
    warmup_steps: Annotated[
        int | None, Ge(0), Ask("Warmup steps", "expert", blank="from the percentage")
    ] = None
    """The same as a number of steps; wins over the percentage."""
    cycles: Annotated[int, Ge(1), Le(100), Ask("Cycles", "advanced")] = 1
    """How often cosine_with_restarts starts again."""
