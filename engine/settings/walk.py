"""Rows over the declaration: every setting with its type, range, default and help in words.

Form, flags, `explain`, the comments of a recipe file and the page of the docs are made from these rows.
"""

from __future__ import annotations

import math
import types
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MultipleOf
from pydantic.fields import FieldInfo

from engine.settings.ask import Ask, Level, Section
from engine.settings.data import Folder
from engine.settings.network import Network, NetworkSection, Override
from engine.settings.recipe import Recipe

Kind = Literal[
    "switch",
    "whole",
    "number",
    "text",
    "path",
    "choice",
    "pair",
    "numbers",
    "lines",
    "folders",
    "overrides",
    "mixed",
]
KIND_WORDS: dict[Kind, str] = {
    "switch": "true or false",
    "whole": "whole number",
    "number": "number",
    "text": "text",
    "path": "file or folder",
    "choice": "one of",
    "pair": "two numbers",
    "numbers": "list of whole numbers",
    "lines": "list of texts",
    "folders": "list of folders",
    "overrides": "list of patterns with settings",
    "mixed": "whole number or word",
}


@dataclass(frozen=True, slots=True)
class Bounds:
    """Range of a number, as declared."""

    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None
    multiple: int | None = None

    def words(self) -> str:
        """ "1 to 64", "at least 0 and below 1", "above 0", or nothing."""
        parts = []
        if self.low is not None and self.high is not None:
            parts.append(f"{number_text(self.low)} to {number_text(self.high)}")
        elif self.low is not None:
            parts.append(f"at least {number_text(self.low)}")
        if self.above is not None:
            parts.append(f"above {number_text(self.above)}")
        if self.high is not None and self.low is None:
            parts.append(f"at most {number_text(self.high)}")
        if self.below is not None:
            parts.append(f"below {number_text(self.below)}")
        if self.multiple is not None:
            parts.append(f"a multiple of {self.multiple}")
        return " and ".join(parts)


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting, for everything that shows or reads it."""

    path: str
    """Dotted path: "optim.lr"."""
    ask: Ask
    help: str
    kind: Kind
    default: Any
    choices: tuple[str, ...] = ()
    bounds: Bounds = Bounds()
    nullable: bool = False
    """Whether it may be left blank."""
    algorithms: tuple[str, ...] = ()
    """Algorithms that have it, for settings of the network; empty elsewhere."""

    @property
    def section(self) -> str:
        """First half of the path."""
        return self.path.partition(".")[0]

    @property
    def key(self) -> str:
        """Second half of the path."""
        return self.path.partition(".")[2]

    @property
    def label(self) -> str:
        """Its name for people."""
        return self.ask.label

    @property
    def level(self) -> Level:
        """basic, advanced or expert."""
        return self.ask.level

    @property
    def range(self) -> str:
        """Range in words, empty where there is none."""
        return self.bounds.words()

    @property
    def type(self) -> str:
        """Type, choices and range in words."""
        words = KIND_WORDS[self.kind]
        if self.kind == "choice":
            words = f"{words}: {', '.join(self.choices)}"
        elif self.kind == "mixed":
            words = f"whole number or {', '.join(self.choices)}"
        return f"{words}, {self.range}" if self.range else words

    @property
    def default_text(self) -> str:
        """The default in words: a value with its unit, or what a blank one means."""
        if self.default is None:
            return self.ask.blank or "unset"
        text = value_text(self.default)
        if self.kind not in ("whole", "number"):
            return text
        unit = self.ask.unit.removesuffix("s") if self.default == 1 else self.ask.unit
        return f"{text} {unit}".strip()


def settings(recipe: Recipe | type[Recipe] = Recipe) -> tuple[Setting, ...]:
    """Every setting in the order of declaration; of a recipe only those that its algorithm has."""
    if isinstance(recipe, type):
        return _rows("")
    return _rows(recipe.network.algorithm)


def setting(path: str, algorithm: str = "") -> Setting | None:
    """The setting of a dotted path as one algorithm has it, or as all do; None where there is none."""
    return _by_path(algorithm).get(path)


def entry_settings(kind: type[Section]) -> tuple[Setting, ...]:
    """The keys of one entry of a list of tables, such as an override; their paths have no section."""
    return tuple(_row(f".{key}", info, ()) for key, info in kind.model_fields.items())


def sections() -> dict[str, str]:
    """Every section with the first line of its docstring."""
    found = {}
    for name, arms in _sections():
        words = (NetworkSection.__doc__ if len(arms) > 1 else arms[0].__doc__) or ""
        found[name] = words.strip().splitlines()[0]
    return found


def algorithms() -> tuple[str, ...]:
    """Names of every algorithm."""
    return tuple(name for arm in network_arms() for name in algorithm_names(arm))


def network_arms() -> tuple[type[Section], ...]:
    """The sections that `network` may be, one for each algorithm."""
    return get_args(get_args(Network)[0])


def algorithm_names(arm: type[Section]) -> tuple[str, ...]:
    """What `algorithm` may be in one of the network's sections."""
    return get_args(arm.model_fields["algorithm"].annotation)


@lru_cache(maxsize=32)
def _rows(algorithm: str) -> tuple[Setting, ...]:
    """The rows of one algorithm, or of all of them joined."""
    rows: dict[str, Setting] = {}
    for name, arms in _sections():
        for arm in arms:
            owners = algorithm_names(arm) if len(arms) > 1 else ()
            if algorithm and owners and algorithm not in owners:
                continue
            # Pydantic lists inherited keys first; an algorithm's own ones are what is asked first.
            for key in sorted(arm.model_fields, key=lambda key: _place(arm, key)):
                row = _row(f"{name}.{key}", arm.model_fields[key], owners)
                known = rows.get(row.path)
                rows[row.path] = row if known is None else _joined(known, row)
    return tuple(rows.values())


