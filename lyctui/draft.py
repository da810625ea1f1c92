"""The wizard's editable answers: what you said over what the preset says, saved on every page.

A draft holds plain JSON values by dotted path ("optim.lr"). The recipe is made from it and checked on
each edit; nothing but the draft file is written before a run is started or a recipe saved.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any, Literal

from engine.checkpoint.atomic import write_text
from engine.errors import EngineError, Problem, RecipeError
from engine.settings import Recipe
from engine.settings.walk import algorithms, settings

Origin = Literal["you", "preset", "default"]

DRAFT_VERSION = 1
SIZES = ("algorithm", "rank", "alpha", "conv_rank", "conv_alpha")
"""What a preset says of a network belongs to its own algorithm alone."""
NEVER_FROM_A_PRESET = frozenset({"model.path", "data.folder", "run.folder", "run.name"})
"""A preset says how to train, never whose files."""


@dataclass(frozen=True, slots=True)
class Checked:
    """A recipe, or everything that is wrong with the answers."""

    recipe: Recipe | None
    problems: tuple[Problem, ...] = ()

    def at(self, path: str) -> Problem | None:
        """The first problem of one setting."""
        return next((problem for problem in self.problems if problem.path == path), None)


@dataclass(slots=True)
class Draft:
    """Answers, the preset below them, and where the person is."""

    id: str = field(
        default_factory=lambda: f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    )
    preset: str = ""
    preset_values: dict[str, Any] = field(default_factory=dict)
    answers: dict[str, Any] = field(default_factory=dict)
    page: str = "goal"
    visited: list[str] = field(default_factory=list)
    consent_shown: bool = False
    saved_at: float = 0.0

    # values -------------------------------------------------------------------------------

    @property
    def title(self) -> str:
        """What to call it in a list: trigger and class, else the name or the pictures' folder."""
        words = " ".join(
            str(self.value(path) or "") for path in ("data.trigger", "data.class_word")
        )
        folder = PurePath(str(self.answers.get("data.folder", ""))).name
        return words.strip() or str(self.value("run.name") or "") or folder or "no name yet"

    @property
    def algorithm(self) -> str:
        """Algorithm that the answers ask for."""
        chosen = self.answers.get("network.algorithm")
        return str(chosen or self.preset_values.get("network.algorithm") or "lora")

    @property
    def below(self) -> dict[str, Any]:
        """What the preset says. A rank that suits its algorithm says nothing about another one."""
        wanted = self.answers.get("network.algorithm")
        if wanted is None or wanted == self.preset_values.get("network.algorithm", "lora"):
            return self.preset_values
        bound = tuple(f"network.{key}" for key in SIZES)
        return {path: value for path, value in self.preset_values.items() if path not in bound}

    def value(self, path: str) -> Any:
        """What you or the preset say; None where neither does."""
        return self.answers.get(path, self.below.get(path))

    def origin(self, path: str) -> Origin:
        """Who says it."""
        if path in self.answers:
            return "you"
        return "preset" if path in self.below else "default"

    def set(self, path: str, value: Any) -> None:
        """Answer a question; an answer equal to the preset's value is no change of it."""
        value = plain_value(value)
        if self.preset_values.get(path, self) == value:
            self.answers.pop(path, None)
        else:
            self.answers[path] = value

    def clear(self, path: str) -> None:
        """Take the recommended value again."""
        self.answers.pop(path, None)

    def choose_preset(self, name: str, values: Mapping[str, Any]) -> None:
        """Lay another preset below the answers; `values` is a partial recipe, nested or dotted."""
        self.preset = name
        flat = flattened(values)
        self.preset_values = {
            path: plain_value(value)
            for path, value in flat.items()
            if path not in NEVER_FROM_A_PRESET and not path.startswith("about.")
        }

    def changed(self) -> tuple[str, ...]:
        """Answers that replace a value of the preset."""
        return tuple(path for path in self.answers if path in self.below)

    # recipe -------------------------------------------------------------------------------

    def values(self) -> dict[str, Any]:
        """Preset and answers by dotted path, without settings that the chosen algorithm lacks."""
        merged = {**self.below, **self.answers}
        known = network_keys(self.algorithm)
        return {
            path: value
            for path, value in merged.items()
            if not path.startswith("network.") or known is None or path[8:] in known
        }

    def data(self) -> dict[str, dict[str, Any]]:
        """The answers as a partial recipe, by section."""
        tree: dict[str, dict[str, Any]] = {}
        for path, value in self.values().items():
            section, _, key = path.partition(".")
            tree.setdefault(section, {})[key] = value
        return tree

    def check(self) -> Checked:
        """The recipe these answers make, or everything that is wrong with them."""
        from engine.settings.check import parse

        try:
            return Checked(parse(self.data()))
        except EngineError as error:
            return Checked(None, error.problems)

    def recipe(self) -> Recipe:
        """The recipe; raises RecipeError with all problems."""
        checked = self.check()
        if checked.recipe is None:
            raise RecipeError(*checked.problems)
        return checked.recipe

    # file ---------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "version": DRAFT_VERSION,
            "saved_at": self.saved_at,
            "preset": self.preset,
            "preset_values": self.preset_values,
            "answers": self.answers,
            "page": self.page,
            "visited": self.visited,
            "consent_shown": self.consent_shown,
        }

    def save(self, folder: Path | None = None) -> Path:
        """Write the draft whole or not at all; names that are not UTF-8 survive."""
        place = folder or drafts_folder()
        from lyctui.paths import make_private

        make_private(place)
        self.saved_at = time.time()
        path = place / f"{self.id}.json"
        # ASCII: surrogates of odd file names become \udcXX escapes, which JSON gives back unchanged.
        write_text(path, json.dumps(self.to_dict(), ensure_ascii=True, indent=1), private=True)
        return path

    @classmethod
    def load(cls, path: Path) -> Draft:
        """Read a draft; raises ValueError where the file is none."""
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise ValueError(f"{path} is no draft: {error}") from error
        if not isinstance(raw, dict) or raw.get("version") != DRAFT_VERSION:
            raise ValueError(f"{path} is a draft of another version.")
        try:
            return cls(
                id=path.stem,
                preset=str(raw["preset"]),
                preset_values=_dotted(raw["preset_values"]),
                answers=_dotted(raw["answers"]),
                page=str(raw["page"]),
                visited=[str(page) for page in raw["visited"]],
                consent_shown=bool(raw["consent_shown"]),
                saved_at=float(raw["saved_at"]),
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"{path} is no draft: {error}") from error

    def delete(self, folder: Path | None = None) -> None:
        """Remove the draft's file, if there is one."""
        place = folder or drafts_folder()
        (place / f"{self.id}.json").unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class DraftList:
    """Drafts that can be continued, the newest first, and files that could not be read."""

    drafts: tuple[Draft, ...]
    unreadable: tuple[str, ...] = ()


