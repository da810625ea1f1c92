"""How a setting is asked: the one place that carries label, level, unit and flag."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict

Level = Literal["basic", "advanced", "expert"]


@dataclass(frozen=True, slots=True)
class Ask:
    """What a form, a flag and a documentation row need to know beyond type, range and help."""

    label: str
    level: Level = "basic"
    unit: str = ""
    flag: str = ""
    """Its own command-line flag ("--lr"); all settings have `--set section.key=value`."""
    blank: str = ""
    """What an unset (None) value means, in words: "from the GPU's memory"."""
    kind: Literal["", "file", "folder", "text", "lines"] = ""
    """Hint for a picker or a text area where the type alone does not tell."""


class Section(BaseModel):
    """Base of every section: frozen, strict about unknown keys, help from attribute docstrings."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, use_attribute_docstrings=True
    )
