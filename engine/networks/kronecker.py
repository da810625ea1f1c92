"""Ways to apply a Kronecker product to a layer's input (Yeh et al. 2023, arXiv:2309.14859, LoKr).

Letters: l (`outer`), m outputs and inputs of w1; k, n those of w2; N rows.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from engine.networks.fused import Product, Pull, Reach, dense_products, moved, plainly

Order = Literal["mix first", "mix last", "dense"]


def cheapest(left: torch.Size, right: torch.Size, tokens: int, dtype: torch.dtype) -> Order:
    """Which way to apply kron(w1, w2) is the least work, forward and backward.

    Counted in multiplications: products with w2 over groups of channels, mixes of the groups by w1,
    which are as slow as memory, and of the dense change its products and passes over it.
    """
    (outer, m), k, n = left, right[0], math.prod(right[1:])
    mixed = moved(dtype) * (outer + m)
    costs: dict[Order, float] = {
        "mix first": 3 * outer * k * n + 4 * mixed * right[1],
        "mix last": 4 * m * k * n + 3 * mixed * k,
        "dense": outer * m * k * n * (dense_products(dtype) + 8 * moved(dtype) / max(tokens, 1)),
    }
    return min(costs, key=costs.__getitem__)


class Structured(torch.autograd.Function):
    """A frozen layer plus kron(w1, w2) without the dense change: w2 over groups of channels, w1
    mixes the groups, in either order. Saves the input and both halves.
    """

    @staticmethod
    def forward(
        ctx: Any,
        reach: Reach,
        first: bool,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        left: Tensor,
        right: Tensor,
    ) -> Tensor:
        ctx.reach, ctx.first = reach, first
        ctx.save_for_backward(x, weight, left, right)
        inner = replace(reach, shape=right.shape)
        left, right = left.to(x.dtype), right.to(x.dtype).contiguous()
        with plainly(x.device):
            groups = _groups(reach, x, right.shape[1])
            if first:
                found = inner.output(_mixed(left, groups), right)
            else:
                found = _mixed(left, inner.output(groups, right))
            found = _joined(reach, found, x, reach.shape[0])
            return found if weight is None else reach.output_onto(found, x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, left, right = ctx.saved_tensors
        reach: Reach = ctx.reach
        inner = replace(reach, shape=right.shape)
        left_x, right_x = left.to(x.dtype), right.to(x.dtype)
        with plainly(x.device):
            groups = _groups(reach, x, right.shape[1])
            grads = _groups(reach, grad, right.shape[0])
            if ctx.first:
                mixed = _mixed(left_x, groups)
                right_grad = inner.weight_grad(grads, mixed)
                behind = inner.input_grad(grads, mixed, right_x)
                left_grad = _mix_grad(behind, groups, left.shape, left.dtype)
            else:
                left_grad = _mix_grad(grads, inner.output(groups, right_x), left.shape, left.dtype)
                behind = _mixed(left_x.t(), grads)
                right_grad = inner.weight_grad(behind, groups)
            x_grad = None
            if ctx.needs_input_grad[2]:
                mixes = ctx.first
                back = (
                    _mixed(left_x.t(), behind)
                    if mixes
                    else inner.input_grad(behind, groups, right_x)
                )
                x_grad = back.reshape(x.shape)
                if weight is not None:
                    x_grad = reach.input_grad_onto(x_grad, grad, x, weight)
        return None, None, x_grad, None, None, left_grad, right_grad.to(right.dtype)


def _groups(reach: Reach, x: Tensor, width: int) -> Tensor:
    """Channels cut into groups of `width`, which become rows: [N groups, width, ...]."""
    if reach.stride:
        return x.reshape(-1, width, *x.shape[2:])
    return x.reshape(-1, width)


def _joined(reach: Reach, groups: Tensor, x: Tensor, channels: int) -> Tensor:
    """Inverse of `_groups`, for the rows of this input."""
    if reach.stride:
        return groups.reshape(x.shape[0], channels, *groups.shape[2:])
    return groups.reshape(*x.shape[:-1], channels)


def _mixed(mix: Tensor, groups: Tensor) -> Tensor:
    """Each group as a sum of groups: mix [b, a] over [N a, ...] gives [N b, ...]."""
    cut = groups.reshape(-1, mix.shape[1], groups[0].numel())
    # Not matmul: it may turn this into one long product between two transposed copies.
    found = torch.bmm(mix.expand(cut.shape[0], *mix.shape), cut)
    return found.reshape(-1, *groups.shape[1:])


def _mix_grad(grads: Tensor, groups: Tensor, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """Gradient of a mix [b, a] from that of its result [N b, ...] and its input [N a, ...]."""
    b, a = shape
    width = groups[0].numel()
    each = grads.reshape(-1, b, width) @ groups.reshape(-1, a, width).transpose(1, 2)
    return each.sum(0, dtype=dtype)


def kronecker(left: Tensor, right: Tensor) -> Tensor:
    """dW [O, I] = kron(w1, w2), the kernel within w2's inputs."""
    flat = right.flatten(1)
    dense = left[:, None, :, None] * flat[None, :, None, :]
    return dense.view(left.shape[0] * flat.shape[0], -1)


def kronecker_again(left: Tensor, right: Tensor) -> tuple[Tensor, Pull]:
    """With G = d loss / d dW: d w1[l, m] = sum_kn G[l k, m n] w2[k, n], and w2's likewise."""
    (outer, m), flat = left.shape, right.flatten(1)
    k, n = flat.shape

    def pull(grad: Tensor) -> tuple[Tensor, Tensor]:
        cut = torch.empty(outer, m, k, n, dtype=left.dtype, device=left.device)
        cut.copy_(grad.view(outer, k, m, n).transpose(1, 2))
        rows_ = cut.view(outer * m, k * n)
        return (rows_ @ flat.flatten()).view(outer, m), (left.flatten() @ rows_).view(right.shape)

    return kronecker(left, right), pull


KRONECKER = Product(kronecker, kronecker_again)
