"""Whether the host has memory left for what is kept in it; what is not kept there goes to the disk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from engine.memory import available_host_bytes

MARGIN_BYTES = 2_000_000_000
"""Left to training itself, to the loader's pictures and to the rest of the machine."""


@dataclass(slots=True)
class HostRoom:
    """Asked before each entry that is kept in memory."""

    available: Callable[[], int] = available_host_bytes
    margin: int = MARGIN_BYTES
    least: int | None = field(default=None, init=False)
    """The least that was free when an entry was not kept; None where all of them were."""

    def short(self) -> bool:
        """Whether another entry would take what is left to others."""
        free = self.available()
        if free >= self.margin:
            return False
        self.least = free if self.least is None else min(free, self.least)
        return True

    def told(self, what: str, spilled: int, total: int) -> str:
        """A notice with figures of entries that are not kept in memory."""
        return (
            f"Memory is short: {spilled} of {total} {what} are read from the disk each time. "
            f"{(self.least or 0) / 1e9:.1f} GB were free, {self.margin / 1e9:.1f} GB are left to "
            "training."
        )
