"""What a run has learnt of numbers and memory going wrong; part of its state, so that a resume knows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from engine.spikes import Spikes

MOST_BACKOFFS = 20
"""Updates that the fp16 loss scaler may leave out one after the other; from 2 ** 16 it is at 1 by then."""
LEAST_SCALE = 1.0
"""A loss scaler below it finds gradients infinite that nothing has scaled up."""


class WentWrong(Exception):
    """Numbers have gone wrong: what came after the last good state is not to be kept."""

    def __init__(
        self,
        steps: Sequence[int],
        reason: str,
        path: str = "optim.lr",
        *,
        samples: Sequence[int] = (),
    ) -> None:
        super().__init__(reason)
        self.steps = tuple(steps)
        """Optimizer steps whose pictures are to be named, the one that it was seen in last."""
        self.reason = reason
        """In words, a sentence without its full stop."""
        self.path = path
        """Dotted path of the setting that it hangs on."""
        self.samples = tuple(samples)
        """Which samples of the step it began with, where it is known that the others were sound."""


class UpdateCutShort(Exception):
    """Memory ran out while the weights were being changed: some may have moved, some not."""

    def __init__(self, step: int) -> None:
        super().__init__(f"memory ran short in the update of step {step}")
        self.step = step


@dataclass(slots=True)
class Guard:
    """Kept by the training; changed by the loop only."""

    rate_factor: float = 1.0
    """What every learning rate is multiplied by; halved at each rollback."""
    rollbacks: int = 0
    """How often the run was rolled back."""
    rows: int | None = None
    """Samples that a pass holds at most since memory ran short; None where it never did."""
    skipped_steps: int = 0
    """Updates that the fp16 loss scaler has left out."""
    backoffs: int = 0
    """How many of these were the last steps, one after the other."""
    spikes: Spikes = field(default_factory=Spikes)
    """The usual losses, and how many of the last steps were far above them."""

    def state(self) -> dict[str, Any]:
        """Plain numbers for state.json."""
        return {
            "rate_factor": self.rate_factor,
            "rollbacks": self.rollbacks,
            "rows": self.rows,
            "skipped_steps": self.skipped_steps,
            "backoffs": self.backoffs,
            "spikes": self.spikes.state(),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Exact inverse of `state`; what an older state lacks is as in a new run."""
        known = {**Guard().state(), **state}
        self.rate_factor = float(known["rate_factor"])
        self.rollbacks = int(known["rollbacks"])
        self.rows = None if known["rows"] is None else int(known["rows"])
        self.skipped_steps = int(known["skipped_steps"])
        self.backoffs = int(known["backoffs"])
        self.spikes.load_state(known["spikes"])
