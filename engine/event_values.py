"""Whether the values of an event are of the kinds its class declares.

A run's events may come from anywhere: a folder that was sent, another program, a disk that failed.
Whoever shows them counts on numbers that are numbers.
"""

from __future__ import annotations

import functools
import math
import types
from collections.abc import Mapping
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

LARGEST = 1 << 53
"""Of whole numbers: more than JSON carries exactly, and more than any run counts."""
LATEST = 1e11
"""Of a moment, in seconds since 1970: the year 5138, which every clock here can still show."""
MAY_FAIL = frozenset(["loss", "grad_norm", "held_out", "trained"])
"""Numbers that are infinite or none where training goes wrong."""


def fitting(kind: type, values: Mapping[str, Any]) -> bool:
    """Whether every value is of its field's kind; fields that are missing are not asked for."""
    hints = _hints(kind)
    return all(_fits(value, hints[name], name) for name, value in values.items())


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _fits(value: object, hint: Any, name: str) -> bool:
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, one, name) for one in get_args(hint))
    if origin is Literal:
        return value in get_args(hint)
    if origin is tuple:
        item = get_args(hint)[0]
        return isinstance(value, tuple) and all(_fits(one, item, name) for one in value)
    if origin is dict:
        item = get_args(hint)[1]
        return isinstance(value, dict) and all(_fits(one, item, name) for one in value.values())
    if hint is int:
        return type(value) is int and 0 <= value <= LARGEST
    if hint is float:
        return type(value) in (int, float) and _is_sane(value, name)  # type: ignore[arg-type]
    return isinstance(value, hint)


def _is_sane(number: float, name: str) -> bool:
    if name in MAY_FAIL:
        return True
    return math.isfinite(number) and abs(number) <= LATEST
