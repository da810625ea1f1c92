"""What network is wanted, as plain values. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Rank = int | Literal["full"]
Kernel = tuple[int, ...]


def spans(kernel: Kernel) -> bool:
    """Whether a convolution looks beyond one pixel; those have a rank of their own."""
    return any(side != 1 for side in kernel)


@dataclass(frozen=True, slots=True)
class Dropouts:
    """Chances of a step's draws; all off outside training."""

    activation: float = 0.0
    rank: float = 0.0
    module: float = 0.0


@dataclass(frozen=True, slots=True)
class Choice:
    """Kind, size and targets of a network; every value is filled."""

    algorithm: str
    rank: Rank
    alpha: float
    """0 means the same as the rank."""
    targets: str = "attn-mlp"
    conv_rank: Rank | None = None
    """None: as `rank`. 0: convolutions beyond one pixel are left out."""
    conv_alpha: float | None = None
    rs_lora: bool = False
    tucker: bool = False
    scalar: bool = False
    factor: int = -1
    decompose_both: bool = False
    unbalanced: bool = False
    dropouts: Dropouts = Dropouts()

    def rank_of(self, kernel: Kernel) -> Rank:
        """Rank of a layer: convolutions beyond one pixel may have their own."""
        own = spans(kernel) and self.conv_rank is not None
        return self.conv_rank if own and self.conv_rank is not None else self.rank

    def alpha_of(self, kernel: Kernel) -> float:
        """Alpha of a layer, before `rs_lora`."""
        own = spans(kernel) and self.conv_alpha is not None
        alpha = self.conv_alpha if own and self.conv_alpha is not None else self.alpha
        rank = self.rank_of(kernel)
        return float(rank) if alpha == 0 and rank != "full" else alpha
