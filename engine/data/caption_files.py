"""Caption files: found beside the pictures, counted, decoded."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.data.files import open_regular
from engine.data.findings import Findings
from engine.data.wildcards import WildcardError, parse_wildcards

SECOND_EXTENSION = ".caption"
MOST_BYTES = 64 * 1024
CACHES = frozenset([".npz", ".npy", ".pt", ".safetensors"])
"""Files of other trainers beside the pictures; never captions."""


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
    wildcards: bool = False,
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
        text = None
        if one.path is not None:
            text = read_caption(folder, one.path, findings, wildcards=wildcards)
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


def read_caption(folder: Path, path: Path, findings: Findings, *, wildcards: bool = False) -> str:
    """First line of a caption file, stripped; with `wildcards` every line that is not empty.

    "" where the file is empty or refused.
    """
    text = _decoded(folder, path, findings)
    if text is None:
        return ""
    every = [line.strip() for line in re.split(r"\r\n|\r|\n", text)]
    lines = [line for line in every if line] if wildcards else every[:1]
    if not any(lines):
        findings.add("caption empty", folder, path.name)
    elif wildcards:
        _tell_braces(folder, path, lines, findings)
    return "\n".join(lines)


def _decoded(folder: Path, path: Path, findings: Findings) -> str | None:
    """The text of a file, or None where it cannot be used."""
    try:
        with open_regular(path) as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        findings.add("unreadable", folder, path.name, detail=error.strerror or "")
        return None
    if len(data) > MOST_BYTES:
        findings.add("caption too long", folder, path.name)
        return None
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
        return None
    return text


def _tell_braces(folder: Path, path: Path, lines: Sequence[str], findings: Findings) -> None:
    for line in lines:
        try:
            parse_wildcards(line)
        except WildcardError as error:
            findings.add("wildcard braces", folder, path.name, detail=str(error))
            return


def _encoding_of(data: bytes) -> str:
    from charset_normalizer import from_bytes

    # A text without a mark whose every second byte is 0 is UTF-16, whatever statistics say.
    if data[1::2].count(0) > len(data) // 4:
        return "looks like UTF-16 LE"
    if data[0::2].count(0) > len(data) // 4:
        return "looks like UTF-16 BE"
    best = from_bytes(data).best()
    return f"looks like {best.encoding.replace('_', '-')}" if best else "unknown encoding"
