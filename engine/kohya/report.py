"""What an import tells: one row for each key, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from engine.inert import inert
from engine.settings import Recipe

Status = Literal["taken", "translated", "no effect", "unsupported", "unknown", "default"]
STATUSES: dict[Status, str] = {
    "taken": "the same setting with the same value",
    "translated": "another setting or value that does the same",
    "no effect": "changes nothing here, or changed nothing in kohya either",
    "unsupported": "cannot be had here: what changes is said",
    "unknown": "no key of kohya's that is known here",
    "default": "not in the file: the value that the tool which wrote it takes then",
}
SECRET = ("api_key", "_token", "password", "secret")
"""Ends of the names of keys whose values are never shown or stored."""


@dataclass(frozen=True, slots=True)
class Row:
    """One key of the file, or one that it lacks."""

    key: str
    value: str
    """As the file has it, fit for a line; secrets are hidden."""
    status: Status
    settings: tuple[str, ...] = ()
    """Dotted paths of the settings that it became."""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Imported:
    """A checked recipe and what was made of each key."""

    recipe: Recipe
    data: dict[str, dict[str, Any]]
    """The values that were set, by section; everything else is a default of ours."""
    rows: tuple[Row, ...]
    kind: str
    """What the file is, in words."""

    def count(self, status: Status) -> int:
        """How many keys ended that way."""
        return sum(row.status == status for row in self.rows)


def shown(key: str, value: Any) -> str:
    """A value of the file for a line: short, inert, secrets hidden."""
    name = key.rpartition(" ")[2].removeprefix("--")
    if name.lower().endswith(SECRET):
        return "(hidden)" if value not in ("", None) else ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return inert(" ".join(str(one) for one in value[:20]), 60)
    if isinstance(value, dict):
        return "a table"
    return inert("" if value is None else str(value), 60)
