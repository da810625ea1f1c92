"""Texts from files of strangers, made fit for a message. No torch."""

from __future__ import annotations


def inert(text: str, longest: int = 120) -> str:
    """A name from a file, fit for a message: no control characters, no escapes, not endless."""
    shown = "".join(char if char.isprintable() else "?" for char in text[:longest])
    return shown if len(text) <= longest else shown + "…"


def inert_text(text: str) -> str:
    """A text from a file with its line ends but without other control characters."""
    return "".join(char if char.isprintable() or char in "\n\t" else "?" for char in text)
