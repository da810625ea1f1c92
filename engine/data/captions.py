"""Captions: the text of each draw, a function of (seed, step, sample)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from engine.data.wildcards import (
    count_wildcards,
    draw_wildcards,
    every_wildcard,
    longest_wildcard,
    wildcard_parts,
)
from engine.draws import rng


@dataclass(frozen=True, slots=True)
class CaptionRules:
    """What happens to a caption at each draw."""

    separator: str = ","
    shuffle: bool = False
    keep: int = 0
    """Leading tags that keep their place and are never dropped; counts tags."""
    dropout: float = 0.0
    dropout_every: int = 0
    """Every n-th epoch, counted from 1, sees empty captions only; 0 is off."""
    tag_dropout: float = 0.0
    prefix: str = ""
    suffix: str = ""
    keep_separator: str = ""
    """Where a caption holds it, what stands before it is kept instead of `keep` tags.

    What follows a second one is kept at the end.
    """
    secondary_separator: str = ""
    """Holds tags together as one; becomes the separator at last."""
    wildcards: bool = False
    """Draw one line of the caption, and one alternative of each {a|b|c}."""

    @property
    def fixed(self) -> bool:
        """Whether every draw of a caption gives the same text."""
        steady = not self.moves_tags and not self.wildcards
        return steady and self.dropout == 0 and self.dropout_every == 0

    @property
    def moves_tags(self) -> bool:
        """Whether tags are put in another order or left out."""
        return self.shuffle or self.tag_dropout > 0

    def for_reg(self) -> CaptionRules:
        """The rules for regularisation pictures: what marks the subject stays away from them."""
        return replace(self, prefix="", suffix="")


@dataclass(frozen=True, slots=True)
class _Tags:
    """Tags of one caption: those that stay in front, those that move, those that stay behind."""

    first: list[str]
    flexible: list[str]
    last: list[str]


def draw_caption(
    raw: str, rules: CaptionRules, *, seed: int, step: int, sample: int, epoch: int
) -> str:
    """The text of one draw.

    In this order: prefix and suffix, dropout, choice of line and wildcards, shuffle, tag dropout,
    secondary separator.
    """
    lines = _lines(raw, rules)
    if rules.dropout_every > 0 and epoch % rules.dropout_every == 0:
        return ""
    if rules.dropout > 0 and rng(seed, "caption dropout", step, sample).random() < rules.dropout:
        return ""
    text = lines[0]
    if rules.wildcards:
        draw = rng(seed, "wildcards", step, sample)
        text = draw_wildcards(wildcard_parts(draw.choice(lines)), draw).strip()
    tags = _tags(text, rules)
    if tags is None:
        return _plain(text, rules)
    flexible = tags.flexible
    if rules.shuffle:
        rng(seed, "caption shuffle", step, sample).shuffle(flexible)
    if rules.tag_dropout > 0:
        chance = rng(seed, "tag dropout", step, sample)
        flexible = [tag for tag in flexible if chance.random() >= rules.tag_dropout]
    return _joined(tags, flexible, rules)


def _lines(raw: str, rules: CaptionRules) -> list[str]:
    """The lines that can be drawn, each with prefix and suffix."""
    lines = raw.split("\n") if rules.wildcards else [raw]
    return [with_prefix_and_suffix(line, rules) for line in lines]


def _tags(text: str, rules: CaptionRules) -> _Tags | None:
    """The tags of a text; None where it is taken as it stands."""
    mark = rules.keep_separator.strip()
    if mark and mark in text:
        front, _, rest = text.partition(mark)
        middle, _, end = rest.partition(mark)
        parts = (split_tags(part, rules.separator) for part in (front, middle, end))
        return _Tags(*parts)
    if not rules.moves_tags:
        return None
    tags = split_tags(text, rules.separator)
    return _Tags(tags[: rules.keep], tags[rules.keep :], [])


def _joined(tags: _Tags, flexible: Iterable[str], rules: CaptionRules) -> str:
    return _plain(join_tags([*tags.first, *flexible, *tags.last], rules.separator), rules)


def _plain(text: str, rules: CaptionRules) -> str:
    """The text with the secondary separator turned into the separator."""
    mark = rules.secondary_separator.strip()
    if not mark or mark not in text:
        return text
    return join_tags(split_tags(text, mark), rules.separator)


def with_prefix_and_suffix(raw: str, rules: CaptionRules) -> str:
    """The caption with prefix and suffix, each added once: not where it is there already."""
    text, prefix, suffix = raw.strip(), rules.prefix.strip(), rules.suffix.strip()
    if prefix and not text.startswith(prefix):
        text = f"{prefix} {text}".strip()
    if suffix and not text.endswith(suffix):
        # ", best quality" follows without a blank, "in the rain" with one.
        gap = "" if suffix[0] in ",.;:" else " "
        text = f"{text}{gap}{suffix}".strip()
    return text


def split_tags(text: str, separator: str = ",") -> list[str]:
    """Tags of a caption: the text between separators, stripped; empty ones are dropped."""
    pieces = text.split(separator) if separator else [text]
    return [tag for piece in pieces if (tag := piece.strip())]


def join_tags(tags: Iterable[str], separator: str = ",") -> str:
    """Tags as one caption: "a, b"."""
    return f"{separator.rstrip()} ".join(tags)


def caption_variants(raw: str, rules: CaptionRules, limit: int = 24) -> tuple[str, ...] | None:
    """Every text that draws of this caption can give, or None where there are more than `limit`."""
    lines = _lines(raw, rules)
    if rules.wildcards:
        parts = [wildcard_parts(line) for line in lines]
        if sum(count_wildcards(each) for each in parts) > limit:
            return None
        lines = [text.strip() for each in parts for text in every_wildcard(each)]
    texts: dict[str, None] = {}
    for line in lines:
        arranged = _arrangements(line, rules, limit)
        if arranged is None:
            return None
        texts.update(dict.fromkeys(arranged))
    if rules.dropout > 0 or rules.dropout_every > 0:
        texts[""] = None
    return tuple(texts) if len(texts) <= limit + 1 else None


def _arrangements(text: str, rules: CaptionRules, limit: int) -> list[str] | None:
    """Every order and choice of the flexible tags, or None where there are more than `limit`."""
    tags = _tags(text, rules)
    if tags is None:
        return [_plain(text, rules)]
    if not rules.moves_tags:
        return [_joined(tags, tags.flexible, rules)]
    count = len(tags.flexible)
    sizes = range(count + 1) if rules.tag_dropout > 0 else [count]
    arrange = itertools.permutations if rules.shuffle else itertools.combinations
    ways = math.perm if rules.shuffle else math.comb
    if sum(ways(count, size) for size in sizes) > limit:
        return None
    return [
        _joined(tags, chosen, rules) for size in sizes for chosen in arrange(tags.flexible, size)
    ]


def longest_captions(raw: str, rules: CaptionRules) -> tuple[str, ...]:
    """A text for each line that can be drawn, with the longest alternatives and every tag."""
    lines = _lines(raw, rules)
    if rules.wildcards:
        lines = [longest_wildcard(wildcard_parts(line)).strip() for line in lines]
    found = []
    for line in lines:
        tags = _tags(line, rules)
        found.append(_plain(line, rules) if tags is None else _joined(tags, tags.flexible, rules))
    return tuple(found)


def common_leading_tags(captions: Sequence[str], separator: str = ",") -> int:
    """Tags at the start that all captions share: what a sensible number of kept tags covers."""
    lists = [split_tags(caption, separator) for caption in captions]
    columns = zip(*lists, strict=False)
    same = itertools.takewhile(lambda column: len(set(column)) == 1, columns)
    return sum(1 for _ in same)
