"""Captions with weights, as AUTOMATIC1111's program writes them: "(word:1.3)", "(word)", "[word]". No torch.

Only brackets that close count: ":)" and a bracket that somebody forgot to close are plain text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

STRONGER = 1.1
"""What a pair of round brackets without a number multiplies by; square ones divide by it."""
LARGEST_WEIGHT = 100.0
PAIRS = {")": "(", "]": "["}
TOKEN = re.compile(r"\\[\\()\[\]]|[()\[\]]|[^\\()\[\]]+|\\")
NUMBER = re.compile(r":\s*([+-]?(?:\d{1,4}(?:\.\d{0,6})?|\.\d{1,6}))\s*$")


@dataclass(slots=True)
class _Bracket:
    """A pair that closes, by the places of its two tokens."""

    last: int
    weight: float


@dataclass(slots=True)
class _Pieces:
    """Texts with their weights; neighbours of one weight are one text."""

    found: list[tuple[str, float]] = field(default_factory=list)

    def add(self, text: str, weight: float) -> None:
        if not text:
            return
        if self.found and self.found[-1][1] == weight:
            self.found[-1] = (self.found[-1][0] + text, weight)
        else:
            self.found.append((text, weight))


def parse_weighted(text: str) -> list[tuple[str, float]]:
    """Pieces of a caption in their order, each with its weight; a caption without weights is one piece.

    "(x:1.3)" gives 1.3, "(x)" 1.1 and "[x]" 1 / 1.1; nested ones multiply, within ±100. A backslash
    takes a bracket or a backslash as text. Any text is accepted; time grows with its length alone.
    """
    tokens = TOKEN.findall(text)
    pairs = _pairs(tokens)
    closing = {pair.last for pair in pairs.values()}
    pieces, weights = _Pieces(), [1.0]
    for place, token in enumerate(tokens):
        if place in pairs:
            weights.append(_bounded(weights[-1] * pairs[place].weight))
        elif place in closing:
            weights.pop()
        else:
            last_before_close = place + 1 in closing and tokens[place + 1] == ")"
            shown = NUMBER.sub("", token) if last_before_close else token
            pieces.add(shown[1:] if _escaped(token) else shown, weights[-1])
    return pieces.found or [("", 1.0)]


def _pairs(tokens: list[str]) -> dict[int, _Bracket]:
    """Brackets that close, by the place of the opening one; crossing ones are text."""
    found: dict[int, _Bracket] = {}
    waiting: list[int] = []
    counts = {"(": 0, "[": 0}
    for place, token in enumerate(tokens):
        if token in counts:
            waiting.append(place)
            counts[token] += 1
        elif token in PAIRS and counts[PAIRS[token]]:
            while tokens[waiting[-1]] != PAIRS[token]:
                counts[tokens[waiting.pop()]] -= 1
            found[waiting.pop()] = _Bracket(place, _weight(tokens, place))
            counts[PAIRS[token]] -= 1
    return found


def _weight(tokens: list[str], last: int) -> float:
    if tokens[last] == "]":
        return 1 / STRONGER
    number = NUMBER.search(tokens[last - 1])
    return float(number.group(1)) if number and not _escaped(tokens[last - 1]) else STRONGER


def _bounded(weight: float) -> float:
    return max(-LARGEST_WEIGHT, min(LARGEST_WEIGHT, weight))


def _escaped(token: str) -> bool:
    return len(token) == len("\\(") and token[0] == "\\"
