"""Captions: found beside the pictures, decoded, and drawn anew for each sample."""

from __future__ import annotations

import codecs
import itertools
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from engine.data.files import open_regular
from engine.data.findings import Findings
from engine.draws import rng

SECOND_EXTENSION = ".caption"
MOST_BYTES = 64 * 1024
CACHES = frozenset([".npz", ".npy", ".pt", ".safetensors"])
"""Files of other trainers beside the pictures; never captions."""


# Reading ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Census:
    """How many pictures of a folder have which caption file."""

    expected: int = 0
    """With the expected extension."""
    second: int = 0
    """With .caption."""
    both: int = 0
    other: int = 0
    """With another text file only."""
    none: int = 0

    @property
    def used(self) -> int:
        """Pictures whose caption file is read."""
        return self.expected + self.second - self.both


@dataclass(frozen=True, slots=True)
class FolderCaptions:
    """Caption texts of one folder: None where a picture has none and the class text stands in."""

    texts: tuple[str | None, ...]
    census: Census


def extension_of(setting: str) -> str:
    """The expected extension with its dot, lower case; blank is the default."""
    plain = setting.strip().lower().lstrip(".")
    return f".{plain}" if plain else ".txt"


def read_captions(
    folder: Path,
    pictures: Sequence[Path],
    others: Sequence[Path],
    findings: Findings,
    *,
    extension: str = ".txt",
    keep_empty: bool = False,
    class_text: str = "",
) -> FolderCaptions:
    """Find and read the caption of each picture; what is odd goes to `findings`."""
    expected = extension_of(extension)
    beside = _Beside(others, expected)
    found = [beside.of(picture) for picture in pictures]
    census = Census(
        expected=sum(one.expected is not None for one in found),
        second=sum(one.second is not None for one in found),
        both=sum(one.expected is not None and one.second is not None for one in found),
        other=sum(one.path is None and one.other for one in found),
        none=sum(one.path is None and not one.other for one in found),
    )
    texts: list[str | None] = []
    for picture, one in zip(pictures, found, strict=True):
        if one.path is None and class_text:
            findings.add("caption missing", folder, picture.name)
        text = None if one.path is None else read_caption(folder, one.path, findings)
        texts.append(text if text or keep_empty else None)
    _tell_census(folder, census, expected, beside, findings)
    for path in beside.unclaimed(pictures):
        findings.add("caption without image", folder, path.name)
    return FolderCaptions(tuple(texts), census)


@dataclass(frozen=True, slots=True)
class _Found:
    expected: Path | None
    second: Path | None
    other: bool

    @property
    def path(self) -> Path | None:
        return self.expected or self.second


class _Beside:
    """Finds caption files by stem; exact case before any case."""

    def __init__(self, others: Iterable[Path], expected: str) -> None:
        self._expected = expected
        self._exact: dict[tuple[str, str], Path] = {}
        self._folded: dict[tuple[str, str], Path] = {}
        self.other_extensions: set[str] = set()
        self._by_stem: dict[str, set[str]] = {}
        for path in others:
            kind = path.suffix.lower()
            if kind in CACHES:
                continue
            self._exact.setdefault((path.stem, kind), path)
            self._folded.setdefault((path.stem.casefold(), kind), path)
            self._by_stem.setdefault(path.stem.casefold(), set()).add(kind)

    def of(self, picture: Path) -> _Found:
        second = SECOND_EXTENSION if self._expected != SECOND_EXTENSION else None
        found = _Found(
            self._find(picture, self._expected),
            self._find(picture, second) if second else None,
            bool(self._others(picture)),
        )
        if found.path is None:
            self.other_extensions.update(self._others(picture))
        return found

    def _others(self, picture: Path) -> set[str]:
        kinds = self._by_stem.get(picture.stem.casefold(), set())
        return kinds - {self._expected, SECOND_EXTENSION}

    def _find(self, picture: Path, kind: str) -> Path | None:
        exact = self._exact.get((picture.stem, kind))
        return exact or self._folded.get((picture.stem.casefold(), kind))

    def unclaimed(self, pictures: Iterable[Path]) -> list[Path]:
        stems = {picture.stem.casefold() for picture in pictures}
        kinds = (self._expected, SECOND_EXTENSION)
        return [
            path
            for (stem, kind), path in self._exact.items()
            if kind in kinds and stem.casefold() not in stems
        ]


