"""A recipe while its blanks are filled: who set a value, what may be put, and why it was."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from engine.hardware import Device
from engine.planning import proposals
from engine.planning.base import BaseSize
from engine.planning.facts import Facts
from engine.settings import Recipe
from engine.settings.optimizers import ADAPTIVE

Source = Literal["you", "preset", "detected", "default", "drawn"]


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value came from, and why it is what it is."""

    source: Source
    reason: str = ""

    def to_dict(self) -> dict[str, str]:
        """As JSON."""
        return asdict(self)


class Filler:
    """Collects filled values and their origins."""

    def __init__(
        self,
        recipe: Recipe,
        facts: Facts,
        device: Device,
        base: BaseSize,
        given: Mapping[str, Origin] | None = None,
    ) -> None:
        self.given = given
        self.recipe = recipe
        self.facts = facts
        self.device = device
        self.base = base
        self.origins: dict[str, Origin] = {}

    def blank(self, path: str) -> bool:
        """Whether the setting has no value."""
        section, key = path.split(".")
        return getattr(getattr(self.recipe, section), key) is None

    def unset(self, path: str) -> bool:
        """Whether nobody chose the setting's value."""
        section, key = path.split(".")
        return key not in getattr(self.recipe, section).model_fields_set

    def known(self, path: str) -> bool:
        """Whether the section has such a setting at all: not every algorithm has a rank."""
        section, _, key = path.partition(".")
        return key in type(getattr(self.recipe, section)).model_fields

    def typed(self, path: str) -> bool:
        """Whether the user gave the setting's value, rather than a preset or nobody."""
        if self.unset(path) or self.blank(path):
            return False
        if self.given is None:
            return True
        return path in self.given and self.given[path].source == "you"

    def usual(self, path: str) -> bool:
        """Whether the setting has its declared default, as it also has in a recipe written out."""
        section_name, key = path.split(".")
        section = getattr(self.recipe, section_name)
        return bool(getattr(section, key) == type(section).model_fields[key].default)

    def put(self, path: str, value: Any, source: Source, reason: str) -> None:
        """Set a value and remember why."""
        section_name, key = path.split(".")
        section = getattr(self.recipe, section_name).model_copy(update={key: value})
        self.recipe = self.recipe.model_copy(update={section_name: section})
        self.origins[path] = Origin(source, reason)

    def fill(self, path: str, value: Any, source: Source, reason: str) -> None:
        """Set a value where there is none."""
        if self.blank(path):
            self.put(path, value, source, reason)

    def propose(self, path: str, proposal: proposals.Proposal) -> None:
        """Set a value detected from the machine where there is none."""
        self.fill(path, proposal.value, "detected", proposal.reason)

    @property
    def pixels(self) -> int:
        """Area budget of a picture."""
        width, height = self.recipe.data.resolution or (self.base.resolution,) * 2
        return width * height

    @property
    def adaptive(self) -> bool:
        """Whether the optimizer finds the rate itself."""
        return self.recipe.optim.optimizer in ADAPTIVE
