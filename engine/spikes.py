"""When a loss is a spike: each sample's loss beside the usual one of its timesteps.

The plain mean of the loss tells nothing, since the loss at small timesteps is fifty times that at large
ones: which timesteps a step has drawn moves it more than anything that goes wrong. No torch.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

EDGES = (10, 25, 50, 100, 200, 400, 700)
"""Where bins of timesteps begin, the first one at 0."""
BINS = len(EDGES) + 1
FEWEST = 8
"""Samples that a bin has seen before anything is compared with its mean."""
WINDOW = 200
"""A new sample weighs 1 / WINDOW in its bin's mean once that many were seen, and more before."""
IN_A_ROW = 3
"""Steps above the limit, one after the other, that make a spike."""


@dataclass(slots=True)
class Spikes:
    """The usual loss of each bin of timesteps, and how many of the last steps were above it."""

    means: list[float] = field(default_factory=lambda: [0.0] * BINS)
    counts: list[int] = field(default_factory=lambda: [0] * BINS)
    running: int = 0
    """Steps above the limit without one between them that was not."""

    def ratio(self, losses: Sequence[float], timesteps: Sequence[int]) -> float | None:
        """Mean over samples of a loss divided by its bin's mean; None where no bin knows enough yet."""
        found = [
            loss / self.means[number]
            for loss, number in zip(losses, map(bin_of, timesteps), strict=True)
            if self.counts[number] >= FEWEST and self.means[number] > 0
        ]
        return sum(found) / len(found) if found else None

    def learn(self, losses: Sequence[float], timesteps: Sequence[int]) -> None:
        """Take the losses of a step into the means."""
        for loss, number in zip(losses, map(bin_of, timesteps), strict=True):
            self.counts[number] += 1
            weight = 1 / min(self.counts[number], WINDOW)
            self.means[number] += (loss - self.means[number]) * weight

    def add(self, losses: Sequence[float], timesteps: Sequence[int], limit: float) -> bool:
        """Take in a step; whether it is the third one running above the limit. 0 looks at nothing.

        A step above the limit teaches nothing: it would be usual itself before three have shown it.
        """
        ratio = self.ratio(losses, timesteps) if limit > 0 else None
        if ratio is not None and ratio > limit:
            self.running += 1
            return self.running >= IN_A_ROW
        self.learn(losses, timesteps)
        if (
            ratio is not None or limit <= 0
        ):  # else there was nothing to compare with: it ends no row
            self.running = 0
        return False

    def state(self) -> dict[str, Any]:
        """Plain numbers for state.json."""
        return {"means": list(self.means), "counts": list(self.counts), "running": self.running}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Exact inverse of `state`; bins of another version begin anew."""
        same = len(state.get("means", ())) == len(state.get("counts", ())) == BINS
        known = state if same else Spikes().state()
        self.means = [float(mean) for mean in known["means"]]
        self.counts = [int(count) for count in known["counts"]]
        self.running = int(known.get("running", 0))


def bin_of(timestep: int) -> int:
    """Number of the bin that a timestep falls into."""
    return bisect_right(EDGES, timestep)
