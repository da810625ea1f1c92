"""Notices what changes on the disk while a run goes on, by sizes and times alone.

A run trains with what it read at its start. What changes meanwhile matters to the next resume, so it
is told, each file once.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from engine.data.caption_files import SECOND_EXTENSION
from engine.data.files import is_picture_name
from engine.data.findings import shown

Kind = Literal["picture", "caption", "mask"]
How = Literal["added", "edited", "removed", "replaced"]
Stamp = tuple[int, int]
"""Size in bytes, and time of the last change in nanoseconds."""

MOST_NAMED = 3
NOTE = "since the run began; it trains with what it read at its start."


@dataclass(frozen=True, slots=True)
class Change:
    """One file that is not as it was."""

    path: Path
    kind: Kind
    how: How


class DataWatch:
    """Looks at the folders of a data set again and again."""

    def __init__(
        self, folders: Iterable[Path], masks: Iterable[Path], caption_extensions: Collection[str]
    ) -> None:
        """The first look is taken now; `caption_extensions` as ".txt", in lower case."""
        self._masks = frozenset(masks)
        self._folders = tuple(dict.fromkeys((*folders, *self._masks)))
        self._captions = frozenset((*caption_extensions, SECOND_EXTENSION))
        self._first = self._look()
        self._told: set[Path] = set()

    def news(self) -> str:
        """What has changed since the first look and was not told yet, as a sentence, or ""."""
        now = self._look()
        found = [
            Change(path, kind, self._how(kind, self._first.get(path), now.get(path)))
            for path in sorted(self._first.keys() | now.keys())
            if self._first.get(path) != now.get(path)
            and path not in self._told
            and (kind := self._kind(path)) is not None
        ]
        self._told.update(change.path for change in found)
        return sentence(found)

    def _kind(self, path: Path) -> Kind | None:
        """What a file is to the run; None for what it never reads."""
        if is_picture_name(path):
            return "mask" if path.parent in self._masks else "picture"
        return "caption" if path.suffix.lower() in self._captions else None

    def _how(self, kind: Kind, before: Stamp | None, now: Stamp | None) -> How:
        if before is None:
            return "added"
        if now is None:
            return "removed"
        return "edited" if kind == "caption" else "replaced"

    def _look(self) -> dict[Path, Stamp]:
        found: dict[Path, Stamp] = {}
        for folder in self._folders:
            found |= _stamps(folder)
        return found


def _stamps(folder: Path) -> dict[Path, Stamp]:
    """Size and time of what lies directly in a folder; empty where it cannot be read."""
    found = {}
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                stamp = stamp_of(folder / entry.name)
                if stamp is not None and not entry.name.startswith("."):
                    found[folder / entry.name] = stamp
    except OSError:
        return {}
    return found


def stamp_of(path: Path) -> Stamp | None:
    """Size and time of a file, or None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def sentence(changes: Collection[Change]) -> str:
    """Changes in words: few by name, many by number; "" for none."""
    groups: dict[tuple[Kind, How], list[Path]] = {}
    for change in changes:
        groups.setdefault((change.kind, change.how), []).append(change.path)
    parts = [_part(kind, how, paths) for (kind, how), paths in groups.items()]
    if not parts:
        return ""
    listed = parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
    return f"{listed[0].upper()}{listed[1:]} {NOTE}"


def _part(kind: Kind, how: How, paths: list[Path]) -> str:
    names = ", ".join(shown(path.name) for path in paths)
    were = "were" if len(paths) > 1 else "was"
    if len(paths) > MOST_NAMED:
        return f"{len(paths)} {kind}s were {how}"
    return f"{kind}{'s' * (len(paths) > 1)} {names} {were} {how}"


class FileWatch:
    """Looks at single files again: a base model, say."""

    def __init__(self, paths: Iterable[Path]) -> None:
        """The first look is taken now."""
        self._first = {path: stamp_of(path) for path in paths}
        self._told: set[Path] = set()

    def changed(self) -> list[Path]:
        """Files that are not as they were at the first look."""
        return [path for path, stamp in self._first.items() if stamp_of(path) != stamp]

    def news(self) -> list[Path]:
        """Those of them that were not given yet."""
        found = [path for path in self.changed() if path not in self._told]
        self._told.update(found)
        return found
