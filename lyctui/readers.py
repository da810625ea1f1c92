"""Which programs will read the file of a run, and with what limits. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from engine.networks.choice import Choice, spans
from engine.networks.presets import LayerLike
from engine.networks.shapes import shapes_of

Level = Literal["yes", "partly", "no"]
PROGRAMS = {"C": "ComfyUI", "A": "A1111", "F": "Forge", "D": "diffusers", "L": "LyCORIS"}
Planned = Sequence[tuple[LayerLike, Choice]]
Verdict = tuple[Level, str]
YES: Verdict = ("yes", "")


@dataclass(frozen=True, slots=True)
class Reading:
    """What one program makes of the file."""

    letter: str
    level: Level
    words: str = ""
    """What it does not read, or only in part, and what to do."""

    @property
    def program(self) -> str:
        """Its name."""
        return PROGRAMS[self.letter]

    @property
    def sign(self) -> str:
        """The letter; small where it reads only a part, a dash where it reads nothing."""
        return {"yes": self.letter, "partly": self.letter.lower(), "no": "-"}[self.level]


def readings(recipe: object, base: object, planned: Planned) -> tuple[Reading, ...]:
    """Every program's verdict."""
    return ()
