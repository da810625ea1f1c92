"""What a run has learnt of numbers and memory going wrong; part of its state, so that a resume knows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


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

    def state(self) -> dict[str, Any]:
        """Plain numbers for state.json."""
        return {
            "rate_factor": self.rate_factor,
            "rollbacks": self.rollbacks,
            "rows": self.rows,
            "skipped_steps": self.skipped_steps,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Exact inverse of `state`; what an older state lacks stays as it is."""
        self.rate_factor = float(state.get("rate_factor", self.rate_factor))
        self.rollbacks = int(state.get("rollbacks", self.rollbacks))
        rows = state.get("rows", self.rows)
        self.rows = None if rows is None else int(rows)
        self.skipped_steps = int(state.get("skipped_steps", self.skipped_steps))
