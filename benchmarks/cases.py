"""The algorithms that benchmarks/adapters.py measures, and the bars that each has to meet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from engine.networks.choice import Choice

Bars = tuple[float, float]
"""Gate and stretch."""


@dataclass(frozen=True)
class Case:
    """An algorithm with its size, what the peers call it, and the bars that it has to meet."""

    choice: Choice
    lycoris: str
    options: Mapping[str, Any] = field(default_factory=dict)
    peft: str = ""
    time: Mapping[str, Bars] = field(default_factory=dict)
    """Step / floor by targets."""
    saved: Bars | None = None
    """Saved bytes / floor."""
    peer_targets: tuple[str, ...] = ("attn-mlp", "full")
    """Where lycoris-lora is run too: what it saves for BOFT on all layers fills 30 GB."""

    @property
    def rank(self) -> int:
        """The rank as lycoris-lora takes it."""
        return 10000 if self.choice.rank == "full" else self.choice.rank


def kronecker(factor: int, bars: Bars | None) -> Case:
    """LoKr with both halves full."""
    return Case(
        Choice("lokr", "full", 1.0, factor=factor),
        "lokr",
        {"factor": factor, "full_matrix": True},
        peft="lokr" if factor == 8 else "",
        time={} if bars is None else {"attn-mlp": bars},
        saved=(2.0, 1.25),
    )


CASES: dict[str, Case] = {
    "lora": Case(
        Choice("lora", 16, 16.0),
        "lora",
        peft="lora",
        time={"attn-mlp": (1.20, 1.12), "full": (1.40, 1.25)},
        saved=(1.25, 1.25),
    ),
    "locon": Case(Choice("locon", 16, 16.0, tucker=True), "locon", {"use_tucker": True}),
    "dora": Case(
        Choice("lora", 16, 16.0, dora="input"),
        "lora",
        {"weight_decompose": True, "wd_on_out": False},
        peft="dora",
        time={"attn-mlp": (1.70, 1.45)},
    ),
    "loha-16": Case(
        Choice("loha", 16, 16.0),
        "loha",
        peft="loha",
        time={"attn-mlp": (1.60, 1.45)},
        saved=(2.0, 1.25),
    ),
    "loha-4": Case(
        Choice("loha", 4, 4.0), "loha", time={"attn-mlp": (1.30, 1.20)}, saved=(2.0, 1.25)
    ),
    "lokr-4": kronecker(4, (1.45, 1.30)),
    "lokr-8": kronecker(8, (1.45, 1.30)),
    "lokr-even": kronecker(-1, None),
    "ia3": Case(Choice("ia3", 1, 1.0), "ia3", time={"attn-mlp": (1.10, 1.05)}, saved=(1.75, 1.25)),
    "dylora": Case(Choice("dylora", 16, 16.0, block_size=4), "dylora", {"block_size": 4}),
    "glora": Case(Choice("glora", 16, 16.0), "glora", time={"attn-mlp": (1.45, 1.30)}),
    "diag-oft": Case(
        Choice("diag-oft", 16, 16.0),
        "diag-oft",
        time={"attn-mlp": (1.25, 1.15)},
        saved=(1.75, 1.25),
    ),
    "boft": Case(
        Choice("boft", 16, 16.0),
        "boft",
        time={"attn-mlp": (2.5, 1.8)},
        peer_targets=("attn-mlp",),
    ),
    "full": Case(
        Choice("full", "full", 1.0),
        "full",
        time={"attn-mlp": (1.15, 1.10), "full": (1.75, 1.67)},
    ),
    "t-lora": Case(
        Choice("t-lora", 16, 16.0, use_data_init=False), "tlora", {"use_data_init": False}
    ),
}


def with_targets(choice: Choice, targets: str) -> Choice:
    """The choice on other layers."""
    return replace(choice, targets="unet-only" if targets == "full" else targets)
