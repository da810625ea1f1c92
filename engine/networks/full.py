"""Full training of a layer as a difference: W' = W + dW, b' = b + db.

The base stays as it is. Half precision never sees the sum W + dW, in whose rounding most of a small
dW would be lost: there the difference has a product of its own.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from engine.networks.base import Size, Tensors, Unscaled, compute_dtype, layer_weight
from engine.networks.fused import Reach, can_fuse, folds, reach_of

DIFF, DIFF_B = "diff", "diff_b"


class Differing(torch.autograd.Function):
    """The layer with W + f dW and b + f db as one node; W and b may be left out.

    Saves its input and the parameters, nothing else of the weight's size: sums and casts are made
    again in backward. The gradient of dW is one dense product, f grad^T x.
    """

    @staticmethod
    def forward(
        ctx: Any,
        reach: Reach,
        factor: float,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        diff: Tensor,
        diff_b: Tensor | None,
    ) -> Tensor:
        ctx.reach, ctx.factor = reach, factor
        ctx.save_for_backward(x, weight, diff, diff_b)
        more = None if diff_b is None else diff_b * factor
        weight, bias = _as(weight, x.dtype), _as(bias, x.dtype)
        if weight is None:
            return reach.output(x, _times(diff, factor, x.dtype), _as(more, x.dtype))
        if folds(x.dtype):
            return reach.output(x, _sum(weight, diff, factor), _both(bias, more, x.dtype))
        change = _times(diff, factor, x.dtype)
        if reach.stride:
            # Side by side in one convolution, so that their sum is rounded once.
            pair, twice = torch.cat([weight, change], 1), torch.cat([x, x], 1)
            return reach.output(twice, pair, _both(bias, more, x.dtype))
        return reach.output_onto(reach.output(x, change, _as(more, x.dtype)), x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, diff, diff_b = ctx.saved_tensors
        reach: Reach = ctx.reach
        factor: float = ctx.factor
        weight = _as(weight, x.dtype)
        _, _, wants_x, _, _, wants_diff, wants_bias = ctx.needs_input_grad
        x_grad = diff_grad = bias_grad = None
        if wants_x and weight is not None and folds(x.dtype):
            x_grad = reach.input_grad(grad, x, _sum(weight, diff, factor))
        elif wants_x:
            x_grad = reach.input_grad(grad, x, _times(diff, factor, x.dtype))
            if weight is not None:
                x_grad = reach.input_grad_onto(x_grad, grad, x, weight)
        if wants_diff:
            diff_grad = _times(reach.weight_grad(grad, x), factor, diff.dtype)
        if wants_bias:
            channels = 1 if reach.stride else grad.dim() - 1
            others = [axis for axis in range(grad.dim()) if axis != channels]
            bias_grad = grad.sum(others, dtype=diff_b.dtype).mul_(factor)
        return None, None, x_grad, None, None, diff_grad, bias_grad


class Full(Unscaled):
    """A difference to each number of the layer."""

    starts_at_zero: ClassVar = (DIFF,)

    @classmethod
    def read_size(cls, layer: nn.Module, tensors: Tensors) -> Size:
        """Neither alpha nor rank; the differences have the shapes of what they change."""
        if not isinstance(layer, nn.Linear | nn.Conv2d):
            raise ValueError("the layer is neither linear nor a convolution")
        weight = layer_weight(layer)
        shape = tuple(tensors[DIFF].shape)
        if _without_ones(shape) != _without_ones(tuple(weight.shape)):
            raise ValueError(f"{DIFF} is {list(shape)}, not {list(weight.shape)}")
        if DIFF_B in tensors:
            if layer.bias is None:
                raise ValueError(f"the layer has no bias that {DIFF_B} could change")
            if tensors[DIFF_B].shape != layer.bias.shape:
                found = list(tensors[DIFF_B].shape)
                raise ValueError(f"{DIFF_B} is {found}, not {list(layer.bias.shape)}")
        return Size(None, None)

    @classmethod
    def read_weights(cls, layer: nn.Module, tensors: Tensors) -> dict[str, Tensor]:
        """In the layer's own form: a 1 x 1 convolution may be stored as a matrix."""
        found = {DIFF: tensors[DIFF].reshape(layer_weight(layer).shape)}
        return found | ({DIFF_B: tensors[DIFF_B]} if DIFF_B in tensors else {})

    def delta(self) -> Tensor:
        """dW itself."""
        return self.weight(DIFF)

    def bias_delta(self) -> Tensor | None:
        """db itself."""
        return self.weight(DIFF_B) if self.has(DIFF_B) else None

    def adapted(self, x: Tensor, factor: float) -> Tensor:
        """Base and difference in one node, where nothing else stands behind."""
        if not (can_fuse(self.layer) and self.alone()):
            return super().adapted(x, factor)
        assert isinstance(self.layer, nn.Linear | nn.Conv2d)
        return self._applied(x, self.layer.weight, self.layer.bias, factor)

    def change(self, x: Tensor, factor: float) -> Tensor:
        """f (dW x + db)."""
        return self._applied(x, None, None, factor)

    def delta_norm(self) -> Tensor:
        """|dW|; the bias is not counted."""
        norm: Tensor = torch.linalg.vector_norm(self.weight(DIFF))
        return norm

    def norm_factors(self) -> tuple[nn.Parameter, ...]:
        """The difference of the weight; that of the bias is left alone."""
        return (self.weight(DIFF),)

    def _applied(
        self, x: Tensor, weight: Tensor | None, bias: Tensor | None, factor: float
    ) -> Tensor:
        x = x.to(compute_dtype(x))
        reach, diff = reach_of(self.layer), self.weight(DIFF)
        out: Tensor = Differing.apply(  # type: ignore[no-untyped-call]
            reach, factor, x, weight, bias, diff, self.bias_delta()
        )
        return out


def _times(tensor: Tensor, factor: float, dtype: torch.dtype) -> Tensor:
    """In the parameters' type first: half precision has no room for a small difference times f."""
    return (tensor if factor == 1 else tensor * factor).to(dtype)


def _sum(weight: Tensor, diff: Tensor, factor: float) -> Tensor:
    return torch.add(weight, diff.to(weight.dtype), alpha=factor)


def _as(tensor: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if tensor is None else tensor.to(dtype)


def _both(bias: Tensor | None, more: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return bias if bias is None or more is None else (bias + more).to(dtype)


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without the trailing ones by which a 1 x 1 convolution differs from a matrix."""
    found = shape
    while len(found) > 2 and found[-1] == 1:
        found = found[:-1]
    return found
