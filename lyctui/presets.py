"""Presets: partial recipes with an [about] that says for whom they are and why."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from engine.errors import EngineError, Problem, UsageError
from presets import PRESETS_PATH

ORDER = (
    "character",
    "person",
    "style",
    "concept",
    "clothing",
    "multi-concept",
    "detail",
    "quick-look",
    "low-vram",
    "photo-locon",
    "self-tuning",
    "high-alpha",
    "style-locon",
    "style-glora",
    "style-ia3",
    "character-8gb",
    "character-12gb",
    "finest-detail",
    "native",
)
"""As they are offered, goals first, then the guides' own recipes; others follow by name."""
GUIDES = "guides"
"""Group of the recipes that repeat a guide."""
HIDDEN = frozenset({"demo"})
"""Presets with a way in of their own."""
ABOUT_KEYS = ("title", "for_whom", "why")


@dataclass(frozen=True, slots=True)
class Preset:
    """What differs from the defaults, for whom, and why."""

    name: str
    title: str
    for_whom: str
    why: str
    guide: str
    """Guides that it rests on: "guides 001 and 002"."""
    values: dict[str, Any]
    """A partial recipe, by section."""
    path: Path
    differs: str = ""
    """Where a guide's recipe means something else here than in the guide's program."""
    group: str = ""
    """"guides" for a guide's own recipe, else empty."""
    purpose: tuple[str, ...] = ()
    """Goals that it suits, by their presets' names."""

    @property
    def flat(self) -> dict[str, Any]:
        """The values by dotted path."""
        return {
            f"{section}.{key}": value
            for section, content in self.values.items()
            for key, value in content.items()
        }


def list_presets(*, own: Path | None = None, hidden: bool = False) -> tuple[Preset, ...]:
    """The presets that are offered; `own` is a folder with the person's own, which win by name.

    A broken one of them is left out here; `broken_presets` tells what is wrong with it.
    """
    found = dict(_shipped())
    for path in _files(own):
        with contextlib.suppress(EngineError):
            found[path.stem] = read_preset(path)
    place = {name: number for number, name in enumerate(ORDER)}
    rows = [preset for preset in found.values() if hidden or preset.name not in HIDDEN]
    return tuple(sorted(rows, key=lambda row: (place.get(row.name, len(place)), row.name)))


def load_preset(name: str, *, own: Path | None = None) -> Preset:
    """The preset of a name or of a .toml file; raises UsageError naming the ones there are."""
    if name.endswith(".toml"):
        return read_preset(Path(name).expanduser())
    plain = name.strip().lower().replace("_", "-").replace(" ", "-")
    if own is not None and (own / f"{plain}.toml").is_file():
        return read_preset(own / f"{plain}.toml")
    every = {preset.name: preset for preset in list_presets(own=own, hidden=True)}
    if plain in every:
        return every[plain]
    from engine.settings.names import nearest_choice

    near = nearest_choice(plain, tuple(every))
    remedy = f"Did you mean {near}?" if near else ""
    offered = ", ".join(preset.name for preset in list_presets(own=own))
    remedy = f"{remedy} Presets: {offered}.".strip()
    raise UsageError(Problem(f'There is no preset "{name}".', remedy=remedy))


def read_preset(path: Path) -> Preset:
    """A preset from its file; raises UsageError or RecipeError with what is wrong with it."""
    from engine.settings.check import parse
    from engine.settings.toml import read_toml

    data = read_toml(path)
    about = data.pop("about", {})
    parse(data, where=str(path))
    missing = [key for key in ABOUT_KEYS if not isinstance(about.get(key), str)]
    if missing:
        text = f"[about] lacks {', '.join(missing)}."
        remedy = "A preset says in [about] its title, for whom it is, and why."
        raise UsageError(Problem(text, str(path), remedy))
    data.pop("version", None)
    return Preset(
        name=path.stem,
        title=about["title"],
        for_whom=about["for_whom"],
        why=about["why"],
        guide=str(about.get("guide", "")),
        values=data,
        path=path,
        differs=str(about.get("differs", "")),
        group=str(about.get("group", "")),
        purpose=tuple(map(str, about.get("purpose", ()))),
    )


@lru_cache(maxsize=1)
def _shipped() -> dict[str, Preset]:
    return {path.stem: read_preset(path) for path in _files(PRESETS_PATH)}


def _files(folder: Path | None) -> list[Path]:
    try:
        return sorted(folder.glob("*.toml")) if folder is not None else []
    except OSError:
        return []


def broken_presets(own: Path) -> tuple[Problem, ...]:
    """What is wrong with a person's own presets, so that one bad file does not hide the others."""
    problems: list[Problem] = []
    for path in _files(own):
        try:
            read_preset(path)
        except EngineError as error:
            problems += error.problems
    return tuple(problems)