def drafts_folder() -> Path:
    """Where drafts are kept; LYCTUI_STATE overrides the usual place."""
    from lyctui.paths import paths

    return paths().drafts


def list_drafts(folder: Path | None = None) -> DraftList:
    """Every draft on disk, the newest first."""
    place = folder or drafts_folder()
    drafts: list[Draft] = []
    unreadable: list[str] = []
    try:
        files = sorted(place.glob("*.json"))
    except OSError:
        files = []
    for path in files:
        try:
            drafts.append(Draft.load(path))
        except ValueError as error:
            unreadable.append(str(error))
    drafts.sort(key=lambda draft: draft.saved_at, reverse=True)
    return DraftList(tuple(drafts), tuple(unreadable))


def draft_from_recipe(data: Mapping[str, Any]) -> Draft:
    """A draft whose answers are those of a recipe (an earlier run, a file)."""
    draft = Draft()
    for path, value in flattened(data).items():
        if path != "version":
            draft.set(path, value)
    return draft


# plain values -----------------------------------------------------------------------------


def plain_value(value: Any) -> Any:
    """As JSON holds it: paths as text, tuples as lists."""
    if isinstance(value, PurePath):
        return os.fspath(value)
    if isinstance(value, (list, tuple)):
        return [plain_value(one) for one in value]
    if isinstance(value, Mapping):
        return {str(key): plain_value(one) for key, one in value.items()}
    return value


def flattened(values: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe by dotted path; keys that are dotted already stay."""
    flat: dict[str, Any] = {}
    for section, content in values.items():
        if isinstance(content, Mapping) and "." not in section:
            flat |= {f"{section}.{key}": value for key, value in content.items()}
        else:
            flat[section] = content
    return flat


def network_keys(algorithm: str) -> frozenset[str] | None:
    """Names of the settings that an algorithm has; None for an unknown one."""
    if algorithm not in algorithms():
        return None
    return frozenset(
        row.key for row in settings() if row.section == "network" and algorithm in row.algorithms
    )


def _dotted(raw: object) -> dict[str, Any]:
    if not isinstance(raw, dict) or not all(re.fullmatch(r"\w+\.\w+", key) for key in raw):
        raise ValueError("its answers are not named by section and key")
    return dict(raw)
