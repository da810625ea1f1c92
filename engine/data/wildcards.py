"""Wildcards of captions: {a|b|c} is one of its alternatives, drawn anew for each sample.

Groups may stand inside groups. A backslash before a brace or a bar takes it as it is.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from math import prod

MOST_NESTED = 16
"""Groups inside groups; more is a mistake, and would only make the reading slow."""


class WildcardError(ValueError):
    """A caption whose braces do not pair; the text of the error says where."""


@dataclass(slots=True)
class Group:
    """Alternatives, one of which is drawn. Each is a row of plain texts and further groups."""

    alternatives: list[list[str | Group]] = field(default_factory=lambda: [[]])


Parts = list["str | Group"]


def parse_wildcards(text: str) -> Parts:
    """The text as plain pieces and groups. Raises WildcardError where braces do not pair."""
    whole: Parts = []
    rows: list[Parts] = [whole]
    opened: list[tuple[int, Group]] = []
    place = 0
    while place < len(text):
        char = text[place]
        if char == "\\" and text[place + 1 : place + 2] in ("{", "}", "|"):
            place += 1
            rows[-1].append(text[place])
        elif char == "{":
            if len(opened) >= MOST_NESTED:
                raise WildcardError(f"more than {MOST_NESTED} groups inside each other")
            group = Group()
            rows[-1].append(group)
            opened.append((place, group))
            rows.append(group.alternatives[0])
        elif char == "}":
            if not opened:
                raise WildcardError(f"a closing brace at character {place + 1} opens nowhere")
            opened.pop()
            rows.pop()
        elif char == "|" and opened:
            rows[-1] = []
            opened[-1][1].alternatives.append(rows[-1])
        else:
            rows[-1].append(char)
        place += 1
    if opened:
        raise WildcardError(f"the brace at character {opened[-1][0] + 1} is not closed")
    return whole


def wildcard_parts(text: str) -> Parts:
    """As `parse_wildcards`; a text whose braces do not pair is taken as it stands."""
    try:
        return parse_wildcards(text)
    except WildcardError:
        return [text]


def draw_wildcards(parts: Parts, draw: random.Random) -> str:
    """One text: each alternative of a group is as likely as the others."""
    return "".join(
        part if isinstance(part, str) else draw_wildcards(draw.choice(part.alternatives), draw)
        for part in parts
    )


def count_wildcards(parts: Parts) -> int:
    """How many ways there are to draw."""
    return prod(
        sum(count_wildcards(row) for row in part.alternatives)
        for part in parts
        if isinstance(part, Group)
    )


def every_wildcard(parts: Parts) -> Iterator[str]:
    """Every text that can be drawn; `count_wildcards` tells beforehand how many."""
    choices = [
        [part]
        if isinstance(part, str)
        else [text for row in part.alternatives for text in every_wildcard(row)]
        for part in parts
    ]
    return ("".join(chosen) for chosen in product(*choices))


def longest_wildcard(parts: Parts) -> str:
    """The text of most characters that can be drawn."""
    return "".join(
        part
        if isinstance(part, str)
        else max((longest_wildcard(row) for row in part.alternatives), key=len)
        for part in parts
    )
