"""Which programs will read the file of a run, as a row of letters and in words. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from engine.networks.choice import Choice
from engine.networks.consumers import BADNESS, Consumer, Level, Verdict
from engine.networks.names import Place
from engine.networks.presets import LayerLike
from engine.planning.network import planned_readers

LETTERS: dict[str, Consumer] = {
    "C": "comfyui",
    "A": "a1111",
    "F": "forge",
    "D": "diffusers",
    "L": "lycoris",
}
"""The programs that have a column in a table."""
EVERY: dict[str, Consumer] = LETTERS | {"K": "kohya"}
PROGRAMS = {
    "C": "ComfyUI",
    "A": "A1111",
    "F": "Forge",
    "D": "diffusers",
    "L": "LyCORIS",
    "K": "kohya's lora.py",
}
LEGEND = "C ComfyUI  A A1111  F Forge  D diffusers  L LyCORIS   small: in part"


@dataclass(frozen=True, slots=True)
class Reading:
    """What one program makes of the file."""

    letter: str
    level: Level
    reason: str = ""
    """What it does with what it does not read; goes on after the program's name."""

    @property
    def program(self) -> str:
        """Its name."""
        return PROGRAMS[self.letter]

    @property
    def sign(self) -> str:
        """The letter; small where it reads only a part, a dash where it does not read the file."""
        return {"yes": self.letter, "partly": self.letter.lower(), "no": "-"}[self.level]


def readings(
    tensors: Mapping[str, tuple[int, ...]],
    planned: Iterable[tuple[LayerLike, Choice]],
    names: Mapping[Place, str],
    family: str,
) -> tuple[Reading, ...]:
    """The verdicts of a table's row on a planned network, from its tensors' names and shapes."""
    return _readings(planned_readers(tensors, planned, names, family), LETTERS)


def _readings(
    found: Mapping[Consumer, Verdict], letters: Mapping[str, Consumer]
) -> tuple[Reading, ...]:
    return tuple(
        Reading(letter, found[consumer].level, found[consumer].reason)
        for letter, consumer in letters.items()
    )


def loading_words(found: Mapping[Consumer, Verdict]) -> str:
    """Who loads a planned file, and what those do that read only a part of it."""
    every = _readings(found, EVERY)
    partly = limits(one for one in every if one.level == "partly")
    return " ".join([f"{loads_in(every)}.", *partly])


def loads_in(found: Iterable[Reading]) -> str:
    """ "ComfyUI, A1111 and Forge; in part diffusers; not LyCORIS"."""
    every = tuple(found)
    parts = [
        f"{lead}{listed([one.program for one in every if one.level == level])}"
        for level, lead in (("yes", ""), ("partly", "in part "), ("no", "not "))
        if any(one.level == level for one in every)
    ]
    return "; ".join(parts)


def limits(found: Iterable[Reading]) -> list[str]:
    """What becomes of the file in the programs that do not read all of it; one sentence a reason."""
    by_reason: dict[str, list[str]] = {}
    for one in found:
        if one.level != "yes":
            by_reason.setdefault(one.reason or "does not read it", []).append(one.program)
    return [
        f"{names[0]} {reason}." if len(names) == 1 else f"{listed(names)}: {reason}."
        for reason, names in by_reason.items()
    ]


def gained(before: Iterable[Reading], after: Iterable[Reading]) -> list[str]:
    """Programs that do better with the second file than with the first."""
    pairs = zip(before, after, strict=True)
    return [new.program for old, new in pairs if _better(old, new)]


def _better(old: Reading, new: Reading) -> bool:
    if old.level == new.level == "partly":
        return len(new.reason) < len(old.reason)
    return BADNESS[new.level] < BADNESS[old.level]


def listed(names: list[str]) -> str:
    """ "ComfyUI, A1111 and Forge"."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
