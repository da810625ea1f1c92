"""The file tools as forms: their fields from the requests, what each asks, and the request from the answers.

Knows no screen and imports no torch. Every field of a request has its words in `WORDS`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeAlias, Union, cast, get_args, get_origin, get_type_hints

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

Level = Literal["basic", "advanced"]
Key = Literal["info", "merge", "join", "extract", "resize", "convert"]


@dataclass(frozen=True, slots=True, kw_only=True)
class InfoRequest:
    """A file to look into."""

    source: Path


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


# The words ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Words:
    """How a field is asked."""

    label: str
    help: str
    level: Level = "basic"
    blank: str = ""


WORDS: dict[str, Words] = {
    "source": Words(
        "Network file",
        "The file that is read: .safetensors of any layout. It stays as it is.",
    ),
    "base": Words(
        "Base model",
        "The model that the network was trained on, a single .safetensors file. Only some forms need it: "
        "DoRA, (IA)³ and rotations change a layer by what the layer is.",
        "advanced",
        "none",
    ),
    "merge.base": Words(
        "Base model",
        "The model that the networks are added to, a single .safetensors file of their family. It stays "
        "as it is.",
    ),
    "extract.base": Words(
        "Base model",
        "What the trained model was made from, a single .safetensors file. With another base the "
        "difference holds everything in which the two differ.",
    ),
    "tuned": Words(
        "Trained model",
        "The model whose learning becomes a network: a single .safetensors file of the base's family.",
    ),
    "networks": Words(
        "Networks",
        "Each file with its strength; 1 is as it was trained, 0.5 half of it, a negative one takes it "
        "away. A new row opens below the last; an empty row is not counted.",
    ),
    "output": Words(
        "Write to",
        "Path of the new file. Blank takes the proposed name beside the file that is read. Ctrl+O chooses "
        "the folder.",
    ),
    "force": Words(
        "Overwrite",
        "With no, a file that has this name already is never touched. With yes it is replaced, at the end "
        "and only when the new one is whole.",
    ),
    "program": Words(
        "For program",
        "Where the file will be used. Form, layout and names are chosen so that this program computes what "
        "was trained. Blank leaves all that as it is.",
        blank="any: leave as it is",
    ),
    "to": Words(
        "Becomes",
        "The form of every module. A LoRA loads everywhere and may lose a little; a whole difference is "
        "exact and as large as the layers themselves.",
    ),
    "join.to": Words(
        "Becomes",
        "As it is puts the ranks of LoRAs side by side, which is exact, and makes a LoRA of the rest. A "
        "whole difference is exact and as large as the layers themselves.",
    ),
    "names": Words(
        "Module names",
        "How the layers are called in the file. As they are suits every program that loads the file now; "
        "the dotted names of PEFT are those of diffusers' own files.",
        "advanced",
    ),
    "glora": Words(
        "GLoRA layout",
        "Two layouts of GLoRA are about: the old one is what A1111 loads. Blank leaves what the file has, "
        "or what the program needs.",
        "advanced",
        "as it is",
    ),
    "precision": Words(
        "Numbers",
        "Number format of the weights. fp16 halves an fp32 file and is what networks usually have; bf16 "
        "has the range of fp32 with fewer digits.",
        "advanced",
    ),
    "diff": Words(
        "Whole differences",
        "Write the exact difference of every layer instead of a LoRA: large, and nothing is lost but the "
        "rounding.",
        "advanced",
    ),
    "norms": Words(
        "Norm layers",
        "Write what the norm layers learned, too. Not every program loads that.",
        "advanced",
    ),
    "unet": Words("U-Net", "Compare the U-Net, which draws.", "advanced"),
    "text": Words("Text encoder", "Compare the text encoder, which reads prompts.", "advanced"),
    "rule": Words("Keep by", "How many directions of each layer's change are kept."),
    "convert.rule": Words(
        "Keep by",
        "How many directions of each change are kept where a module becomes a LoRA. Blank keeps what is "
        "exact, else at most rank 64.",
        "advanced",
        "what is exact",
    ),
    "join.rule": Words(
        "Keep by",
        "How many directions of each change are kept where a module becomes a LoRA. Blank keeps what is "
        "exact, else at most rank 64.",
        "advanced",
        "what is exact",
    ),
    "extract.conv_rule": Words(
        "Convolutions by",
        "The same for convolutions with a kernel larger than one pixel. Blank treats them as the others; "
        "a rank of 0 leaves them out.",
        "advanced",
        "the same",
    ),
    "conv_rule": Words(
        "Convolutions by",
        "The same for convolutions with a kernel larger than one pixel. Blank treats them as the others.",
        "advanced",
        "the same",
    ),
}
"""By field of a request, or by tool and field where one tool means it differently."""

CHOICE_WORDS: dict[str, str] = {
    "comfyui": "ComfyUI",
    "a1111": "A1111",
    "forge": "Forge",
    "diffusers": "diffusers",
    "lycoris": "LyCORIS",
    "keep": "as it is",
    "lora": "LoRA",
    "diff": "whole difference",
    "fixed": "a rank",
    "threshold": "a threshold",
    "ratio": "share of the largest",
    "quantile": "share of the sum",
    "error": "error at most",
    "sv_ratio": "largest divided by",
    "sv_fro": "share of the norm",
    "sv_cumulative": "cumulative share",
}
NAMES_WORDS = {"keep": "as they are", "diffusers": "kohya, diffusers' blocks", "peft": "PEFT"}
NAMES_WORDS |= {"sgm": "kohya, original blocks", "kohya": "kohya, the usual"}


@dataclass(frozen=True, slots=True)
class RuleWords:
    """What the number of a rank rule is."""

    label: str
    help: str
    range: str
    proposed: str
    whole: bool = False


RULE_WORDS: dict[str, RuleWords] = {
    "fixed": RuleWords(
        "Rank",
        "Every layer keeps this many directions; the file's size follows from it.",
        "a whole number from 1 to 16384",
        "32",
        whole=True,
    ),
    "threshold": RuleWords(
        "Keep above",
        "Directions whose singular value is above this number are kept.",
        "0 or more",
        "0.01",
    ),
    "ratio": RuleWords(
        "Share of largest",
        "Directions above this share of the layer's largest singular value are kept.",
        "a number between 0 and 1",
        "0.05",
    ),
    "quantile": RuleWords(
        "Share of sum",
        "The first directions, until their singular values make up this share of the sum.",
        "a number between 0 and 1",
        "0.9",
    ),
    "error": RuleWords(
        "Error at most",
        "As few directions as keep the relative error of each layer's change at or below this.",
        "a number between 0 and 1",
        "0.05",
    ),
    "sv_ratio": RuleWords(
        "Divided by",
        "Directions above the largest singular value divided by this number are kept.",
        "a number above 1",
        "20",
    ),
    "sv_fro": RuleWords(
        "Share of norm",
        "As few directions as keep this share of the Frobenius norm.",
        "a number between 0 and 1",
        "0.95",
    ),
    "sv_cumulative": RuleWords(
        "Share of sum",
        "As few directions as keep this share of the sum of singular values.",
        "a number between 0 and 1",
        "0.9",
    ),
}
LIMIT = Words("Rank at most", "Whatever the rule finds, never more than this rank.", "advanced")
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
        hint = _hints(self.tool.request)[item.name]
        words = words_of(self.tool.key, item.name)
        bare, nullable = _without_none(hint)
        if bare is RankRule:
            return self._rule_fields(item.name, words, nullable=nullable)
        kind, choices = _kind_of(bare)
        shown = tuple((_shown(item.name, choice), choice) for choice in choices)
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
        request = cast(Request, self.tool.request(**values))
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


def words_of(tool: str, name: str) -> Words:
    """The words of a request's field."""
    return WORDS.get(f"{tool}.{name}") or WORDS[name]


@cache
def _hints(request: type[Request]) -> dict[str, Any]:
    # Slow, and asked for at every key.
    return get_type_hints(request)


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


def _shown(name: str, choice: str) -> str:
    if name == "names":
        return NAMES_WORDS.get(choice, choice)
    return CHOICE_WORDS.get(choice, choice)


def _rules(tool: str) -> tuple[str, ...]:
    own: dict[str, Sequence[str]] = {"extract": EXTRACT_RULES, "resize": RESIZE_RULES}
    return tuple(own.get(tool) or dict.fromkeys((*EXTRACT_RULES, *RESIZE_RULES)))
