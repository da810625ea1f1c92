"""DyLoRA (Valipour et al. 2022, arXiv:2210.07558): a LoRA whose first ranks work without the others.

Training draws k blocks a pass, r = k * block ranks: dW = (alpha / r) * up[:, :r] @ down[:r]. Outside
training all ranks are used, and files are those of a plain LoRA.

The draw is a mask over the ranks: slices would change shapes from step to step.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from engine.draws import rng
from engine.networks.base import ALPHA, Size, Tensors
from engine.networks.choice import Choice
from engine.networks.dropout import Moment
from engine.networks.lora import DOWN, MID, UP, Lora


class Dylora(Lora):
    """Two factors, cut to as many ranks as the pass has drawn."""

    block_size = 1
    """Ranks that are drawn together."""
    detach_lower = True
    """Whether only the last drawn block learns (section 3 of the paper), or all that are drawn."""
    rs_lora = False
    """Whether the scale goes with the root of the drawn rank."""

    @classmethod
    def read_size(cls, layer: nn.Module, tensors: Tensors) -> Size:
        """As of a LoRA; a middle factor cannot be cut with the outer two."""
        if MID in tensors:
            raise ValueError("DyLoRA has no tucker convolutions")
        return super().read_size(layer, tensors)

    def adopt(self, choice: Choice) -> None:
        """Block size, what learns, and how the scale follows the rank."""
        rank = self.weight(DOWN).shape[0]
        if rank % choice.block_size:
            raise ValueError(f"blocks of {choice.block_size} do not make up the rank {rank}")
        self.block_size = choice.block_size
        self.detach_lower = choice.detach_lower
        self.rs_lora = choice.rs_lora

    def drawn_rank(self) -> int:
        """r of the pass: a multiple of the block size, at most the rank."""
        rank = self.weight(DOWN).shape[0]
        return self.block_size * drawn_blocks(self.setup.moment, rank // self.block_size)

    def _factors(self, factor: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """In training cut to the drawn ranks: those beyond add nothing and learn nothing."""
        if not self.training:
            return super()._factors(factor, dtype)
        up, down = self.weight(UP), self.weight(DOWN)
        place_D = torch.arange(down.shape[0], device=down.device)
        # A tensor, so that a compiled graph serves every draw; on the host, so that no copy waits.
        drawn = torch.tensor(self.drawn_rank())
        if self.detach_lower:
            learns_D = place_D >= drawn - self.block_size
            up = torch.where(_on_axis(learns_D, 1, up), up, up.detach())
            down = torch.where(_on_axis(learns_D, 0, down), down, down.detach())
        gain = (down.shape[0] / drawn.to(up.dtype)) ** (0.5 if self.rs_lora else 1.0)
        gain_D = (place_D < drawn).to(up.dtype) * gain
        up = up * _on_axis(gain_D, 1, up) * (self.scale() * factor)
        return down.to(dtype), up.to(dtype)


def drawn_blocks(moment: Moment, blocks: int) -> int:
    """k in 1..n, each as likely, for one planned micro-batch of the whole network.

    Modules of other ranks take the same share of theirs.
    """
    share = rng(moment.seed, "dylora", moment.step, moment.batch).random()
    return 1 + int(share * blocks)


def truncated(tensors: Tensors, rank: int, *, rs_lora: bool = False) -> dict[str, Tensor]:
    """A module's tensors cut to the first ranks, at the scale at which these were trained.

    Alpha is kept; with `rs_lora` the file's alpha holds the root of the rank, so it becomes that of the
    new one. Raises ValueError where the module has fewer ranks.
    """
    whole = tensors[DOWN].shape[0]
    if not 1 <= rank <= whole:
        raise ValueError(f"the rank must be between 1 and {whole}, not {rank}")
    found = dict(tensors)
    found[UP] = tensors[UP][:, :rank].contiguous()
    found[DOWN] = tensors[DOWN][:rank].contiguous()
    alpha = tensors[ALPHA] if ALPHA in tensors else torch.tensor(float(whole))
    found[ALPHA] = alpha * math.sqrt(rank / whole) if rs_lora else alpha.clone()
    return found


def _on_axis(values_D: Tensor, axis: int, like: Tensor) -> Tensor:
    shape = [1] * like.dim()
    shape[axis] = -1
    return values_D.view(shape)
