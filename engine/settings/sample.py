"""Preview pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from annotated_types import Ge, Le, MultipleOf

from engine.sampler_names import SamplerName
from engine.settings.ask import Ask, Section

Side = Annotated[int, Ge(64), Le(4096), MultipleOf(8)]


class Sample(Section):
    """Pictures made while training, to judge it by."""

    prompts: Annotated[tuple[str, ...], Ask("Prompts", kind="lines")] = ()
    """One prompt a line; flags at its end set size, seed, steps, guidance; editable while it runs."""
    prompts_file: Annotated[
        Path | None, Ask("Prompts from a file", "advanced", kind="file", blank="none")
    ] = None
    """A .txt, .json or .toml file with further prompts, also one of kohya's; read at the start."""
    negative: Annotated[str, Ask("Negative prompt", "advanced")] = ""
    """What the pictures should not show, where a prompt has no --n."""
    at_start: Annotated[bool, Ask("Before the first step", "advanced")] = True
    """Make the pictures once before training, to compare with."""
    every_epochs: Annotated[int, Ge(0), Ask("Sample every", unit="epochs")] = 1
    """Make the pictures after every n-th epoch; 0 is off."""
    every_steps: Annotated[int, Ge(0), Ask("Sample every", "advanced", unit="steps")] = 0
    """Make the pictures after every n-th step; 0 is off."""
    every_minutes: Annotated[float, Ge(0), Ask("Sample every", "expert", unit="min")] = 0.0
    """Make the pictures at the first step after so many minutes; 0 is off."""
    sampler: Annotated[SamplerName, Ask("Sampler", "advanced")] = "ddim"
    """How noise becomes a picture."""
    steps: Annotated[int, Ge(1), Le(1000), Ask("Denoising steps", "advanced")] = 30
    """Steps of the sampler."""
    guidance: Annotated[float, Ge(0), Le(50), Ask("Guidance", "advanced")] = 7.5
    """How closely the pictures follow the prompt."""
    width: Annotated[Side | None, Ask("Width", "advanced", unit="px", blank="as trained")] = None
    """Width of the pictures."""
    height: Annotated[Side | None, Ask("Height", "advanced", unit="px", blank="as trained")] = None
    """Height of the pictures."""
    seed: Annotated[
        int | None, Ge(0), Le(2**32 - 1), Ask("Seed", "advanced", blank="from the run")
    ] = None
    """Seed of the first prompt's picture; the next prompts count on from it."""
