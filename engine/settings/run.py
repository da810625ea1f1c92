"""The run itself: its name, its folder, its manners."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from engine.settings.ask import Ask, Section


class Run(Section):
    """The run itself."""

    name: Annotated[
        str | None,
        Field(pattern=r"^[^/\\\x00-\x1f]{1,120}$"),
        Ask("Name", flag="--name", blank="the trigger and a free number"),
    ] = None
    """Name of the run's folder and of its files."""
    folder: Annotated[
        Path | None, Ask("Runs folder", "advanced", kind="folder", blank="lyctui/runs at home")
    ] = None
    """Where run folders are made."""
    on_disconnect: Annotated[Literal["continue", "stop"], Ask("Terminal lost", "advanced")] = (
        "continue"
    )
    """Go on without a screen, or save and stop."""
    csv: Annotated[bool, Ask("CSV log", "advanced")] = False
    """Also write every step's numbers to steps.csv in the run's folder."""
    tensorboard: Annotated[bool, Ask("TensorBoard log", "advanced")] = False
    """Also write TensorBoard's files, in the run's folder."""
    wandb: Annotated[bool, Ask("WandB log", "advanced")] = False
    """Send numbers and previews to Weights & Biases too: the only thing that leaves this machine."""
    wandb_project: Annotated[str, Ask("WandB project", "expert")] = "lyctui"
    """Project that wandb writes to; its key comes from the environment and is never stored."""
    deterministic: Annotated[bool, Ask("Bit-exact on the GPU", "expert")] = False
    """Use only kernels that give the same bits each time; slower on a GPU, free on the CPU."""
