"""What is known before a run starts: machine, base model, pictures, names that are taken."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.data.survey import Survey
    from engine.hardware import Hardware
    from engine.models.detect import ModelFacts
    from engine.planning.disk import Disk


def draw_seed() -> int:
    """A seed for a run whose seed is blank."""
    return secrets.randbits(32)


@dataclass(frozen=True, slots=True)
class Facts:
    """What `fill` and `plan` work from; None is not known yet."""

    hardware: Hardware
    model: ModelFacts | None = None
    survey: Survey | None = None
    adamw8bit_works: bool | None = None
    """Whether a real 8-bit step worked here; None where none was tried."""
    taken_names: frozenset[str] = frozenset()
    """Run names that exist already."""
    disk_at: Callable[[Path], Disk | None] | None = None
    """Tells of the disk of a folder; None where none is looked at."""
    drawn_seed: int = field(default_factory=draw_seed)
