"""What is written, and when."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge

from engine.settings.ask import Ask, Section


class Save(Section):
    """What is written, and when."""

    every_epochs: Annotated[int, Ge(0), Ask("Save every", unit="epochs")] = 1
    """Write a network file after every n-th epoch; 0 writes the last one only."""
    every_steps: Annotated[int, Ge(0), Ask("Save every", "advanced", unit="steps")] = 0
    """Write a network file after every n-th step; 0 is off."""
    every_minutes: Annotated[float, Ge(0), Ask("Save every", "expert", unit="min")] = 0.0
    """Write a network file at the first step after so many minutes; 0 is off."""
    precision: Annotated[Literal["fp16", "bf16", "fp32"], Ask("File precision", "advanced")] = (
        "fp16"
    )
    """Number format of the weights in the file."""
    keep_last: Annotated[
        int | None, Ge(1), Ask("Keep the last", "advanced", unit="files", blank="all")
    ] = None
    """How many of the files written on the way are kept; the final one always is."""
    state_minutes: Annotated[float, Ge(0), Ask("State every", "advanced", unit="min")] = 10.0
    """The exact state is written at least this often, and after every epoch."""
    keep_states: Annotated[int, Ge(2), Ask("States kept", "expert")] = 2
    """How many states are kept to fall back to."""
    metadata: Annotated[Literal["full", "private", "minimal"], Ask("Metadata", "advanced")] = "full"
    """What the file tells: all, without folder names, tags and comment, or only what loaders need."""
    comment: Annotated[str, Ask("Comment", "advanced", blank="the trigger")] = ""
    """Text stored in the file; other programs show it."""
    title: Annotated[str, Ask("Title", "expert", blank="the run's name")] = ""
    """Name of the network in its metadata."""
    author: Annotated[str, Ask("Author", "expert")] = ""
    """Your name, if it is to stand in the file."""
    description: Annotated[str, Ask("Description", "expert")] = ""
    """What the network is for, for those who get the file."""
    license: Annotated[str, Ask("Licence", "expert")] = ""
    """What others may do with the file."""
    copy_to: Annotated[Path | None, Ask("Copy to", "advanced", kind="folder", blank="nowhere")] = (
        None
    )
    """Folder that also gets the finished file, such as ComfyUI's models/loras."""
