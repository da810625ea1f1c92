"""BOFT (Liu et al. 2023, arXiv:2311.06243): a butterfly of turned blocks reaches all outputs.

W' = R_p ... R_0 W. Stage i regroups rows (c g k) -> (c k g), g = 2, k = 2^i b/2, and turns blocks of b.

An output's number is some bits and a place below b/2; stage i mixes bit i and the place. Stages in a
row mix several bits, and their product is again blockwise, with larger blocks: few large products of
the activations are quicker than many small ones.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from engine.networks.rotation import BLOCKS, Rotation, Step, Turns, cayley

LARGEST_BLOCK = 128
"""Rows of a product of stages. Larger ones save passes and cost products."""


class Boft(Rotation):
    """Blocks of [stages, K, b, b]."""

    @classmethod
    def check_blocks(cls, outputs: int, shape: tuple[int, ...]) -> None:
        """b even, K a power of two, and one stage more than its exponent."""
        fits = len(shape) == 4 and shape[2] == shape[3] and shape[1] * shape[2] == outputs
        if not fits or shape[2] % 2 or shape[1] & (shape[1] - 1):
            raise ValueError(f"{BLOCKS} is {list(shape)}, no butterfly of {outputs} outputs")
        if shape[0] != shape[1].bit_length():
            raise ValueError(f"{BLOCKS} has {shape[0]} stages, not {shape[1].bit_length()}")

    def steps(self) -> tuple[Step, ...]:
        """One for each product of stages."""
        stages, _, size, _ = self.weight(BLOCKS).shape
        return butterfly_steps(stages, size)

    def turns(self, q: Tensor, rescale: Tensor | None) -> Turns:
        """Products of stages, less the identity; the rescale comes last."""
        stage_turns = stage_order(cayley(q))
        found = []
        first = 0
        for step in self.steps():
            last = first + step.mixed.bit_length() - 1
            found.append(product_of_stages(stage_turns[first:last], step))
            first = last
        if rescale is not None:
            step = self.steps()[-1]
            d = step.cut(rescale[None])
            found[-1] = found[-1] * d + torch.diag_embed(d[:, 0] - 1)
        return tuple(found)


@lru_cache(maxsize=256)
def butterfly_steps(stages: int, size: int, largest: int = LARGEST_BLOCK) -> tuple[Step, ...]:
    """Stages in as few products as there can be of blocks that are not too large."""
    half = size // 2
    most = max(1, (largest // half).bit_length() - 1)
    products = -(-stages // most)
    steps = []
    bits = 0
    for number in range(products):
        own = (stages - bits) // (products - number)
        steps.append(Step(2 ** (stages - bits - own), 2**own, 2**bits, half))
        bits += own
    return tuple(steps)


def stage_order(turns: Tensor) -> Tensor:
    """Blocks for rows that lie as (bit, place), to be multiplied from the right."""
    stages, count, size, _ = turns.shape
    cut = turns.view(stages, count, size // 2, 2, size // 2, 2)
    return cut.permute(0, 1, 5, 4, 3, 2).reshape(turns.shape)


def product_of_stages(turns: Tensor, step: Step) -> Tensor:
    """prod (I + turn) - I over the stages of a step: [K, S, S].

    Blocks double with each stage, by D' = D + (I + D) turn; D is carried without the identity, so
    that a small turn keeps its digits.
    """
    outer, inner, half = step.outer, step.inner, step.width
    two = torch.eye(2, dtype=turns.dtype, device=turns.device).view(2, 1, 1, 2, 1, 1)
    change = turns.new_zeros(outer * step.mixed, inner, half, half)
    for bit, turn in enumerate(turns):
        low, high = 2**bit, step.mixed // 2 ** (bit + 1)
        size = low * half
        # outer and higher bits, this bit of the row, inner, row, lower bits and place of the column
        old = change.view(-1, 2, inner, size, low, half)
        whole = old + torch.eye(size, dtype=turns.dtype, device=turns.device).view(size, low, half)
        own = turn.view(outer * high, low, inner, 2, half, 2 * half).permute(0, 3, 2, 1, 4, 5)
        part = whole.transpose(3, 4) @ own
        part = part.unflatten(5, (2, half)).permute(0, 1, 2, 4, 5, 3, 6)
        change = (
            (old.unsqueeze(4) * two + part).transpose(1, 2).reshape(-1, inner, 2 * size, 2 * size)
        )
    return change.reshape(-1, step.size, step.size)
