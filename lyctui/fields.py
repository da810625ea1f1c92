"""From the declaration of a setting to a form's field: its kind, its text, and back to a value.

Everything is derived: labels, ranges and help are those of `engine.settings`. The full-screen form and
the numbered questions of plain mode use the same fields and the same text.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from engine.errors import Problem
from engine.settings import Recipe
from engine.settings.ask import Level
from engine.settings.network import Override
from engine.settings.walk import Setting, algorithms, kind_of, number_text, settings, value_text

__all__ = [
    "FieldError",
    "FormField",
    "algorithms",
    "form_field",
    "form_fields",
    "from_text",
    "number_text",
    "path_text",
    "shown_value",
    "suggestion",
    "text_path",
    "to_text",
]

Kind = Literal[
    "text",
    "whole",
    "number",
    "choice",
    "switch",
    "file",
    "folder",
    "lines",
    "pair",
    "numbers",
    "folders",
    "overrides",
    "mixed",
]
MANY_LINES: frozenset[Kind] = frozenset({"lines", "folders", "overrides"})
"""Kinds with an entry on each line."""
YES, NO, AUTOMATIC = "yes", "no", ""
LEAVE_OUT = "leave out"
OVERRIDE = "mid_block.*: rank=8, alpha=4"


class FieldError(ValueError):
    """Text that is no value of its setting."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


@dataclass(frozen=True, slots=True)
class FormField:
    """One setting as a form asks it."""

    path: str
    label: str
    help: str
    level: Level
    kind: Kind
    unit: str = ""
    blank: str = ""
    """What an empty field means; empty where it must be filled."""
    choices: tuple[str, ...] = ()
    default: Any = None
    nullable: bool = False
    range: str = ""
    whole: bool = False
    """Whether the numbers of a pair are whole."""

    @property
    def section(self) -> str:
        """First half of the path."""
        return self.path.partition(".")[0]

    @property
    def picks(self) -> bool:
        """Whether the answer is one of a few."""
        return self.kind in ("choice", "switch")

    def options(self, recommended: str = "") -> list[tuple[str, str]]:
        """(what is shown, text) of every answer; the empty text takes the recommended value."""
        texts = (YES, NO) if self.kind == "switch" else self.choices
        rows = [(text, text) for text in texts]
        if self.nullable:
            shown = f"auto: {recommended}" if recommended else f"auto, {self.blank}"
            rows.insert(0, (shown, AUTOMATIC))
        return rows


def form_fields(algorithm: str = "lora", section: str = "") -> tuple[FormField, ...]:
    """Every setting of a section (or of all), with the network settings of one algorithm."""
    return tuple(one for one in _all_fields(algorithm) if not section or one.section == section)


def form_field(path: str, algorithm: str = "lora") -> FormField:
    """The field of one setting."""
    return next(one for one in _all_fields(algorithm) if one.path == path)


@lru_cache(maxsize=16)
def _all_fields(algorithm: str) -> tuple[FormField, ...]:
    known = algorithm if algorithm in algorithms() else algorithms()[0]
    recipe = Recipe.model_validate({"network": {"algorithm": known}})
    return tuple(_field(row) for row in settings(recipe))


def _field(row: Setting) -> FormField:
    is_folder = row.ask.kind == "folder"
    kind: Kind = ("folder" if is_folder else "file") if row.kind == "path" else row.kind
    # Choosing another algorithm leads to another section, so its choices are those of all.
    return FormField(
        path=row.path,
        label=row.label,
        help=row.help,
        level=row.level,
        kind=kind,
        unit=row.ask.unit,
        blank=row.ask.blank,
        choices=algorithms() if row.path == "network.algorithm" else row.choices,
        default=row.default,
        nullable=row.nullable,
        range=row.range,
        # Sides of pictures are whole numbers; the other pairs are not.
        whole=kind == "pair" and row.ask.unit == "px",
    )


# value to text ------------------------------------------------------------------------------


def to_text(form: FormField, value: Any) -> str:
    """A value as it is typed into its field."""
    if value is None:
        return ""
    match form.kind:
        case "switch":
            return YES if value else NO
        case "whole" | "number" | "mixed":
            return number_text(value)
        case "file" | "folder":
            return path_text(value)
        case "lines":
            return "\n".join(str(one) for one in value)
        case "numbers":
            return ", ".join(number_text(one) for one in value)
        case "pair":
            return (" x " if form.whole else ", ").join(number_text(one) for one in value)
        case "folders":
            return "\n".join(_folder_text(one) for one in value)
        case "overrides":
            return "\n".join(_override_text(one) for one in value)
        case _:
            return str(value)


