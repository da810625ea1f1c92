"""The table of algorithms and the consequences of the chosen one, in words. Knows no screen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lyctui import text
from lyctui.algorithms import ABOUT, stars
from lyctui.fields import number_text
from lyctui.network_numbers import Impossible, Numbers, Outcome, full_lokr, scale_of
from lyctui.readers import limits, loads_in
from lyctui.report import Line

if TYPE_CHECKING:
    from lyctui.wizard import Wizard

PENDING = "…"
WIDE, MEDIUM = 102, 60
"""Cells from which on there is room for every column, and for all but two."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column of the table."""

    head: str
    cells: int
    show: Callable[[str, Numbers | None], str]
    left: bool = False
    """Whether it holds words; numbers stand to the right."""

    def fit(self, words: str) -> str:
        """Words in the column's width."""
        return (text.pad if self.left else text.pad_left)(words, self.cells)


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns that there is room for."""

    columns: tuple[Column, ...]
    room: int

    def heads(self) -> str:
        """The titles."""
        return " ".join(column.fit(column.head) for column in self.columns)

    def row(self, name: str, found: Outcome | None) -> str:
        """One algorithm; where it is not possible, the reason in its place."""
        if isinstance(found, Impossible):
            return text.fit(f"not now: {found.words}", self.room)
        return " ".join(column.fit(column.show(name, found)) for column in self.columns)


def columns_for(room: int, *, ascii_only: bool = False) -> Columns:
    """The columns that fit into `room` cells, the same order at every width."""

    def fidelity(name: str, found: Numbers | None) -> str:
        return stars(found.stars[0] if found else ABOUT[name].fidelity, ascii_only=ascii_only)

    def flexibility(name: str, found: Numbers | None) -> str:
        return stars(found.stars[1] if found else ABOUT[name].flexibility, ascii_only=ascii_only)

    wide, narrow = room >= WIDE, room < MEDIUM
    good = Column("what it is good at", 21, lambda name, _: ABOUT[name].good, True)
    size = Column("size", 9 if wide else 8, _number(lambda one: text.filesize(one.file_bytes)))
    memory = Column("memory", 9 if wide else 8, _number(lambda one: text.memory(one.memory_bytes)))
    loads = Column("loads", 6 if wide else 5, _number(lambda one: one.letters), wide)
    if narrow:
        good = Column("good at", max(8, room - 24), lambda name, _: ABOUT[name].good, True)
        return Columns((good, size, memory, loads), room)
    speed = Column("speed", 5, _number(lambda one: f"{one.speed:.2f}"))
    if not wide:
        words = (Column("fid.", 4, fidelity, True), Column("flex", 4, flexibility, True))
        tight = Column("speed", 5, speed.show)
        return Columns((good, *words, size, memory, tight, loads), room)
    words = (Column("fidelity", 9, fidelity, True), Column("flexibility", 12, flexibility, True))
    numbers = Column("parameters", 13, _number(lambda one: text.grouped(one.parameters)))
    # SDXL's: 722+72+192, and full training has billions of parameters.
    modules = Column("modules", 10, _number(_modules))
    return Columns((good, *words, size, numbers, modules, memory, speed, loads), room)


def _number(show: Callable[[Numbers], str]) -> Callable[[str, Numbers | None], str]:
    return lambda name, found: PENDING if found is None else show(found)


def _modules(found: Numbers) -> str:
    return "+".join(str(count) for _, count in found.modules)


# the chosen one ------------------------------------------------------------------------------


def chosen_lines(wizard: Wizard, found: Outcome | None) -> list[Line]:
    """What the run comes to with the answers as they are, in numbers."""
    if found is None:
        waits = wizard.checked.recipe is None
        return [(("Counted once the other pages are valid." if waits else "Counting …", "dim"),)]
    if isinstance(found, Impossible):
        return []
    return [
        ((words, "" if place < 2 else "dim"),) for place, words in enumerate(_facts(wizard, found))
    ]


def _facts(wizard: Wizard, found: Numbers) -> list[str]:
    said = [_scale(wizard, found)]
    usual = "" if found.exact else " (of a usual Stable Diffusion 1)"
    said.append(
        f"File {text.filesize(found.file_bytes)}{usual}, memory {text.memory(found.memory_bytes)} "
        f"(estimate), speed {found.speed:.2f} of a LoRA's."
    )
    parts = " + ".join(f"{text.grouped(count)} {part}" for part, count in found.modules)
    said.append(f"{parts} modules, {text.grouped(found.parameters)} parameters.")
    said += [
        f"Not trained: {text.counted(count, 'module')} {why}." for why, count in found.left_out
    ]
    if found.blocks is not None:
        low, high = found.blocks
        said.append(f"Blocks of {low if low == high else f'{low} to {high}'} outputs.")
    said.append(" ".join([f"Loads in {loads_in(found.readings)}.", *limits(found.readings)]))
    if any(one.level != "yes" for one in found.readings):
        said.append("`lyctui convert FILE --for PROGRAM` writes what a program reads.")
    return [words for words in said if words]


def _scale(wizard: Wizard, found: Numbers) -> str:
    """ "Alpha / rank = 0.5: a rate of 1e-4 acts like 5e-5." """
    rate = wizard.effective("optim.lr")
    scale = scale_of(found)
    if scale is None:
        if full_lokr(found):
            return "Both factors are full: rank and alpha have no effect, the rate acts as it is."
        return f"No alpha: the rate of {text.rate(rate)} acts as it is." if rate else ""
    choice = found.choice
    words = f"Alpha / {'√' if choice.rs_lora else ''}rank = {number_text(choice.alpha_of(()))} / "
    words += f"{choice.rank} = {text.significant(scale, 2)}"
    if rate:
        words += f": a rate of {text.rate(rate)} acts like {text.rate(rate * scale)}"
    return f"{words}."
