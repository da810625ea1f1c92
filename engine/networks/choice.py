"""What network is wanted, as plain values. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from engine.networks.overrides import Override

Rank = int | Literal["full"]
Kernel = tuple[int, ...]
DoraAxis = Literal["off", "input", "output"]
SigType = Literal["principal", "last", "middle"]


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
    """Kind, size and targets of a network; every value is filled.

    An algorithm reads what it knows; what it does not know is refused before this is made.
    """

    algorithm: str
    rank: Rank
    """Size of the network; of a rotation the largest block. "full" where there is no rank."""
    alpha: float
    """0 means the same as the rank."""
    targets: str = "attn-mlp"
    conv_rank: Rank | None = None
    """None: as `rank`. 0: convolutions beyond one pixel are left out."""
    conv_alpha: float | None = None
    rs_lora: bool = False
    tucker: bool = False
    scalar: bool = False
    dora: DoraAxis = "off"
    factor: int = -1
    decompose_both: bool = False
    unbalanced: bool = False
    block_size: int = 4
    """DyLoRA: ranks that are drawn together."""
    detach_lower: bool = True
    """DyLoRA: whether only the last drawn block learns."""
    constraint: float = 0.0
    """Rotations: how far they may turn; 0 is off."""
    rescaled: bool = False
    """Rotations: whether a trained factor for each output follows."""
    train_on_input: bool = False
    """(IA)³: whether inputs are scaled instead of outputs."""
    sig_type: SigType = "principal"
    """T-LoRA: which singular values of the base it starts from."""
    use_data_init: bool = True
    min_rank: int = 1
    mask_alpha: float = 1.0
    orthogonality: float = 0.0
    """T-LoRA: weight of the term that keeps its factors orthogonal; 0 is off."""
    train_norm: bool = False
    """Whether the norms inside the targeted blocks are trained too."""
    overrides: tuple[Override, ...] = ()
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