def _tell_census(
    folder: Path, census: Census, expected: str, beside: _Beside, findings: Findings
) -> None:
    if census.used == 0 and census.other:
        kinds = ", ".join(sorted(beside.other_extensions))
        findings.add(
            "caption extension",
            folder,
            message=f"No picture has a {expected} caption; {kinds} is there for {census.other}.",
            remedy=f"Set data.caption_extension to one of {kinds}, or rename the files.",
        )
    elif census.second and census.expected:
        findings.add(
            "caption extensions mixed",
            folder,
            message=f"Caption files are mixed: {census.expected} {expected}, {census.second} "
            f"{SECOND_EXTENSION}; where both are there ({census.both}), {expected} is used.",
        )
    elif census.second:
        findings.add("caption extension other", folder)


def read_caption(folder: Path, path: Path, findings: Findings) -> str:
    """First line of a caption file, stripped; "" where it is empty or refused."""
    try:
        with open_regular(path) as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        findings.add("unreadable", folder, path.name, detail=error.strerror or "")
        return ""
    if len(data) > MOST_BYTES:
        findings.add("caption too long", folder, path.name)
        return ""
    if data.startswith(codecs.BOM_UTF8):
        findings.add("caption BOM", folder, path.name)
        data = data[len(codecs.BOM_UTF8) :]
    try:
        text = data.decode("utf-8")
        wrong = "\0" in text
    except UnicodeDecodeError:
        wrong = True
    if wrong:
        findings.add("caption encoding", folder, path.name, detail=_encoding_of(data))
        return ""
    line = re.split(r"\r\n|\r|\n", text, maxsplit=1)[0].strip()
    if not line:
        findings.add("caption empty", folder, path.name)
    return line


def _encoding_of(data: bytes) -> str:
    from charset_normalizer import from_bytes

    # A text without a mark whose every second byte is 0 is UTF-16, whatever statistics say.
    if data[1::2].count(0) > len(data) // 4:
        return "looks like UTF-16 LE"
    if data[0::2].count(0) > len(data) // 4:
        return "looks like UTF-16 BE"
    best = from_bytes(data).best()
    return f"looks like {best.encoding.replace('_', '-')}" if best else "unknown encoding"


# Drawing ------------------------------------------------------------------------------------------


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

    @property
    def fixed(self) -> bool:
        """Whether every draw of a caption gives the same text."""
        steady = not self.shuffle and self.tag_dropout == 0
        return steady and self.dropout == 0 and self.dropout_every == 0

    def for_reg(self) -> CaptionRules:
        """The rules for regularisation pictures: what marks the subject stays away from them."""
        return replace(self, prefix="", suffix="")


def draw_caption(
    raw: str, rules: CaptionRules, *, seed: int, step: int, sample: int, epoch: int
) -> str:
    """The text of one draw: prefix and suffix, dropout, shuffle, tag dropout, in this order."""
    text = with_prefix_and_suffix(raw, rules)
    if rules.dropout_every > 0 and epoch % rules.dropout_every == 0:
        return ""
    if rules.dropout > 0 and rng(seed, "caption dropout", step, sample).random() < rules.dropout:
        return ""
    if not rules.shuffle and rules.tag_dropout == 0:
        return text
    tags = split_tags(text, rules.separator)
    kept, flexible = tags[: rules.keep], tags[rules.keep :]
    if rules.shuffle:
        rng(seed, "caption shuffle", step, sample).shuffle(flexible)
    if rules.tag_dropout > 0:
        draw = rng(seed, "tag dropout", step, sample)
        flexible = [tag for tag in flexible if draw.random() >= rules.tag_dropout]
    return join_tags([*kept, *flexible], rules.separator)


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
    text = with_prefix_and_suffix(raw, rules)
    empty = [""] if rules.dropout > 0 or rules.dropout_every > 0 else []
    if not rules.shuffle and rules.tag_dropout == 0:
        return tuple(dict.fromkeys([text, *empty]))
    tags = split_tags(text, rules.separator)
    kept, flexible = tags[: rules.keep], tags[rules.keep :]
    sizes = range(len(flexible) + 1) if rules.tag_dropout > 0 else [len(flexible)]
    arrange = itertools.permutations if rules.shuffle else itertools.combinations
    count = math.perm if rules.shuffle else math.comb
    if sum(count(len(flexible), size) for size in sizes) > limit:
        return None
    texts = [
        join_tags([*kept, *chosen], rules.separator)
        for size in sizes
        for chosen in arrange(flexible, size)
    ]
    return tuple(dict.fromkeys([*texts, *empty]))


def common_leading_tags(captions: Sequence[str], separator: str = ",") -> int:
    """Tags at the start that all captions share: what a sensible number of kept tags covers."""
    lists = [split_tags(caption, separator) for caption in captions]
    columns = zip(*lists, strict=False)
    same = itertools.takewhile(lambda column: len(set(column)) == 1, columns)
    return sum(1 for _ in same)
