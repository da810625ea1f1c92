"""LoKr (Yeh et al. 2023, arXiv:2309.14859): a Kronecker product of two small halves.

dW = s * kron(w1, w2); each half is whole or of low rank, the kernel belongs to w2.

Letters: l (`outer`), m outputs and inputs of w1; k, n those of w2; d ranks; h, w the kernel.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from engine.networks.base import (
    ALPHA,
    Size,
    Tensors,
    compute_dtype,
    kernel_of,
    layer_weight,
)
from engine.networks.fused import FusedAdapter, dense_change, frozen, plainly, reach_of, rows
from engine.networks.kronecker import KRONECKER, Structured, cheapest

W1, W1_A, W1_B = "lokr_w1", "lokr_w1_a", "lokr_w1_b"
W2, W2_A, W2_B, T2 = "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2"


class Lokr(FusedAdapter):
    """Two halves whose Kronecker product is the change."""

    starts_at_zero: ClassVar = (W2, W2_B)
    scalar_goes_into: ClassVar = (W1, W1_A)

    @classmethod
    def read_size(cls, layer: nn.Module, tensors: Tensors) -> Size:
        """Rank as consumers read it: from w2_b, else from w1_b, else the scale is 1."""
        rank = None
        if W2_B in tensors:
            rank = tensors[W2_B].shape[0]
        elif W1_B in tensors:
            rank = tensors[W1_B].shape[0]
        _check_shapes(layer, tensors)
        alpha = float(tensors[ALPHA]) if ALPHA in tensors else float(rank or 1)
        return Size(alpha, rank)

    @classmethod
    def read_weights(cls, layer: nn.Module, tensors: Tensors) -> dict[str, Tensor]:
        """Tensors in the order of the shape table."""
        order = (W1, W1_A, W1_B, W2, T2, W2_A, W2_B)
        found = {suffix: tensors[suffix] for suffix in order if suffix in tensors}
        if W2 in found:
            # A 1 x 1 convolution may be stored as a matrix.
            found[W2] = found[W2].reshape(*found[W2].shape[:2], *kernel_of(layer))
        return found

    def left(self, *, dropped: bool = False) -> Tensor:
        """w1 [l, m]."""
        if self.has(W1):
            return self.weight(W1)
        a = self.weight(W1_A)
        return (self.kept(a, 1, "w1") if dropped else a) @ self.weight(W1_B)

    def right(self, *, dropped: bool = False) -> Tensor:
        """w2 [k, n] or [k, n, h, w]."""
        if self.has(W2):
            return self.weight(W2)
        a: Tensor = self.weight(W2_A)
        b = self.weight(W2_B)
        if self.has(T2):
            # A tucker's w2_a is [d, k], transposed against the plain form.
            a = self.kept(a, 0, "w2") if dropped else a
            return torch.einsum("ijhw,ik,jn->knhw", self.weight(T2), a, b)
        a = self.kept(a, 1, "w2") if dropped else a
        return (a @ b).view(a.shape[0], -1, *kernel_of(self.layer))

    def delta(self) -> Tensor:
        """dW[l k, m n] = s * w1[l, m] w2[k, n]."""
        right = self.right()
        left = self.left() * self.scale()
        dense = torch.einsum("lm,kn...->lkmn...", left, right)
        return dense.reshape(layer_weight(self.layer).shape)

    def computed(self, x: Tensor, factor: float, *, fused: bool) -> Tensor:
        """The cheapest of the ways that give the same."""
        x = x.to(compute_dtype(x))
        with plainly(x.device):
            left = self.left(dropped=True) * (self.scale() * factor)
            right = self.right(dropped=True)
        reach = reach_of(self.layer)
        order = cheapest(left.shape, right.shape, rows(reach, x), x.dtype)
        if order == "dense":
            return dense_change(self.layer, KRONECKER, x, (left, right), fused=fused)
        weight, bias = frozen(self.layer, x.dtype) if fused else (None, None)
        out: Tensor = Structured.apply(  # type: ignore[no-untyped-call]
            reach, order == "mix first", x, weight, bias, left, right
        )
        return out

    def delta_norm(self) -> Tensor:
        """|kron(w1, w2)| = |w1| |w2|."""
        norm: Tensor = self.left().norm() * self.right().norm() * self.scale()
        return norm.abs()

    def norm_factors(self) -> tuple[nn.Parameter, ...]:
        """Every factor tensor, the scalar left alone."""
        return tuple(self.weight(suffix) for suffix in self.suffixes)


def _check_shapes(layer: nn.Module, tensors: Tensors) -> None:
    """Both halves must be whole or complete, and multiply to the layer's weight."""
    weight = layer_weight(layer)
    kernel = kernel_of(layer)
    left = _half(tensors, W1, W1_A, W1_B)
    if T2 in tensors:
        a, b, t = (tuple(tensors[suffix].shape) for suffix in (W2_A, W2_B, T2))
        if t != (a[0], b[0], *kernel):
            raise ValueError(f"{T2} is {list(t)}, not {[a[0], b[0], *kernel]}")
        right = (a[1], b[1], *kernel)
    else:
        right = _half(tensors, W2, W2_A, W2_B)
        if W2 not in tensors:
            cells = 1
            for side in kernel:
                cells *= side
            right = (right[0], right[1] // cells, *kernel)
    found = (left[0] * right[0], left[1] * right[1], *right[2:])
    if found[:2] != tuple(weight.shape[:2]) or (
        right[2:] != kernel and {*right[2:], *kernel} != {1}
    ):
        raise ValueError(f"its halves make {list(found)}, not {list(weight.shape)}")


def _half(tensors: Tensors, whole: str, a: str, b: str) -> tuple[int, ...]:
    if whole in tensors:
        if a in tensors or b in tensors:
            raise ValueError(f"{whole} stands beside {a} or {b}")
        return tuple(tensors[whole].shape)
    outer, inner = tensors[a].shape, tensors[b].shape
    if len(outer) != 2 or len(inner) != 2 or outer[1] != inner[0]:
        raise ValueError(f"{a} {list(outer)} does not fit {b} {list(inner)}")
    return outer[0], inner[1]
