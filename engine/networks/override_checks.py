"""What is wrong with settings for some of the layers, in words. No torch."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from functools import lru_cache
from types import UnionType
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin, get_type_hints

from engine.errors import Problem
from engine.networks.choice import Choice
from engine.networks.presets import nearest

if TYPE_CHECKING:
    from engine.networks.overrides import Override

PATH = "network.overrides"
SIZES = ("rank", "alpha", "conv_rank", "conv_alpha")
_RANKS = frozenset({"rank", "conv_rank"})
_FACTORS = frozenset({*SIZES, "rs_lora", "tucker", "scalar", "dora"})

APPLIES: dict[str, frozenset[str]] = {
    "lora": _FACTORS,
    "locon": _FACTORS,
    "loha": _FACTORS,
    "lokr": _FACTORS | {"factor", "decompose_both", "unbalanced"},
    "ia3": frozenset({"train_on_input"}),
    "dylora": frozenset({*SIZES, "rs_lora", "block_size", "detach_lower"}),
    "glora": frozenset({*SIZES, "rs_lora", "scalar"}),
    "diag-oft": _RANKS | {"constraint", "rescaled"},
    "boft": _RANKS | {"constraint", "rescaled"},
    "full": frozenset(),
    "t-lora": frozenset(
        {*SIZES, "sig_type", "use_data_init", "min_rank", "mask_alpha", "orthogonality"}
    ),
    "norm": frozenset(),
}
"""What may be set for each algorithm."""
OPTIONS = frozenset().union(*APPLIES.values()) - frozenset(SIZES)
WITH_FULL_RANK = frozenset({"lokr", "ia3", "full", "norm"})
LEAST = {
    "rank": 1,
    "alpha": 0,
    "conv_rank": 0,
    "conv_alpha": 0,
    "factor": -1,
    "block_size": 1,
    "constraint": 0,
    "min_rank": 1,
    "mask_alpha": 0,
}


def mistakes(override: Override, choice: Choice | None = None) -> list[Problem]:
    """Everything that is wrong with an override itself, and in a network of this choice."""
    found = [words] if (words := _bad_pattern(override.pattern)) else []
    given = override.changes()
    if override.exclude and (given or override.algorithm):
        found.append("it leaves its layers out, so nothing else can be set for them")
    elif not (override.exclude or given or override.algorithm):
        found.append("it changes nothing")
    found += bad_values(given)
    algorithm = override.algorithm or (choice.algorithm if choice else None)
    if algorithm == "norm" and (override.algorithm or given):
        found.append("norm is for norm layers only; they are trained with network.train_norm")
    elif override.algorithm is not None and override.algorithm not in APPLIES:
        near = nearest(override.algorithm, APPLIES)
        hint = f"; did you mean {near}?" if near else f" (known: {', '.join(APPLIES)})"
        found.append(f"there is no algorithm {override.algorithm!r}{hint}")
    elif algorithm is not None:
        found += [
            f"{name} does not apply to {algorithm}"
            for name in given
            if name in _hints() and name not in APPLIES[algorithm]
        ]
        if choice is not None and not found:
            found += _bad_size(override.applied(choice))
    return [Problem(sentence(what), f"override '{override.pattern}'", path=PATH) for what in found]


def sentence(words: str) -> str:
    """Words with a capital and an end."""
    return words[:1].upper() + words[1:] + ("" if words.endswith("?") else ".")


def _bad_pattern(pattern: str) -> str:
    if not pattern:
        return "its pattern is empty"
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        return f"its pattern is no regular expression: {error}"
    return ""


def bad_values(given: Mapping[str, Any]) -> list[str]:
    """What is wrong with sizes and options, whatever the algorithm."""
    found = []
    for name, value in given.items():
        hint = _hints().get(name)
        if hint is None:
            near = nearest(name, _hints())
            found.append(
                f"there is no option {name!r}" + (f"; did you mean {near}?" if near else "")
            )
        elif not _fits(value, hint):
            found.append(f"{name} must be {_words(hint)} (you wrote {value!r})")
        elif isinstance(value, int | float) and value < LEAST.get(name, value):
            found.append(f"{name} must be at least {LEAST[name]} (you wrote {value!r})")
    return found


def _bad_size(own: Choice) -> list[str]:
    """Sizes that do not fit the algorithm which the override ends up with."""
    found = []
    for name in sorted(_RANKS, reverse=True):
        rank = getattr(own, name)
        if rank == "full" and own.algorithm not in WITH_FULL_RANK:
            found.append(f"{own.algorithm} has no full rank; give {name} a number")
        elif own.algorithm == "dylora" and isinstance(rank, int) and rank % own.block_size:
            found.append(f"block_size {own.block_size} does not divide {name} {rank}")
    return found


@lru_cache(maxsize=1)
def _hints() -> dict[str, Any]:
    """Types of all that may be set."""
    hints = get_type_hints(Choice, localns={"Override": object})
    return {name: hints[name] for name in (*SIZES, *sorted(OPTIONS))}


def _fits(value: object, hint: Any) -> bool:
    if get_origin(hint) in (Union, UnionType):
        return any(_fits(value, one) for one in get_args(hint))
    if get_origin(hint) is Literal:
        return isinstance(value, str) and value in get_args(hint)
    if hint is float:
        return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]
    return type(value) is hint


def _words(hint: Any) -> str:
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(_words(one) for one in get_args(hint) if one is not type(None))
    if get_origin(hint) is Literal:
        return " or ".join(repr(one) for one in get_args(hint))
    return {bool: "true or false", int: "a whole number", float: "a number"}[hint]
