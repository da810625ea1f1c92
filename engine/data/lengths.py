"""Captions longer than the text encoder reads: named with the words that are lost."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence

from engine.data.captions import CaptionRules, longest_captions
from engine.data.findings import Finding, Findings, shown
from engine.data.survey import Item

Read = Callable[[str], tuple[str, Sequence[tuple[int, int]]]]
"""A text as the encoder reads it (without the brackets of weights), and where its tokens are in it.

Start and end tokens are not among them.
"""

LOST_SHOWN = 60
"""Characters of the lost words that a finding shows."""


def lost_words(text: str, spans: Sequence[tuple[int, int]], most: int) -> str:
    """The end of a text that is not read: from the first word that is cut on; "" where all is read."""
    if len(spans) <= most:
        return ""
    start = spans[most][0]
    # A word that is cut in its middle is lost as a whole.
    while start > 0 and text[start].isalnum() and text[start - 1].isalnum():
        start -= 1
    return text[start:].strip()


def cut_captions(
    items: Sequence[Item], rules: CaptionRules, read: Read, most: int
) -> tuple[Finding, ...]:
    """A finding for every folder with captions of which more than `most` tokens could be drawn."""
    findings = Findings()
    known: dict[tuple[str, bool], str] = {}
    for item in items:
        key = (item.caption_raw, item.is_reg)
        if key not in known:
            own = rules.for_reg() if item.is_reg else rules
            known[key] = _lost(item.caption_raw, own, read, most)
        if known[key]:
            folder, name = item.image.path.parent, item.image.path.name
            findings.add("caption cut", folder, name, detail=known[key])
    return findings.done()


def _lost(raw: str, rules: CaptionRules, read: Read, most: int) -> str:
    for caption in longest_captions(raw, rules):
        # A token is a byte at least, of the text as it is folded before.
        if len(unicodedata.normalize("NFC", caption.lower()).encode()) <= most:
            continue
        text, spans = read(caption)
        words = lost_words(text, spans, most)
        if words:
            cut = words if len(words) <= LOST_SHOWN else f"{words[:LOST_SHOWN]}…"
            return f"{len(spans)} tokens, lost: {shown(cut)}"
    return ""
