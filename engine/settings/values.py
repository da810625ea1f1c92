"""Text of a `--set` into the value of its setting."""

from __future__ import annotations

import re
import tomllib
from typing import Any

from engine.settings.walk import Setting
from engine.toml_text import parse_toml

SWITCHES = {
    "true": True, "yes": True, "on": True, "false": False, "no": False, "off": False
}  # fmt: skip


def read_value(row: Setting, text: str) -> Any:
    """The value that text means for a setting. What cannot be read stays text, for the check to refuse."""
    bare = text.strip()
    if bare.lower() == "auto" and not _takes_auto(row):
        return None
    if not bare:
        # Of what cannot be unset, empty text and an empty list are values.
        empty: dict[str, Any] = {
            "text": "", "numbers": [], "lines": [], "folders": [], "overrides": []
        }  # fmt: skip
        return None if row.nullable else empty.get(row.kind)
    match row.kind:
        case "text" | "path" | "choice":
            return _quoted(bare)
        case "switch":
            return SWITCHES.get(bare.lower(), bare)
        case "whole" | "number":
            return _number(bare)
        case "mixed":
            value = _number(_quoted(bare))
            return value.lower() if isinstance(value, str) else value
        case "pair":
            return _pair(bare)
        case "numbers":
            return [_number(part) for part in re.split(r"[\s\[\],]+", bare) if part]
        case "lines":
            value = _toml(bare)
            return value if isinstance(value, list) else [_quoted(bare)]
    return _toml(bare)


def _takes_auto(row: Setting) -> bool:
    """Whether "auto" is a value of its own."""
    return (
        "auto" in row.choices or row.default == "auto" or (row.kind == "text" and not row.nullable)
    )


def _quoted(text: str) -> str:
    """The text without the quotes that a TOML string has."""
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
        value = _toml(text)
        return value if isinstance(value, str) else text
    return text


def _number(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _pair(text: str) -> Any:
    """ "512", "640x448", "0.9, 0.99" or a TOML array."""
    parts = [part for part in re.split(r"[\s\[\],x×]+", text.lower()) if part]
    numbers = [_number(part) for part in parts]
    return numbers * 2 if len(numbers) == 1 and isinstance(numbers[0], int) else numbers


def _toml(text: str) -> Any:
    """A TOML value, or the text itself where it is none."""
    try:
        return parse_toml(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
