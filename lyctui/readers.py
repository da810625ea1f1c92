"""Which programs will read the file of a run, as a row of letters and in words. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from engine.networks.choice import Choice
from engine.networks.consumers import BADNESS, Consumer, Level, attention_of, parts_of
from engine.networks.consumers import readers as verdicts
from engine.networks.names import name_of
from engine.networks.presets import LayerLike

LETTERS: dict[str, Consumer] = {
    "C": "comfyui",
    "A": "a1111",
    "F": "forge",
    "D": "diffusers",
    "L": "lycoris",
}
PROGRAMS = {"C": "ComfyUI", "A": "A1111", "F": "Forge", "D": "diffusers", "L": "LyCORIS"}
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
    family: str,
) -> tuple[Reading, ...]:
    """Every program's verdict on a planned network, from its tensors' names and shapes."""
    modules: dict[str, dict[str, tuple[int, ...]]] = {}
    for key, shape in tensors.items():
        name, _, suffix = key.partition(".")
        modules.setdefault(name, {})[suffix] = shape
    on_input = {
        name_of(layer.component, layer.path) for layer, own in planned if own.train_on_input
    }
    found = verdicts(parts_of(modules, on_input=on_input), attention_of(modules, family))
    return tuple(
        Reading(letter, found[consumer].level, found[consumer].reason)
        for letter, consumer in LETTERS.items()
    )


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
