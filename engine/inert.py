"""Texts from files of strangers, made fit for a message. No torch."""

from __future__ import annotations

import re

_OBEYED = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]"
)


def inert(text: str, longest: int = 120) -> str:
    """A name from a file, fit for a message: no control characters, no escapes, not endless."""
    shown = "".join(char if char.isprintable() else "?" for char in text[:longest])
    return shown if len(text) <= longest else shown + "…"


def inert_text(text: str) -> str:
    """A text from a file with its line ends but without other control characters."""
    return "".join(char if char.isprintable() or char in "\n\t" else "?" for char in text)


def without_controls(text: str) -> str:
    """`text` without what a terminal would obey; line ends, tabs and every sign that is seen stay."""
    return text if text.isascii() and text.isprintable() else _OBEYED.sub("?", text)