def _place(arm: type[Section], key: str) -> tuple[bool, bool]:
    return key not in ("algorithm", "rank", "alpha"), key not in arm.__annotations__


@lru_cache(maxsize=32)
def _by_path(algorithm: str) -> dict[str, Setting]:
    return {row.path: row for row in _rows(algorithm)}


def _sections() -> Iterator[tuple[str, tuple[type[Section], ...]]]:
    for name, info in Recipe.model_fields.items():
        if name == "network":
            yield name, network_arms()
        elif isinstance(info.annotation, type) and issubclass(info.annotation, Section):
            yield name, (info.annotation,)


def _row(path: str, info: FieldInfo, owners: tuple[str, ...]) -> Setting:
    ask = next((one for one in info.metadata if isinstance(one, Ask)), None)
    annotation, nullable, rules = _core(info.annotation, info.metadata)
    kind, choices, more = _kind(annotation)
    return Setting(
        path=path,
        ask=ask or Ask(path.rpartition(".")[2].replace("_", " "), "expert"),
        help=info.description or "",
        kind=kind,
        default=None if info.is_required() else info.get_default(call_default_factory=True),
        choices=choices,
        bounds=_bounds([*rules, *more]),
        nullable=nullable,
        algorithms=owners,
    )


def _joined(first: Setting, second: Setting) -> Setting:
    """One row for a key that several algorithms have, each in its own words."""
    both = (*first.algorithms, *second.algorithms)
    choices = tuple(dict.fromkeys((*first.choices, *second.choices)))
    owners = " and ".join(second.algorithms)
    help_text = first.help
    # What the first of them says holds for all that are not named.
    if not first.help.startswith(second.help):
        help_text += f" For {owners}: {second.help[0].lower()}{second.help[1:]}"
    kind: Kind = first.kind if first.kind == second.kind else "mixed"
    ask = first.ask
    if first.ask.blank != second.ask.blank:
        blank = f"{first.ask.blank}; {second.ask.blank} for {owners}"
        ask = Ask(ask.label, ask.level, ask.unit, ask.flag, blank, ask.kind)
    same = first.bounds == second.bounds
    return Setting(
        first.path, ask, help_text, kind, first.default, choices,
        first.bounds if same else Bounds(low=first.bounds.low), first.nullable, both,
    )  # fmt: skip


def _core(annotation: Any, metadata: list[Any]) -> tuple[Any, bool, list[Any]]:
    """The annotation without Annotated and None, whether it may be blank, and all rules."""
    rules, nullable = list(metadata), False
    while True:
        if get_origin(annotation) is Annotated:
            annotation, *more = get_args(annotation)
            rules += more
        elif get_origin(annotation) in (Union, types.UnionType):
            every = get_args(annotation)
            arms = [arm for arm in every if arm is not type(None)]
            nullable = nullable or len(arms) < len(every)
            if len(arms) > 1:
                return annotation, nullable, rules
            annotation = arms[0]
        else:
            return annotation, nullable, rules


SIMPLE: dict[Any, Kind] = {
    bool: "switch", int: "whole", float: "number", str: "text", Path: "path"
}  # fmt: skip


def kind_of(info: FieldInfo) -> tuple[Kind, tuple[str, ...], list[Any]]:
    """Kind, choices and rules of a field of any section."""
    annotation, _, rules = _core(info.annotation, info.metadata)
    kind, choices, more = _kind(annotation)
    return kind, choices, [*rules, *more]


def _kind(annotation: Any) -> tuple[Kind, tuple[str, ...], list[Any]]:
    """Kind, choices, and rules found inside."""
    if annotation in SIMPLE:
        return SIMPLE[annotation], (), []
    origin = get_origin(annotation)
    if origin is Literal:
        return "choice", tuple(str(one) for one in get_args(annotation)), []
    if origin is tuple:
        item, _, rules = _core(get_args(annotation)[0], [])
        if item is Folder:
            return "folders", (), []
        if item is Override:
            return "overrides", (), []
        if item is str:
            return "lines", (), []
        return "numbers" if get_args(annotation)[-1] is Ellipsis else "pair", (), rules
    choices: list[str] = []
    rules = []
    for arm in get_args(annotation):
        inner, _, more = _core(arm, [])
        rules += more
        if get_origin(inner) is Literal:
            choices += [str(one) for one in get_args(inner)]
    return "mixed", tuple(choices), rules


def _bounds(rules: list[Any]) -> Bounds:
    found: dict[str, Any] = {}
    for rule in rules:
        match rule:
            case Ge(ge=value):
                found["low"] = value
            case Gt(gt=value):
                found["above"] = value
            case Le(le=value):
                found["high"] = value
            case Lt(lt=value):
                found["below"] = value
            case MultipleOf(multiple_of=value):
                found["multiple"] = value
    return Bounds(**found)


def number_text(value: Any) -> str:
    """A number as people write it: 2500, 0.5, 1e-4."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return str(value)
    if value == int(value) and abs(value) < 1e15:
        return str(int(value))
    if 0 < abs(value) < 1e-2:
        mantissa, _, exponent = f"{value:.12e}".partition("e")
        short = f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
        if float(short) == value:
            return short
    return repr(value)


def value_text(value: Any) -> str:
    """A value in one line, as `--set` reads it back."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return ", ".join(value_text(one) for one in value) or "none"
    if isinstance(value, str):
        return value or "empty"
    return number_text(value)
