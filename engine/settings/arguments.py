"""What an optimizer is given beside its rate: fields, lines of name=value, and its own defaults. No torch."""

from __future__ import annotations

import ast
import difflib
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.errors import Problem
from engine.settings.optimizers import OPTIMIZERS, Argument, Optimizer

if TYPE_CHECKING:
    from engine.settings.optim import Optim

PATH = "optim.arguments"
NEXT = re.compile(r"[\s;]+(?=[A-Za-z_]\w*\s*=)")
"""Where one line holds several arguments, as guides write them."""
WORDS: dict[str, Any] = {
    "true": True, "false": False, "yes": True, "no": False, "none": None,
    "inf": math.inf, "float('inf')": math.inf,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Given:
    """Arguments read from lines, and what is wrong with the others."""

    values: dict[str, Any]
    problems: tuple[Problem, ...]


def read_arguments(optimizer: str | None, lines: Iterable[str]) -> Given:
    """Arguments by name with their values checked; a blank optimizer becomes an AdamW."""
    row = OPTIMIZERS[optimizer or "adamw"]
    values: dict[str, Any] = {}
    problems = []
    for text in (part for line in lines for part in NEXT.split(line.strip()) if part):
        name, equals, written = (piece.strip() for piece in text.partition("="))
        if not equals or not written:
            problems.append(_problem(f'An argument is written name=value (you wrote "{text}").'))
            continue
        for own, piece in _renamed(row, name, written):
            found = _argument(row, own, piece)
            if isinstance(found, Problem):
                problems.append(found)
            else:
                values[own] = found.value
    return Given(values, tuple(problems))


def resolved(optim: Optim, *, warms_up: bool = False) -> dict[str, Any]:
    """Everything the optimizer's class gets beside parameters and rates.

    The lines win over the fields, the fields over the optimizer's defaults. A field that the
    optimizer does not know has no effect.
    """
    name = optim.optimizer or "adamw"
    row = OPTIMIZERS[name]
    found = dict(row.defaults)
    if name == "prodigy":
        # Prodigy's own advice for a warmup (Mishchenko and Defazio 2024, arXiv:2306.06101).
        found |= {"safeguard_warmup": warms_up, "bias_correction": warms_up}
    found |= _fields(row, optim)
    return found | read_arguments(name, optim.arguments).values


def _fields(row: Optimizer, optim: Optim) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key in ("weight_decay", "eps"):
        value = getattr(optim, key)
        if value is not None and key in row.arguments:
            found[key] = value
    if optim.betas is not None and "betas" in row.arguments:
        own = row.defaults["betas"]
        found["betas"] = (*optim.betas, *own[2:])
    if "d_coef" in row.arguments:
        found["d_coef"] = optim.d_coef
    return found


def idle_fields(optim: Optim) -> tuple[str, ...]:
    """Keys of the fields that are set and that this optimizer does not know."""
    row = OPTIMIZERS[optim.optimizer or "adamw"]
    keys = [key for key in ("weight_decay", "betas", "eps") if getattr(optim, key) is not None]
    keys += ["d_coef"] * (optim.d_coef != 1.0)
    return tuple(key for key in keys if key not in row.arguments)


def relative_step(optim: Optim) -> bool:
    """Whether the optimizer computes its own rate from the step: Adafactor, unless it is told not to."""
    return optim.optimizer == "adafactor" and bool(resolved(optim)["relative_step"])


# one argument ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Value:
    value: Any


def _renamed(row: Optimizer, name: str, written: str) -> list[tuple[str, str]]:
    """Our names for one argument of another trainer, each with its text."""
    own = row.translated.get(name, name)
    if own == "eps" and "eps1" in row.arguments:
        # transformers' Adafactor and CAME take both at once.
        pieces = [piece for piece in written.strip("()[], ").split(",") if piece.strip()]
        return list(zip(("eps1", "eps2"), pieces, strict=False))
    if own == "beta1" and "betas" in row.arguments and row.shaped:
        return [("betas", f"{written}, {row.defaults['betas'][1]!r}")]
    return [(own, written)]


def _argument(row: Optimizer, name: str, written: str) -> _Value | Problem:
    if name in ("lr", "learning_rate"):
        return _problem("The learning rate is no argument.", "Set optim.lr instead.")
    if name in row.left_out:
        return _problem(f"{row.title} is not given {name} here: {row.left_out[name]}.")
    argument = row.arguments.get(name)
    if argument is None:
        return _unknown(row, name)
    value = _literal(argument, written)
    if isinstance(value, _Value):
        return value
    return _problem(f'{name} of {row.title} must be {argument.words} (you wrote "{written}").')


def _unknown(row: Optimizer, name: str) -> Problem:
    known = list(row.arguments)
    near = difflib.get_close_matches(name, known, 1, 0.6)
    remedy = f"Did you mean {near[0]}?" if near else f"It takes {', '.join(sorted(known))}."
    return _problem(f"{row.title} has no argument {name}.", remedy)


def _literal(argument: Argument, written: str) -> _Value | None:
    """The value that a text means, or None where it is of another kind or out of range."""
    pieces = [piece.strip() for piece in written.strip("()[], ").split(",")]
    # A comma at the end makes no list of one.
    values = [_word(piece) for piece in pieces if piece]
    if argument.kind == "numbers":
        free = values[1:] if argument.blank and values and values[0] is None else values
        right = len(values) == argument.count and all(_fits(argument, one) for one in free)
        return _Value(tuple(values)) if right else None
    if len(values) != 1:
        return None
    value = values[0]
    if argument.kind == "switch":
        return _Value(value) if isinstance(value, bool) else None
    if value is None:
        return _Value(None) if argument.blank else None
    if not _fits(argument, value):
        return None
    if argument.kind == "whole":
        return _Value(int(value)) if value == int(value) else None
    return _Value(float(value))


def _word(text: str) -> Any:
    known = text.lower()
    if known in WORDS:
        return WORDS[known]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return text


def _fits(argument: Argument, value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or math.isnan(value):
        return False
    if math.isinf(value) and not (argument.infinite and value > 0):
        return False
    low, above, below = argument.low, argument.above, argument.below
    return (
        (low is None or value >= low)
        and (above is None or value > above)
        and (below is None or value < below)
    )


def _problem(what: str, remedy: str = "") -> Problem:
    return Problem(what, remedy=remedy, path=PATH)


def shown_defaults(name: str) -> Mapping[str, Any]:
    """The optimizer's own values of the fields that it knows, for showing them."""
    row = OPTIMIZERS[name]
    return {
        key: value
        for key, value in row.defaults.items()
        if key in ("weight_decay", "eps")
        or (key == "betas" and len(value) == 2 and None not in value)
    }
