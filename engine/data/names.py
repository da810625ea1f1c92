"""Folder names: `<repeats>_<token class text>`, read and written."""

from __future__ import annotations

import re
from dataclasses import dataclass

MOST_REPEATS = 10_000

_NAMED = re.compile(r"([0-9]+)(?:_(.*))?", re.DOTALL)
_NEGATIVE = re.compile(r"-[0-9]+_.*", re.DOTALL)
# Digits of any script, a sign, a decimal part or another separator: a number of repeats was meant.
_MEANT = re.compile(r"\s*\+?(\d+)(?:[.,]\d+)?\s*[_\- ]\s*(\S.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class FolderName:
    """What a folder name says. `repeats` is None for a free folder."""

    repeats: int | None
    text: str
    notice: str = ""
    """Read as it stands, though something else may be meant."""
    rename: str = ""
    """A better name, where this one looks mistyped."""
    refused: str = ""
    """Why the name cannot be used."""


def parse_folder_name(name: str) -> FolderName:
    """Read a name: ASCII digits before the first underscore are repeats, the rest is text."""
    if match := _NAMED.fullmatch(name):
        return _named(match[1], match[2] or "")
    if _NEGATIVE.fullmatch(name):
        better = name.lstrip("-")
        return FolderName(None, name, rename=better, refused="Repeats cannot be negative.")
    if match := _MEANT.fullmatch(name):
        return FolderName(None, name, rename=f"{int(match[1][:9])}_{match[2].strip()}")
    return FolderName(None, name)


def _named(digits: str, text: str) -> FolderName:
    # Nine digits are more than enough, and int() refuses very long ones.
    repeats = int(digits) if len(digits.lstrip("0")) <= 9 else 10**9
    if repeats > MOST_REPEATS:
        return FolderName(
            None,
            text,
            rename=f"1_{text}",
            refused=f"The name asks for more than {MOST_REPEATS} repeats of each picture.",
        )
    notice = ""
    if text.startswith("_"):
        notice = "The class text begins with an underscore."
    elif re.match(r"[0-9]+_", text):
        notice = "Only the digits before the first underscore are repeats; the rest is class text."
    return FolderName(repeats, text.strip(), notice=notice)


def folder_name(trigger: str, class_word: str, repeats: int) -> str:
    """The folder name that trigger, class and repeats make: `10_vexilo emblem`."""
    words = " ".join(word for word in (*trigger.split(), *class_word.split()))
    # A slash would make two folders of one.
    return f"{repeats}_{words.replace('/', '-')}"


def class_text(trigger: str, class_word: str) -> str:
    """The text that trigger and class make; the caption of pictures without one."""
    return " ".join((*trigger.split(), *class_word.split()))
