"""LoHa (Hyeon-Woo et al. 2021, arXiv:2108.06098, FedPara; LyCORIS): a product of two low ranks.

dW = s * (w1_a @ w1_b) * (w2_a @ w2_b), number by number. Of a tucker convolution each product is
M[p, r, ...] = sum_ij t[i, j, ...] a[i, p] b[j, r] (their proposition 3), which is the plain form with
a transposed and b replaced by sum_j t b.

Shape letters: O outputs, I inputs times the kernel's cells, D ranks.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from engine.draws import generator
from engine.networks.base import (
    ALPHA,
    Size,
    Tensors,
    compute_dtype,
    kernel_of,
    layer_weight,
)
from engine.networks.choice import Choice
from engine.networks.fused import (
    FusedAdapter,
    Product,
    Pull,
    Reach,
    dense_change,
    dense_products,
    folds,
    frozen,
    moved,
    plainly,
    reach_of,
    rows,
)
from engine.networks.shapes import Shapes

T1, W1_A, W1_B = "hada_t1", "hada_w1_a", "hada_w1_b"
T2, W2_A, W2_B = "hada_t2", "hada_w2_a", "hada_w2_b"
START_STD = {T1: 0.1, W1_A: 0.1, W1_B: 1.0, T2: 0.1, W2_A: 0.1, W2_B: 1.0}
"""Spread of the normal start (LyCORIS)."""
SLOWER_EXACTLY = 4
"""How much longer a product takes in fp32 than in half precision (measured, AVX-512 BF16)."""

Factors = tuple[Tensor, Tensor, Tensor, Tensor]
"""a1 [O, D], b1 [D, I], a2 [O, D], b2 [D, I]; the scale is in a1."""


class Loha(FusedAdapter):
    """Two pairs of factors whose products are multiplied."""

    starts_at_zero: ClassVar = (W2_A,)
    scalar_goes_into: ClassVar = (W1_A,)

    @classmethod
    def read_size(cls, layer: nn.Module, tensors: Tensors) -> Size:
        """The rank is the first axis of w1_b, plain or tucker."""
        rank = tensors[W1_B].shape[0]
        alpha = float(tensors[ALPHA]) if ALPHA in tensors else float(rank)
        shape, kernel = layer_weight(layer).shape, kernel_of(layer)
        if T1 in tensors or T2 in tensors:
            pair = {"t": (rank, rank, *kernel), "a": (rank, shape[0]), "b": (rank, shape[1])}
        else:
            pair = {"a": (shape[0], rank), "b": (rank, math.prod(shape[1:]))}
        names = {"t": (T1, T2), "a": (W1_A, W2_A), "b": (W1_B, W2_B)}
        for part, expected in pair.items():
            for suffix in names[part]:
                found = tuple(tensors[suffix].shape) if suffix in tensors else None
                if found != expected:
                    told = "missing" if found is None else str(list(found))
                    raise ValueError(f"{suffix} is {told}, not {list(expected)}")
        return Size(alpha, rank)

    @classmethod
    def read_weights(cls, layer: nn.Module, tensors: Tensors) -> dict[str, Tensor]:
        """Tensors in the order of the shape table."""
        return {suffix: tensors[suffix] for suffix in START_STD if suffix in tensors}

    @classmethod
    def fresh(
        cls, name: str, layer: nn.Module, shapes: Shapes, seed: int, choice: Choice
    ) -> dict[str, Tensor]:
        """Normal draws; w2_a begins at zero, unless a scalar does."""
        found = {}
        for suffix, shape in shapes.items():
            if suffix == W2_A and not choice.scalar:
                found[suffix] = torch.zeros(shape)
                continue
            drawn = torch.randn(shape, generator=generator(seed, f"init:{name}.{suffix}"))
            found[suffix] = drawn * START_STD[suffix]
        return found

    def delta(self) -> Tensor:
        """dW = s * (w1_a @ w1_b) * (w2_a @ w2_b)."""
        a1, b1, a2, b2 = self._pairs()
        dense = (a1 @ b1) * (a2 @ b2) * self.scale()
        return dense.view(layer_weight(self.layer).shape)

    def computed(self, x: Tensor, factor: float, *, fused: bool) -> Tensor:
        """The cheapest of the ways that give the same."""
        x = x.to(compute_dtype(x))
        with plainly(x.device):
            a1, b1, a2, b2 = self._pairs(dropped=True)
            factors = (a1 * (self.scale() * factor), b1, a2, b2)
        reach = reach_of(self.layer)
        if not chains(b1.shape[0], reach.shape, rows(reach, x), x.dtype):
            return dense_change(self.layer, HADAMARD, x, factors, fused=fused)
        weight, bias = frozen(self.layer, x.dtype) if fused else (None, None)
        out: Tensor = KhatriRao.apply(  # type: ignore[no-untyped-call]
            reach, x, weight, bias, *factors
        )
        return out

    def _pairs(self, *, dropped: bool = False) -> Factors:
        """Both pairs in the plain form, without the scale."""
        a1, b1 = self._pair(T1, W1_A, W1_B)
        a2, b2 = self._pair(T2, W2_A, W2_B)
        if dropped:
            # Masks of their own, so that the expected change is the undropped one.
            a1, a2 = (self.kept(a, 1, half) for a, half in ((a1, "w1"), (a2, "w2")))
        return a1, b1, a2, b2

    def _pair(self, t: str, a: str, b: str) -> tuple[Tensor, Tensor]:
        if not self.has(t):
            return self.weight(a), self.weight(b)
        inner = torch.einsum("ij...,jr->ir...", self.weight(t), self.weight(b))
        return self.weight(a).t(), inner.flatten(1)

    def delta_norm(self) -> Tensor:
        """|dW|."""
        norm: Tensor = torch.linalg.vector_norm(self.delta())
        return norm

    def norm_factors(self) -> tuple[nn.Parameter, ...]:
        """w1_a alone."""
        return (self.weight(W1_A),)


def chains(rank: int, shape: torch.Size, tokens: int, dtype: torch.dtype) -> bool:
    """Whether the chain of rank d^2 is less work than building dW and products with it.

    Forward and backward in multiplications. The chain: four products with its down factor, three with
    its up factor, about six passes over both. Dense: eight products of rank d and as many passes over
    dW in fp32, then its products with the tokens.
    """
    out, inner, square = shape[0], math.prod(shape[1:]), rank * rank
    chain = square * (tokens * (4 * inner + 3 * out) + 6 * moved(dtype) * (inner + out))
    slower = 1 if folds(dtype) else SLOWER_EXACTLY
    built = 8 * (rank * slower + moved(dtype))
    return chain < out * inner * (tokens * dense_products(dtype) + built)


def hadamard(a1: Tensor, b1: Tensor, a2: Tensor, b2: Tensor) -> Tensor:
    """dW = (a1 @ b1) * (a2 @ b2)."""
    return (a1 @ b1).mul_(a2 @ b2)


def hadamard_again(a1: Tensor, b1: Tensor, a2: Tensor, b2: Tensor) -> tuple[Tensor, Pull]:
    """With G = d loss / d dW: d a1 = (G * a2 b2) b1^T, d b1 = a1^T (G * a2 b2), and so on."""
    one, two = a1 @ b1, a2 @ b2

    def pull(grad: Tensor) -> Factors:
        one_grad, two_grad = two.mul_(grad), one.mul_(grad)
        return one_grad @ b1.t(), a1.t() @ one_grad, two_grad @ b2.t(), a2.t() @ two_grad

    return one * two, pull


HADAMARD = Product(hadamard, hadamard_again)


class KhatriRao(torch.autograd.Function):
    """A frozen layer plus a LoHa of rank d as the LoRA of rank d^2 that it is, row by row.

    (a1 b1) * (a2 b2) = sum_ij (a1_i * a2_j)(b1_i * b2_j), columns and rows multiplied number by number
    (Khatri and Rao 1968). Saves the input and the factors; the d^2 columns are made again in backward.
    """

    @staticmethod
    def forward(
        ctx: Any,
        reach: Reach,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        *factors: Tensor,
    ) -> Tensor:
        ctx.reach = reach
        ctx.save_for_backward(x, weight, *factors)
        with plainly(x.device):
            up, down = _chain(reach, x.dtype, *factors)
            hidden = reach.output(x, down)
            middle = _middle(reach, up)
            change = middle.output(hidden, up)
            return change if weight is None else reach.output_onto(change, x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, *factors = ctx.saved_tensors
        reach: Reach = ctx.reach
        with plainly(x.device):
            up, down = _chain(reach, x.dtype, *factors)
            middle = _middle(reach, up)
            hidden = reach.output(x, down)
            up_grad = middle.weight_grad(grad, hidden).flatten(1)
            hidden_grad = middle.input_grad(grad, hidden, up)
            del hidden
            down_grad = reach.weight_grad(hidden_grad, x, down.shape).flatten(1)
            x_grad = None
            if ctx.needs_input_grad[1]:
                x_grad = reach.input_grad(hidden_grad, x, down)
                if weight is not None:
                    x_grad = reach.input_grad_onto(x_grad, grad, x, weight)
            a1, b1, a2, b2 = factors
            a1_grad, a2_grad = _columns_grad(up_grad.to(a1.dtype), a1, a2)
            b1_grad, b2_grad = _columns_grad(down_grad.to(b1.dtype).t(), b1.t(), b2.t())
        return None, x_grad, None, None, a1_grad, b1_grad.t(), a2_grad, b2_grad.t()


def _columns(one: Tensor, two: Tensor) -> Tensor:
    """All products of a column of one [N, D] and a column of the other, [N, D D]."""
    return (one[:, :, None] * two[:, None, :]).flatten(1)


def _columns_grad(grad: Tensor, one: Tensor, two: Tensor) -> tuple[Tensor, Tensor]:
    square = grad.reshape(one.shape[0], one.shape[1], two.shape[1])
    return (square * two[:, None, :]).sum(2), (square * one[:, :, None]).sum(1)


def _chain(
    reach: Reach, dtype: torch.dtype, a1: Tensor, b1: Tensor, a2: Tensor, b2: Tensor
) -> tuple[Tensor, Tensor]:
    """Up [O, D D] and down [D D, I] in the layer's form."""
    up = _columns(a1, a2).to(dtype)
    down = (b1[:, None, :] * b2[None, :, :]).to(dtype)
    ones = (1,) * len(reach.stride)
    return up.view(*up.shape, *ones), down.view(up.shape[1], *reach.shape[1:])


def _middle(reach: Reach, up: Tensor) -> Reach:
    """Reach of the up factor: one pixel."""
    count = len(reach.stride)
    return Reach(up.shape, (1,) * count, (0,) * count, (1,) * count)
