"""The file tools as forms: their fields from the requests, what each asks, and the request from the answers.

Knows no screen and imports no torch. Every field of a request has its words in `tool_words`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeAlias, Union, get_args, get_origin, get_type_hints

from engine.errors import Problem
from engine.tools.requests import (
    EXTRACT_RULES,
    RESIZE_RULES,
    ConvertRequest,
    ExtractRequest,
    JoinRequest,
    MergeRequest,
    RankRule,
    ResizeRequest,
    Weighted,
)
from lyctui.fields import NO, YES, FieldError, FormField, Kind, from_text, path_text, text_path
from lyctui.tool_words import CHOICE_WORDS, LIMIT, RULE_WORDS, Words, choice_words, words_of

Key = Literal["info", "merge", "join", "extract", "resize", "convert"]


@dataclass(frozen=True, slots=True, kw_only=True)
class InfoRequest:
    """A file to look into."""

    source: Path
    base: Path | None = None
    """For the sizes of changes that depend on it."""


Request: TypeAlias = (
    InfoRequest | ConvertRequest | MergeRequest | JoinRequest | ExtractRequest | ResizeRequest
)


@dataclass(frozen=True, slots=True)
class Tool:
    """One tool as the list shows it."""

    key: Key
    title: str
    note: str
    introduction: str
    request: type[Request]

    @property
    def writes(self) -> bool:
        """Whether it makes a file."""
        return self.request is not InfoRequest


TOOLS: tuple[Tool, ...] = (
    Tool(
        "info",
        "Info",
        "what a network file is and holds",
        "Looks into a network file and changes nothing: what it was trained with, its ranks, its size, "
        "its trigger words and what stands against using it.",
        InfoRequest,
    ),
    Tool(
        "merge",
        "Merge into a model",
        "networks into a base model, as a new model",
        "Adds the change of one or more networks to the weights of a base model and writes the sum as a "
        "new model. It is computed in full precision and rounded once.",
        MergeRequest,
    ),
    Tool(
        "join",
        "Join networks",
        "several networks as one, each at its strength",
        "Writes one network that does what several do together. The ranks of LoRAs are put side by side, "
        "which loses nothing; the file is as large as all of them.",
        JoinRequest,
    ),
    Tool(
        "extract",
        "Extract",
        "what a trained model learned, as a network",
        "Takes the difference of a trained model and the base that it was made from, and writes it as a "
        "small network. The nearer the base is to the real one, the less has to be kept.",
        ExtractRequest,
    ),
    Tool(
        "resize",
        "Resize",
        "a LoRA or LoKr with other ranks",
        "Keeps the directions of a LoRA or LoKr that matter most and drops the rest. The report says how "
        "much of the change was lost, for each layer.",
        ResizeRequest,
    ),
    Tool(
        "convert",
        "Convert",
        "for another program, another form, other names",
        "Writes a network file in another form. What a program can load stays as it is; the rest becomes "
        "the nearest form that it loads, and the report says what that costs.",
        ConvertRequest,
    ),
)


def tool_named(key: str) -> Tool:
    """A tool of the list."""
    return next(tool for tool in TOOLS if tool.key == key)


FILES: tuple[str, ...] = ("source", "base", "tuned")
"""Fields that name a file which is read."""
LAST = frozenset({"output", "force"})


# The fields -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ToolField(FormField):
    """One field; its choices have words."""

    shown: tuple[tuple[str, str], ...] = ()
    """(what is shown, text) of every choice."""

    def options(self, recommended: str = "") -> list[tuple[str, str]]:
        """(what is shown, text) of every answer."""
        return list(self.shown) or [(YES, YES), (NO, NO)]


@dataclass(slots=True)
class ToolDraft:
    """A tool's answers as text, as they are typed."""

    tool: Tool
    answers: dict[str, str] = field(default_factory=dict)
    networks: list[tuple[str, str]] = field(default_factory=list)
    """(path, strength) as typed."""

    def copy(self) -> ToolDraft:
        """For another thread."""
        return ToolDraft(self.tool, dict(self.answers), list(self.networks))

    def typed(self, path: str) -> str:
        """What was answered, without spaces around; empty where nothing was."""
        return self.answers.get(path, "").strip()

    def path(self, name: str) -> Path | None:
        """The file that a field names."""
        typed = self.typed(name)
        return text_path(typed) if typed else None

    def weighted(self) -> list[Path]:
        """The network files that were given."""
        return [text_path(path) for path, _ in self.networks if path.strip()]

    def fields(self, *, all_levels: bool = True) -> tuple[ToolField, ...]:
        """What is asked now, from top to bottom."""
        # Where it is written comes last, whatever the request's order.
        items = sorted(fields(self.tool.request), key=lambda item: item.name in LAST)
        found = [one for item in items for one in self._fields_of(item)]
        return tuple(one for one in found if all_levels or one.level == "basic")

    def _fields_of(self, item: Field[Any]) -> list[ToolField]:
        hint = _hints(self.tool.key)[item.name]
        words = words_of(self.tool.key, item.name)
        bare, nullable = _without_none(hint)
        if bare is RankRule:
            return self._rule_fields(item.name, words, nullable=nullable)
        kind, choices = _kind_of(bare)
        shown = tuple((choice_words(item.name, choice), choice) for choice in choices)
        if nullable and kind == "choice":
            shown = ((words.blank, ""), *shown)
        return [
            ToolField(
                path=item.name,
                label=words.label,
                help=words.help,
                level=words.level,
                kind=kind,
                blank=words.blank,
                choices=choices,
                default=None if item.default is MISSING else item.default,
                nullable=nullable or item.name == "output",
                shown=shown,
            )
        ]

    def _rule_fields(self, name: str, words: Words, *, nullable: bool) -> list[ToolField]:
        rules = _rules(self.tool.key)
        shown = tuple((CHOICE_WORDS[rule], rule) for rule in rules)
        if nullable:
            shown = ((words.blank, ""), *shown)
        kind_field = ToolField(
            path=f"{name}.kind",
            label=words.label,
            help=words.help,
            level=words.level,
            kind="choice",
            blank=words.blank,
            choices=rules,
            default=None if nullable else "fixed",
            nullable=nullable,
            shown=shown,
        )
        chosen = self.typed(f"{name}.kind") or ("" if nullable else "fixed")
        if not chosen:
            return [kind_field]
        about = RULE_WORDS[chosen]
        value = ToolField(
            path=f"{name}.value",
            label=about.label,
            help=about.help,
            level=words.level,
            kind="whole" if about.whole else "number",
            default=int(about.proposed) if about.whole else float(about.proposed),
            nullable=True,
            range=about.range,
        )
        limit = ToolField(
            path=f"{name}.limit",
            label=LIMIT.label,
            help=LIMIT.help,
            level=LIMIT.level,
            kind="whole",
            blank="no limit",
            nullable=True,
            range="a whole number from 1 to 16384",
        )
        return [kind_field, value] if about.whole else [kind_field, value, limit]

    # The request --------------------------------------------------------------------------

    def request(self) -> tuple[Request, tuple[Problem, ...], frozenset[str]]:
        """The request, what cannot be read of it, and the fields that still wait for an answer.

        Paths that are missing are blank in the request, which no tool takes.
        """
        values: dict[str, Any] = {}
        problems: list[Problem] = []
        missing: set[str] = set()
        asked = {one.path: one for one in self.fields()}
        for item in fields(self.tool.request):
            if item.name == "networks":
                values["networks"], found = self._weighted()
                problems += found
                if not values["networks"]:
                    missing.add("networks")
            elif item.name == "output":
                values["output"] = self.output or Path()
                if self.output is None:
                    missing.add("output")
            elif f"{item.name}.kind" in asked:
                values[item.name] = self._rule(item.name, asked, problems)
            else:
                one = asked[item.name]
                values[item.name] = self._value(one, problems)
                if one.kind == "file" and not one.nullable and values[item.name] is None:
                    values[item.name] = Path()
                    missing.add(item.name)
        request = self.tool.request(**values)
        return request, tuple(problems), frozenset(missing)

    def _value(self, one: ToolField, problems: list[Problem]) -> Any:
        typed = self.typed(one.path)
        if not typed:
            return one.default
        if one.kind == "file":
            return text_path(typed)
        try:
            return from_text(one, typed)
        except FieldError as error:
            problems.append(error.problem)
            return one.default

    def _rule(
        self, name: str, asked: dict[str, ToolField], problems: list[Problem]
    ) -> RankRule | None:
        kind = self._value(asked[f"{name}.kind"], problems)
        if not kind:
            return None
        value = self._value(asked[f"{name}.value"], problems)
        limit = asked.get(f"{name}.limit")
        return RankRule(kind, float(value), None if limit is None else self._value(limit, problems))

    def _weighted(self) -> tuple[tuple[Weighted, ...], list[Problem]]:
        found: list[Weighted] = []
        problems: list[Problem] = []
        number = FormField("networks", "The strength", "", "basic", "number")
        for path, strength in self.networks:
            if not path.strip():
                continue
            value = 1.0
            try:
                value = from_text(number, strength) if strength.strip() else 1.0
            except FieldError as error:
                problems.append(error.problem)
            found.append(Weighted(text_path(path), value))
        return tuple(found), problems

    # Where it is written ------------------------------------------------------------------

    @property
    def output(self) -> Path | None:
        """Where the file will be: as typed, else as proposed."""
        return self.path("output") or self.proposed_output()

    def proposed_output(self) -> Path | None:
        """A free name beside the file that is read; None while there is none."""
        beside = self._beside()
        if beside is None or not self.tool.writes:
            return None
        stem = f"{beside.stem}-{self._ending()}"
        place = beside.with_name(f"{stem}.safetensors")
        number = 2
        while place.exists() and number < 1000:
            place = beside.with_name(f"{stem}-{number}.safetensors")
            number += 1
        return place

    def _beside(self) -> Path | None:
        if self.tool.key == "join":
            return next(iter(self.weighted()), None)
        given = {"merge": "base", "extract": "tuned"}.get(self.tool.key, "source")
        path = self.path(given)
        # "/" and ".." have no name that another could stand beside.
        return path if path is not None and path.name not in ("", "..") else None

    def _ending(self) -> str:
        if self.tool.key == "resize" and (self.typed("rule.kind") or "fixed") == "fixed":
            typed = self.typed("rule.value") or RULE_WORDS["fixed"].proposed
            if typed.isdigit():
                return f"rank{typed}"
        if self.tool.key == "convert":
            to = self.typed("to")
            return self.typed("program") or (to if to in ("lora", "diff") else "") or "converted"
        endings = {"merge": "merged", "join": "joined", "extract": "extracted"}
        return endings.get(self.tool.key, "resized")

    def starting_folder(self) -> Path:
        """Where a picker begins: beside what was given last, else at home."""
        given = [self.path(name) for name in FILES] + [*self.weighted()]
        known = [path for path in given if path is not None]
        return known[-1].parent if known else Path.home()

    def recommended(self, one: ToolField) -> str:
        """What a blank field takes, as text."""
        if one.path == "output":
            proposed = self.proposed_output()
            return path_text(proposed) if proposed is not None else ""
        if one.kind == "switch":
            return YES if one.default else NO
        if one.kind == "choice":
            return str(one.default or "")
        if one.default is None:
            return one.blank
        return str(one.default)


@cache
def _hints(tool: str) -> dict[str, Any]:
    # Slow, and asked for at every key.
    return get_type_hints(tool_named(tool).request)


def _without_none(hint: Any) -> tuple[Any, bool]:
    if get_origin(hint) in (Union, UnionType):
        rest = [one for one in get_args(hint) if one is not NoneType]
        return rest[0], len(rest) < len(get_args(hint))
    return hint, False


def _kind_of(hint: Any) -> tuple[Kind, tuple[str, ...]]:
    if hint is Path:
        return "file", ()
    if hint is bool:
        return "switch", ()
    if get_origin(hint) is Literal:
        return "choice", tuple(str(one) for one in get_args(hint))
    return "lines", ()


def _rules(tool: str) -> tuple[str, ...]:
    own: dict[str, Sequence[str]] = {"extract": EXTRACT_RULES, "resize": RESIZE_RULES}
    return tuple(own.get(tool) or dict.fromkeys((*EXTRACT_RULES, *RESIZE_RULES)))
