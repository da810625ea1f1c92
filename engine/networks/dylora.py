"""DyLoRA (Valipour et al. 2022, arXiv:2210.07558): a LoRA whose first ranks work without the others.

Training draws k blocks a pass, r = k * block ranks: dW = (alpha / r) * up[:, :r] @ down[:r]. Outside
training all ranks are used, and files are those of a plain LoRA.

The draw is a mask over the ranks: slices would change shapes from step to step.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from engine.draws import rng
from engine.networks.base import ALPHA, Size, Tensors
from engine.networks.choice import Choice
from engine.networks.dropout import Moment
from engine.networks.lora import DOWN, MID, UP, Lora


class CutFactors(torch.autograd.Function):
    """Down and up for the products: ranks beyond the drawn are zero, only some of the rest learn."""

    @staticmethod
    def forward(
        ctx: Any,
        down: Tensor,
        up: Tensor,
        drawn_D: Tensor,
        learning_D: Tensor,
        scale: float,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(learning_D)
        ctx.scale, ctx.dtype = scale, up.dtype
        return down.to(dtype), (up * _on_axis(drawn_D, 1, up) * scale).to(dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, down_grad: Tensor, up_grad: Tensor) -> tuple[Tensor | None, ...]:
        (learning_D,) = ctx.saved_tensors
        down_grad = down_grad.to(ctx.dtype) * _on_axis(learning_D, 0, down_grad)
        up_grad = up_grad.to(ctx.dtype) * _on_axis(learning_D, 1, up_grad) * ctx.scale
        return down_grad, up_grad, None, None, None, None


class Dylora(Lora):
    """Two factors, cut to as many ranks as the pass has drawn."""

    block_size = 1
    """Ranks that are drawn together."""
    detach_lower = True
    """Whether only the last drawn block learns (the paper's frozen variant), or all that are drawn."""
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
        rank, drawn = down.shape[0], self.drawn_rank()
        place_D = torch.arange(rank, device=down.device)
        drawn_D = place_D < drawn
        learning_D = drawn_D
        if self.detach_lower:
            learning_D = drawn_D & (place_D >= drawn - self.block_size)
        gain = (rank / drawn) ** (0.5 if self.rs_lora else 1.0)
        scale = self.size.scale * gain * factor
        found: tuple[Tensor, Tensor] = CutFactors.apply(  # type: ignore[no-untyped-call]
            down, up, drawn_D, learning_D, scale, dtype
        )
        return found


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
