"""How the learning rate changes over the run."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le

from engine.settings.ask import Ask, Section

SchedulerName = Literal[
    "constant",
    "constant_with_warmup",
    "linear",
    "cosine",
    "cosine_with_restarts",
    "cosine_with_min_lr",
    "polynomial",
    "piecewise_constant",
    "inverse_sqrt",
    "warmup_stable_decay",
    "rex",
    "adafactor",
]


class Schedule(Section):
    """How the learning rate changes over the run."""

    scheduler: Annotated[SchedulerName, Ask("Schedule")] = "cosine"
    """Shape of the learning-rate curve."""
    warmup_percent: Annotated[
        float | None,
        Ge(0),
        Le(100),
        Ask("Warmup", "advanced", unit="%", blank="10, or 0 for optimizers that find the rate"),
    ] = None
    """Share of the steps in which the rate rises to its full size."""
    warmup_steps: Annotated[
        int | None, Ge(0), Ask("Warmup steps", "expert", blank="from the percentage")
    ] = None
    """The same as a number of steps; wins over the percentage."""
    cycles: Annotated[int, Ge(1), Le(100), Ask("Cycles", "advanced")] = 1
    """How often cosine_with_restarts starts again."""
    power: Annotated[float, Gt(0), Le(20), Ask("Power", "advanced")] = 1.0
    """Bend of polynomial: 1 is a straight line, more falls faster at first."""
    min_lr_ratio: Annotated[float, Ge(0), Le(1), Ask("Lowest rate", "advanced")] = 0.1
    """Share of the rate at which cosine_with_min_lr and warmup_stable_decay end."""
    decay_percent: Annotated[float, Ge(0), Le(100), Ask("Decay", "advanced", unit="%")] = 20.0
    """Share of the steps in which warmup_stable_decay falls, at the end."""
    rules: Annotated[str, Ask("Piecewise rules", "expert")] = ""
    """For piecewise_constant: "1:500,0.1:800,0.01" is the full rate to step 500, a tenth to 800."""


MOST_RULES = 100


def piecewise_rules(text: str) -> tuple[tuple[tuple[int, float], ...], float]:
    """Rules of `piecewise_constant`: (step before which, factor) in order, and the factor after them.

    Raises ValueError with the mistake in words.
    """
    *pieces, last = (piece.strip() for piece in text.split(","))
    if len(pieces) > MOST_RULES:
        raise ValueError(f"at most {MOST_RULES} changes are read")
    steps: list[tuple[int, float]] = []
    for piece in pieces:
        factor, colon, until = (part.strip() for part in piece.partition(":"))
        if not colon or not until.isascii() or not until.isdigit():
            raise ValueError(f'"{piece}" is not factor:step')
        if steps and int(until) <= steps[-1][0]:
            raise ValueError(f"step {int(until)} does not come after step {steps[-1][0]}")
        steps.append((int(until), _factor(factor)))
    if ":" in last:
        raise ValueError("the factor after the last step is missing")
    return tuple(steps), _factor(last)


def _factor(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 100:
        raise ValueError(f'"{text}" is not a factor from 0 to 100')
    return value
