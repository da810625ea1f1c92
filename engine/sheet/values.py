"""What a contact sheet is asked and what comes of it. Plain values; no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from engine.prompts import Prompt
from engine.sampler_names import SamplerName

if TYPE_CHECKING:
    from engine.sampling import Shot

Progress: TypeAlias = Callable[[int, int, str], None]
"""Called with (done, total, words) before each picture and each of its steps; may raise to stop."""
STRENGTHS = (0.6, 1.0)
MOST_FILES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What is asked for by hand; None takes what the run or the file says, else the usual value."""

    model: Path | None = None
    prompts: tuple[Prompt, ...] = ()
    strengths: tuple[float, ...] = STRENGTHS
    negative: str | None = None
    seed: int | None = None
    steps: int | None = None
    sampler: SamplerName | None = None
    guidance: float | None = None
    width: int | None = None
    height: int | None = None
    device: str | None = None
    most_files: int = MOST_FILES
    """Of a run's files, spread evenly with the last among them; 0 takes all."""


@dataclass(frozen=True, slots=True)
class SheetFile:
    """A network file and what it is called on the sheet."""

    path: Path
    label: str
    epoch: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SheetRequest:
    """A sheet with everything settled but what only the loaded base tells."""

    title: str
    files: tuple[SheetFile, ...]
    base: Path
    prompts: tuple[Prompt, ...]
    strengths: tuple[float, ...]
    steps: int
    guidance: float
    seed: int
    negative: str = ""
    sampler: SamplerName = "ddim"
    width: int | None = None
    """None is the size that the base was made for."""
    height: int | None = None
    clip_skip: int = 1
    zero_terminal_snr: bool = False
    max_tokens: int = 75
    family: str = "auto"
    prediction: str = "auto"
    vae: Path | None = None
    device: str = "auto"
    precision: str | None = None
    """None is bf16 where the GPU has it, fp16 on another, fp32 on the CPU."""

    @property
    def rows(self) -> tuple[tuple[SheetFile | None, float], ...]:
        """File and strength of each row; the base alone comes first, once, as (None, 0)."""
        base = [(None, 0.0)] if 0 in self.strengths else []
        others = sorted({strength for strength in self.strengths if strength != 0})
        return (*base, *((file, strength) for file in self.files for strength in others))


@dataclass(frozen=True, slots=True)
class Cell:
    """One picture; without a path `note` says why there is none."""

    shot: Shot
    path: Path | None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """The pictures of one file at one strength."""

    label: str
    file: SheetFile | None
    strength: float
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class Sheet:
    """All pictures, and where the grid and the page were written."""

    title: str
    base: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    left_out: tuple[str, ...] = ()
    """What of the files was not used, in words."""
    grid: Path | None = None
    page: Path | None = None
    written: tuple[Path, ...] = field(default=())
    """Single pictures that were copied out of the cache."""

    @property
    def pictures(self) -> int:
        """How many there are."""
        return sum(cell.path is not None for row in self.rows for cell in row.cells)


def row_label(file: SheetFile | None, strength: float) -> str:
    """What stands beside a row."""
    return "base alone" if file is None else f"{file.label} × {strength:g}"