def path_text(path: Any) -> str:
    """A path as it can be shown and typed: what no terminal can show is written \\xNN."""
    text = os.fspath(path)
    home = str(Path.home())
    if text == home or text.startswith(home + "/"):
        text = "~" + text[len(home) :]
    return "".join(one if one.isprintable() else _escaped(one) for one in text)


def _escaped(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # A byte that is not UTF-8, kept by Python as a lone surrogate.
        return f"\\x{code - 0xDC00:02x}"
    return "".join(f"\\x{byte:02x}" for byte in character.encode("utf-8", "surrogatepass"))


def text_path(text: str) -> Path:
    """The path that was typed; \\xNN is a byte unless a file of just that name exists."""
    plain = _expanded(text.strip().replace("\0", ""))
    if "\\x" not in text or os.path.lexists(plain):
        return plain
    raw = re.sub(
        rb"\\x([0-9a-fA-F]{2})",
        lambda found: bytes([int(found[1], 16)]),
        os.fsencode(str(plain)),
    )
    return Path(os.fsdecode(raw.replace(b"\0", b"")))


def _expanded(text: str) -> Path:
    """~ and ~name as folders; a ~name that is nobody stays a name."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        return Path(text)


def _folder_text(folder: Any) -> str:
    said = folder if isinstance(folder, dict) else folder.model_dump()
    parts = []
    for key in ("repeats", "text", "flip"):
        value = said.get(key)
        if value is not None:
            parts.append(f"{key}={(YES if value else NO) if key == 'flip' else value}")
    return f"{said['name']}: {', '.join(parts)}" if parts else str(said["name"])


def _override_text(override: Any) -> str:
    """`mid_block.*: rank=8, alpha=4`, or `conv_in: leave out`."""
    said = override if isinstance(override, dict) else override.model_dump(exclude_defaults=True)
    if said.get("exclude"):
        return f"{said['pattern']}: {LEAVE_OUT}"
    parts = [
        f"{key}={(YES if value else NO) if isinstance(value, bool) else value_text(value)}"
        for key, value in said.items()
        if key not in ("pattern", "exclude") and value is not None
    ]
    return f"{said['pattern']}: {', '.join(parts)}"


# text to value ------------------------------------------------------------------------------


def from_text(form: FormField, text: str) -> Any:
    """The value that was typed, None for an empty field that may be empty; raises FieldError."""
    bare = text.strip()
    if not bare and form.nullable:
        return None
    match form.kind:
        case "switch":
            return _switch(form, bare)
        case "choice":
            return _choice(form, bare)
        case "whole":
            return _whole(form, bare)
        case "number":
            return _number(form, bare)
        case "mixed":
            return _whole(form, bare) if re.match(r"[+-]?\d", bare) else bare.lower()
        case "file" | "folder":
            return str(text_path(text))
        case "lines":
            return [line.strip() for line in text.splitlines() if line.strip()]
        case "pair":
            return _pair(form, bare)
        case "numbers":
            return _numbers(form, bare)
        case "folders":
            return [_folder(form, line) for line in text.splitlines() if line.strip()]
        case "overrides":
            return [_override(form, line) for line in text.splitlines() if line.strip()]
        case _:
            return text.replace("\n", " ") if form.path.endswith(("fix", "separator")) else bare


def _wrong(form: FormField, text: str, must: str) -> FieldError:
    shown = f" (you wrote {text!r})" if text else ""
    remedy = f"It may be {form.range}." if form.range else ""
    return FieldError(
        Problem(f"{form.label} must be {must}{shown}.", remedy=remedy, path=form.path)
    )


def _switch(form: FormField, text: str) -> bool:
    if text.lower() in ("yes", "y", "true", "on", "1"):
        return True
    if text.lower() in ("no", "n", "false", "off", "0"):
        return False
    raise _wrong(form, text, "yes or no")


def _choice(form: FormField, text: str) -> str:
    for choice in form.choices:
        if choice.lower() == text.lower():
            return choice
    raise _wrong(form, text, f"one of {', '.join(form.choices)}")


def _whole(form: FormField, text: str) -> int:
    bare = re.sub(r"(?<=\d)[ _\u00a0\u202f](?=\d{3}(\D|$))", "", text)
    try:
        return int(bare)
    except ValueError:
        raise _wrong(form, text, "a whole number") from None


def _number(form: FormField, text: str) -> float:
    bare = text.replace(",", ".") if text.count(",") == 1 and "." not in text else text
    bare = re.sub(r"(?<=\d)[ _](?=\d{3}(\D|$))", "", bare)
    try:
        value = float(bare)
    except ValueError:
        raise _wrong(form, text, "a number such as 0.5 or 1e-4") from None
    if value != value or value in (float("inf"), float("-inf")):
        raise _wrong(form, text, "a finite number")
    return value


def _pair(form: FormField, text: str) -> list[Any]:
    parts = [part for part in re.split(r"[\sx×,;*]+", text.lower()) if part]
    if form.whole and len(parts) == 1:
        parts *= 2
    must = (
        "one side or two, such as 512 or 640 x 448"
        if form.whole
        else "two numbers, such as 0.9, 0.99"
    )
    if len(parts) != 2:
        raise _wrong(form, text, must)
    try:
        return [int(part) if form.whole else float(part) for part in parts]
    except ValueError:
        raise _wrong(form, text, must) from None


def _numbers(form: FormField, text: str) -> list[int]:
    try:
        return [int(part) for part in re.split(r"[\s,;]+", text) if part]
    except ValueError:
        raise _wrong(form, text, "whole numbers, such as 512, 768") from None


def _folder(form: FormField, line: str) -> dict[str, Any]:
    """`10_dog: repeats=3, text=sks dog, flip=yes`."""
    name, colon, rest = line.partition(":")
    folder: dict[str, Any] = {"name": name.strip()}
    for part in rest.split(",") if colon else ():
        key, equals, value = (one.strip() for one in part.partition("="))
        if key not in ("repeats", "text", "flip") or not equals:
            raise _wrong(form, line.strip(), "lines such as `10_dog: repeats=3, text=sks dog`")
        folder[key] = _folder_value(form, key, value)
    return folder


def _folder_value(form: FormField, key: str, value: str) -> Any:
    if key == "text":
        return value
    return _whole(form, value) if key == "repeats" else _switch(form, value)


def _override(form: FormField, line: str) -> dict[str, Any]:
    """`mid_block.*: rank=8, alpha=4`, or `conv_in: leave out`; the pattern may hold colons."""
    pattern, colon, rest = line.rpartition(":")
    if not colon:
        raise _wrong(form, line.strip(), f"lines such as `{OVERRIDE}` or `conv_in: {LEAVE_OUT}`")
    if rest.strip().lower() == LEAVE_OUT:
        return {"pattern": pattern.strip(), "exclude": True}
    found: dict[str, Any] = {"pattern": pattern.strip()}
    for part in rest.split(","):
        key, equals, value = (one.strip() for one in part.partition("="))
        if key not in Override.model_fields or not equals:
            raise _wrong(form, line.strip(), f"lines such as `{OVERRIDE}`")
        kind, _, _ = kind_of(Override.model_fields[key])
        found[key] = _entry_value(form, kind, value)
    return found


def _entry_value(form: FormField, kind: str, value: str) -> Any:
    match kind:
        case "switch":
            return _switch(form, value)
        case "number":
            return _number(form, value)
        case "whole":
            return _whole(form, value)
        case "mixed" if re.match(r"[+-]?\d", value):
            return _whole(form, value)
    return value


# what is recommended ------------------------------------------------------------------------


def shown_value(form: FormField, value: Any) -> str:
    """A value for reading: with its unit; lists in one line."""
    if value is None:
        return form.blank or "not set"
    text = to_text(form, value).replace("\n", " · ")
    if not text:
        return "empty"
    return (
        f"{text} {form.unit}".strip()
        if form.kind in ("whole", "number", "pair", "numbers")
        else text
    )


YOU_SET = ", you set "


def suggestion(form: FormField, chosen: Any, recommended: Any, *, differs: bool) -> str:
    """ "recommended 16, you set 128" where an answer replaces a recommendation."""
    if not differs or recommended is None or chosen is None:
        return ""
    first, second = to_text(form, recommended), to_text(form, chosen)
    if first == second or form.kind in MANY_LINES or form.kind in ("text", "file", "folder"):
        return ""
    return f"recommended {first}{YOU_SET}{second}"
