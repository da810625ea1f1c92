"""From a folder on disk to concepts: which folders are trained, how often, with which text."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from engine.data.files import Scan, Skipped, count_pictures_below, scan
from engine.data.findings import Finding, Findings, shown
from engine.data.names import FolderName, folder_name, parse_folder_name

__all__ = [
    "ConceptFolder",
    "FolderListing",
    "FolderOverride",
    "Skipped",
    "duplicate_folders",
    "folder_name",
    "parse_folder_name",
    "read_folders",
    "unknown_overrides",
]

Layout = Literal["auto", "leaf", "parent"]
FoundLayout = Literal["leaf", "parent", "both", "none"]


@dataclass(frozen=True, slots=True)
class FolderOverride:
    """What the recipe says of one folder; wins over its name. None leaves it to the name."""

    repeats: int | None = None
    text: str | None = None
    flip: bool | None = None


@dataclass(frozen=True, slots=True)
class ConceptFolder:
    """One folder of pictures that is one concept."""

    path: Path
    name: str
    text: str
    """Class text: the caption of pictures without a caption file."""
    repeats: int
    is_reg: bool
    flip: bool | None
    """None: as the whole data set."""
    pictures: tuple[Path, ...]
    others: tuple[Path, ...]
    """Regular files that are not pictures: captions among them."""


@dataclass(frozen=True, slots=True)
class FolderListing:
    """Everything found under one chosen folder."""

    root: Path
    layout: FoundLayout
    """ "both" where the user has to choose between leaf and parent; then there are no concepts."""
    concepts: tuple[ConceptFolder, ...]
    skipped: tuple[Skipped, ...]
    findings: tuple[Finding, ...]


@dataclass(slots=True)
class _Reader:
    """Carries what every step of the reading needs."""

    root: Path
    overrides: Mapping[str, FolderOverride]
    default_repeats: int
    default_text: str
    is_reg: bool
    findings: Findings = field(default_factory=Findings)
    skipped: list[Skipped] = field(default_factory=list)

    def scan(self, folder: Path) -> Scan:
        found = scan(folder, self.findings)
        self.skipped.extend(found.skipped)
        return found

    def concept(self, folder: Path, found: Scan, *, use_default_text: bool) -> ConceptFolder:
        """Turn a folder into a concept and say what is odd about it."""
        # The resolved name: "." and a trailing slash have none of their own.
        name = folder.name or folder.resolve().name
        override = self.overrides.get(name, FolderOverride())
        said = parse_folder_name(name)
        self._tell_name(folder, name, said, override)
        repeats = said.repeats if override.repeats is None else override.repeats
        text = said.text
        if override.text is not None:
            text = override.text
        elif use_default_text and self.default_text:
            if said.repeats is not None and said.text and said.text != self.default_text:
                self.findings.add("text from settings", folder)
            text = self.default_text
        concept = ConceptFolder(
            path=folder,
            name=name,
            # A name that is not UTF-8 holds lone surrogates, which no tokenizer takes.
            text=text.encode("utf-8", "replace").decode().strip(),
            repeats=self.default_repeats if repeats is None else repeats,
            is_reg=self.is_reg,
            flip=override.flip,
            pictures=found.pictures,
            others=found.others,
        )
        self._tell_contents(concept, found)
        return concept

    def _tell_name(
        self, folder: Path, name: str, said: FolderName, override: FolderOverride
    ) -> None:
        settled = override.repeats is not None
        better = f"Rename it to {shown(said.rename)!r}, or set its repeats in data.folders."
        if said.refused and not settled:
            self.findings.add("bad folder name", folder, message=said.refused, remedy=better)
        elif said.rename and not settled:
            self.findings.add("odd folder name", folder, remedy=better)
        elif said.notice:
            message = f"{said.notice} {shown(name)!r} means {said.repeats} x {shown(said.text)!r}."
            self.findings.add("folder name", folder, message=message)

    def _tell_contents(self, concept: ConceptFolder, found: Scan) -> None:
        nested = {path: count_pictures_below(path) for path in found.folders}
        for path, count in nested.items():
            self.skipped.append(Skipped(path, f"inside a concept; pictures: {count}"))
            if count and found.pictures:
                self.findings.add(
                    "nested folder", concept.path, path.name, detail=f"pictures: {count}"
                )
        if concept.repeats == 0:
            self.findings.add("switched off", concept.path)
        elif not found.pictures and any(nested.values()):
            self.findings.add("wrong level", concept.path)
        elif not found.pictures:
            self.findings.add("empty concept", concept.path)

    def done(self, layout: FoundLayout, concepts: list[ConceptFolder]) -> FolderListing:
        return FolderListing(
            self.root, layout, tuple(concepts), tuple(self.skipped), self.findings.done()
        )


def read_folders(
    root: Path,
    *,
    layout: Layout = "auto",
    overrides: Mapping[str, FolderOverride] | None = None,
    default_repeats: int = 1,
    default_text: str = "",
    is_reg: bool = False,
) -> FolderListing:
    """Read one chosen folder: one concept (leaf), or one for each sub-folder (parent).

    `default_text` is what trigger and class make. It holds for a leaf, and for the only free folder
    of a parent; other folders are told by their names. Mistakes are findings, never exceptions.
    """
    reader = _Reader(root, overrides or {}, default_repeats, default_text, is_reg)
    if not root.is_dir():
        there = os.path.lexists(root)
        message = "This is not a folder." if there else ""
        reader.findings.add("folder missing", root, message=message)
        return reader.done("none", [])
    found = reader.scan(root)
    inner = {folder: scan(folder, Findings()) for folder in found.folders}
    chosen = _layout(layout, found, inner)
    match chosen:
        case "leaf":
            concepts = [reader.concept(root, found, use_default_text=True)]
        case "parent":
            concepts = _parent(reader, found)
        case "both":
            concepts = []
            _tell_both(reader, found, inner)
        case "none":
            concepts = []
            reader.findings.add("no image", root)
    return reader.done(chosen, concepts)


def _layout(asked: Layout, found: Scan, inner: Mapping[Path, Scan]) -> FoundLayout:
    if not found.pictures and not inner:
        return "none"
    if asked != "auto":
        return asked
    if not found.pictures:
        return "parent"
    return "both" if any(each.pictures for each in inner.values()) else "leaf"


def _parent(reader: _Reader, found: Scan) -> list[ConceptFolder]:
    if found.pictures:
        count = len(found.pictures)
        reader.skipped.append(Skipped(reader.root, f"beside the concepts; pictures: {count}"))
    free = [folder for folder in found.folders if parse_folder_name(folder.name).repeats is None]
    concepts = [
        reader.concept(
            folder,
            reader.scan(folder),
            use_default_text=len(found.folders) == 1 and folder in free,
        )
        for folder in found.folders
    ]
    if not concepts:
        reader.findings.add("no image", reader.root)
    return concepts


def _tell_both(reader: _Reader, found: Scan, inner: Mapping[Path, Scan]) -> None:
    reader.findings.add("leaf and parent", reader.root, message=_both_message(found, inner))


def _both_message(found: Scan, inner: Mapping[Path, Scan]) -> str:
    each = ", ".join(f"{shown(path.name)} ({len(one.pictures)})" for path, one in inner.items())
    return (
        f"The folder holds pictures ({len(found.pictures)}) and also folders with pictures: {each}."
    )


def unknown_overrides(
    root: Path, names: Iterable[str], concepts: Iterable[ConceptFolder]
) -> tuple[Finding, ...]:
    """Findings for settings of folders that are not there, with the nearest name that is."""
    findings = Findings()
    known = [concept.name for concept in concepts]
    for name in names:
        if known and name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            listed = ", ".join(repr(shown(each)) for each in known)
            hint = f"Did you mean {shown(close[0])!r}?" if close else f"There are {listed}."
            findings.add("unknown folder", root, name, remedy=hint)
    return findings.done()


def duplicate_folders(concepts: tuple[ConceptFolder, ...]) -> tuple[Finding, ...]:
    """Findings for concepts that are the same folder on disk, whatever the road to it."""
    findings = Findings()
    first: dict[Path, ConceptFolder] = {}
    for concept in concepts:
        place = concept.path.resolve()
        earlier = first.setdefault(place, concept)
        if earlier is not concept:
            message = f"This is the same folder as {shown(earlier.path)}."
            findings.add("duplicate folder", concept.path, message=message)
    return findings.done()
