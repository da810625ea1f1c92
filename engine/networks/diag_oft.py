"""Diag-OFT (Qiu et al. 2023, arXiv:2306.07280): consecutive outputs are turned in blocks.

W'[k] = R_k^T W[k], R = (I + Q)(I - Q)^-1, Q = B - B^T.
"""

from __future__ import annotations

import torch
from torch import Tensor

from engine.networks.rotation import BLOCKS, Rotation, Step, Turns, cayley


class DiagOft(Rotation):
    """Blocks of [K, S, S], one below the other."""

    @classmethod
    def check_blocks(cls, outputs: int, shape: tuple[int, ...]) -> None:
        """K blocks of S rows must make all outputs."""
        if len(shape) != 3 or shape[1] != shape[2] or shape[0] * shape[1] != outputs:
            raise ValueError(f"{BLOCKS} is {list(shape)}, which does not make {outputs} outputs")

    def steps(self) -> tuple[Step, ...]:
        """One: a block is what lies together."""
        count, size, _ = self.weight(BLOCKS).shape
        return (Step(count, 1, 1, size),)

    def turns(self, q: Tensor, rescale: Tensor | None) -> Turns:
        """R^T W is y @ R on rows of outputs; the rescale goes over its columns."""
        turn = cayley(q)
        if rescale is None:
            return (turn,)
        d = rescale.view(len(turn), 1, -1)
        return (turn * d + torch.diag_embed(d[:, 0] - 1),)
