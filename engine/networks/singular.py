"""Singular values and vectors of a weight, as many as are wanted, from its smaller Gram matrix.

Everything is in fp64, where W W^T keeps what an SVD in fp32 has: that of 1280 x 1280 normal numbers
puts the product of its first 16 triplets 2e-4 off. The first few vectors of a large weight come from a
block Krylov space, twice as fast as all of them on one core; they are checked, and all are found
where the check fails.

Shape letters: O outputs, I inputs with the kernel, n the smaller of both, D ranks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.draws import generator
from engine.networks.choice import SigType

SMALLEST_RATIO = 1e-5
"""A value below this part of the whole norm has lost too much in the square: an SVD is made instead."""
LARGE = 1000
"""Below this size all eigenvectors are found as fast as a few."""
KRYLOV_PART = 1 / 2
"""Of the whole space: enough for a weight of normal numbers, whose values lie closest together."""
FEWEST_BLOCKS = 8
MORE = 8
"""Columns of a block beyond the wanted ones: they take the values that lie close to the last."""
LARGEST_RESIDUE = 1e-5
"""|W W^T u - s^2 u| / |W W^T| of a vector that is taken; the product is then as exact as in fp32."""


@dataclass(frozen=True, slots=True)
class Triplets:
    """u diag(s) v, all in fp32, the largest value first."""

    left_OD: Tensor
    values_D: Tensor
    right_DI: Tensor


class Spectrum:
    """A weight whose singular triplets are wanted."""

    def __init__(self, weight_OI: Tensor) -> None:
        self.weight_OI = weight_OI.detach().double()
        out, in_ = self.weight_OI.shape
        self.wide = out <= in_
        near_nI = self.weight_OI if self.wide else self.weight_OI.t()
        self._gram_nn = near_nI @ near_nI.t()
        self._vectors_nn: Tensor | None = None

    def pick(self, rank: int, sig_type: SigType) -> Triplets:
        """The wanted triplets, at most as many as there are."""
        count = len(self._gram_nn)
        rank = min(rank, count)
        first = {"principal": 0, "last": count - rank, "middle": (count - rank) // 2}[sig_type]
        place = slice(first, first + rank)
        near_nD = leading_vectors(self._gram_nn, rank) if sig_type == "principal" else None
        if near_nD is None:
            near_nD = self._vectors()[:, place]
        far_ID = (self.weight_OI.t() if self.wide else self.weight_OI) @ near_nD
        values_D = far_ID.norm(dim=0)
        if bool(values_D[-1] <= SMALLEST_RATIO * self.weight_OI.norm()):
            left, values, right = torch.linalg.svd(self.weight_OI, full_matrices=False)
            return _triplets(left[:, place], values[place], right[place])
        far_ID = far_ID / values_D
        left, right = (near_nD, far_ID) if self.wide else (far_ID, near_nD)
        return _triplets(left, values_D, right.t())

    def _vectors(self) -> Tensor:
        if self._vectors_nn is None:
            self._vectors_nn = torch.linalg.eigh(self._gram_nn)[1].flip(1)
        return self._vectors_nn


def leading_vectors(matrix_nn: Tensor, count: int) -> Tensor | None:
    """The first eigenvectors of a symmetric matrix, from a block Krylov space (Musco and Musco 2015).

    None where the space would be too small, or did not find them. Nothing depends on a seed.
    """
    size, width = len(matrix_nn), count + MORE
    blocks = int(size * KRYLOV_PART) // width
    if size < LARGE or blocks < FEWEST_BLOCKS:
        return None
    start = torch.randn((size, width), generator=generator(0, "krylov"), dtype=torch.float64)
    block, _ = torch.linalg.qr(matrix_nn @ start.to(matrix_nn.device))
    space = block
    for _ in range(blocks - 1):
        block = matrix_nn @ block
        for _ in range(2):  # once leaves what rounding has put back
            block = block - space @ (space.t() @ block)
        block, _ = torch.linalg.qr(block)
        space = torch.cat([space, block], dim=1)
    squares, turn = torch.linalg.eigh(space.t() @ (matrix_nn @ space))
    found = space @ turn.flip(1)[:, :count]
    squares = squares.flip(0)[:count]
    residue = (matrix_nn @ found - found * squares).norm(dim=0).max()
    return found if bool(residue <= LARGEST_RESIDUE * squares[0]) else None


def _triplets(left_OD: Tensor, values_D: Tensor, right_DI: Tensor) -> Triplets:
    return Triplets(
        left_OD.float().contiguous(), values_D.float().contiguous(), right_DI.float().contiguous()
    )
