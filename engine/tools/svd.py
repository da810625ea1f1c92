"""Singular values of weight changes, and the LoRA that keeps the largest of them.

dW = U diag(s) V; the best dW of rank r keeps the r largest s (Eckart and Young 1936). Where dW is a
product, nothing of its size is decomposed.

Shape letters: O outputs, I inputs times the kernel's cells, R singular values, D ranks of factors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.tools.requests import RankRule

SMALLEST = 1e-7
"""Singular values below this part of the largest are rounding, and none of the change."""
Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True, slots=True)
class Spectrum:
    """Singular values of a change, the largest first, and how to get their vectors."""

    s_R: Tensor
    """In fp64."""
    vectors: Callable[[int], Pair]
    """U [O, r] and V [r, I] of the first r."""

    @property
    def norm(self) -> float:
        """|dW|."""
        return float(self.s_R.norm())

    @property
    def rank(self) -> int:
        """Number of singular values that are more than rounding."""
        return above_rounding(self.s_R)

    def scaled(self, factor: float) -> Spectrum:
        """Of `factor` times the change."""
        if factor >= 0:
            return Spectrum(self.s_R * factor, self.vectors)

        def turned(rank: int) -> Pair:
            u, v = self.vectors(rank)
            return -u, v

        return Spectrum(self.s_R * -factor, turned)

    def cut(self, rank: int) -> Pair:
        """U sqrt(s) [O, r] and sqrt(s) V [r, I]: both factors of one size, so that both round alike."""
        u_OR, v_RI = self.vectors(rank)
        root_R = self.s_R[:rank].sqrt()
        return u_OR * root_R, v_RI * root_R[:, None]

    def lost(self, rank: int) -> float:
        """|dW - dW_r|, from the singular values left out."""
        return float(self.s_R[rank:].norm())


def rank_for(rule: RankRule, s_R: Tensor) -> int:
    """How many singular values (the largest first, fp64) a rule keeps: at least one, where there is one.

    Never more than are above rounding.
    """
    known = above_rounding(s_R)
    value, whole = rule.value, s_R[: max(known, 1)]
    match rule.kind:
        case "fixed":
            kept = int(value)
        case "threshold":
            kept = int((whole > value).sum())
        case "ratio":
            kept = int((whole > value * whole[0]).sum())
        case "sv_ratio":
            kept = int((whole > whole[0] / value).sum())
        case "quantile" | "sv_cumulative":
            kept = int((whole.cumsum(0) < value * whole.sum()).sum()) + 1
        case "sv_fro":
            kept = _kept_for_rest(whole, max(0.0, 1 - value**2))
        case "error":
            kept = _kept_for_rest(whole, value**2)
    most = known if rule.limit is None else min(known, rule.limit)
    return min(max(kept, 1), most)


def above_rounding(s_R: Tensor) -> int:
    """How many singular values, the largest first, are more than rounding."""
    if not len(s_R) or float(s_R[0]) == 0:
        return 0
    return int((s_R > SMALLEST * s_R[0]).sum())


def _kept_for_rest(s_R: Tensor, part: float) -> int:
    """The fewest values whose rest has at most this part of the sum of squares."""
    # Summed from the small end: the rest is exact where it is small.
    rest_R = s_R.square().flip(0).cumsum(0).flip(0)
    return int((rest_R > part * rest_R[0]).sum())


def of_matrix(delta_OI: Tensor) -> Spectrum:
    """Of a dense change, by the eigenvectors of its smaller Gram matrix in fp64.

    Exact to 1e-8 of the largest singular value, and far quicker than a decomposition of the whole.
    """
    wide = delta_OI.double()
    tall = wide.shape[0] > wide.shape[1]
    gram = wide.t() @ wide if tall else wide @ wide.t()
    values, vectors = torch.linalg.eigh(gram)
    s_R = values.flip(0).clamp_min(0).sqrt()
    own = vectors.flip(1)

    def first(rank: int) -> Pair:
        s = s_R[:rank].clamp_min(torch.finfo(torch.float64).tiny)
        if tall:
            v_RI = own[:, :rank].t()
            return (wide @ v_RI.t()) / s, v_RI
        u_OR = own[:, :rank]
        return u_OR, (u_OR.t() @ wide) / s[:, None]

    return Spectrum(s_R, first)


def of_factors(up_OD: Tensor, down_DI: Tensor) -> Spectrum:
    """Of up @ down: QR of both factors, SVD of the core between them."""
    if up_OD.shape[1] >= min(up_OD.shape[0], down_DI.shape[1]):
        return of_matrix(up_OD.double() @ down_DI.double())
    left_OD, up_DD = torch.linalg.qr(up_OD.double())
    right_ID, down_DD = torch.linalg.qr(down_DI.double().t())
    u_DD, s_R, v_DD = torch.linalg.svd(up_DD @ down_DD.t())
    return Spectrum(s_R, lambda rank: (left_OD @ u_DD[:, :rank], v_DD[:rank] @ right_ID.t()))


def of_kron(left: Spectrum, right: Spectrum) -> Spectrum:
    """Of kron(w1, w2): the singular triplets are the products of those of the halves."""
    products = torch.outer(left.s_R, right.s_R)
    s_R, order = products.flatten().sort(descending=True, stable=True)

    def first(rank: int) -> Pair:
        places = order[:rank]
        i_R, j_R = places // len(right.s_R), places % len(right.s_R)
        (u1, v1), (u2, v2) = left.vectors(len(left.s_R)), right.vectors(len(right.s_R))
        u_OR = torch.einsum("ar,br->abr", u1[:, i_R], u2[:, j_R]).flatten(0, 1)
        return u_OR, torch.einsum("ra,rb->rab", v1[i_R], v2[j_R]).flatten(1)

    return Spectrum(s_R, first)


def distance(first: Pair, second: Pair) -> float:
    """|up1 down1 - up2 down2| through products of rank size, in fp64."""
    up = torch.cat([first[0].double(), -second[0].double()], 1)
    down = torch.cat([first[1].double(), second[1].double()], 0)
    # R of both sides instead of Gram matrices: the difference is far smaller than the products.
    up_r = torch.linalg.qr(up, mode="r").R if up.shape[0] > up.shape[1] else up
    down_r = torch.linalg.qr(down.t(), mode="r").R if down.shape[1] > down.shape[0] else down.t()
    return float((up_r @ down_r.t()).norm())
