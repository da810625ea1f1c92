"""Full training of a layer as a difference: W' = W + dW, b' = b + db.

The base stays as it is. Half precision never sees the sum W + dW, in whose rounding most of a small
dW would be lost: there the difference has a product of its own.

Shape letters: N rows.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.grad import conv2d_input, conv2d_weight

from engine.networks.base import Adapter, Size, Tensors, compute_dtype, layer_weight
from engine.networks.choice import Choice
from engine.networks.shapes import Shapes

DIFF, DIFF_B = "diff", "diff_b"
Places = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
"""Stride, padding and dilation of a convolution."""


class Differing(torch.autograd.Function):
    """The layer with W + f dW and b + f db as one node; W and b may be left out.

    Saves its input and the parameters, nothing else of the weight's size: sums and casts are made
    again in backward. The gradient of dW is one dense product, f grad^T x.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        diff: Tensor,
        diff_b: Tensor | None,
        factor: float,
        places: Places | None,
    ) -> Tensor:
        ctx.save_for_backward(x, weight, diff)
        ctx.factor, ctx.places = factor, places
        ctx.bias_dtype = None if diff_b is None else diff_b.dtype
        bias_change = None if diff_b is None else diff_b * factor
        if weight is None:
            change = (diff * factor).to(x.dtype)
            more = None if bias_change is None else bias_change.to(x.dtype)
            return _applied(x, change, more, places)
        if x.dtype.itemsize >= diff.dtype.itemsize:
            whole = torch.add(weight, diff, alpha=factor).to(x.dtype)
            return _applied(x, whole, _bias(bias, bias_change, x.dtype), places)
        change = (diff * factor).to(x.dtype)
        if places is None:
            return _linear_pair(x, weight.to(x.dtype), bias, change, bias_change)
        # Side by side they are one product, which is rounded once.
        pair = torch.cat([weight.to(x.dtype), change], 1)
        return _applied(torch.cat([x, x], 1), pair, _bias(bias, bias_change, x.dtype), places)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, diff = ctx.saved_tensors
        factor, places = ctx.factor, ctx.places
        wants_x, _, _, wants_diff, wants_bias, _, _ = ctx.needs_input_grad
        x_grad = diff_grad = bias_grad = None
        if wants_x:
            if weight is None:
                x_grad = _input_grad(grad, x, (diff * factor).to(x.dtype), places)
            else:
                x_grad = _input_grad_of_pair(grad, x, weight, diff, factor, places)
        if wants_diff:
            diff_grad = _weight_grad(grad, x, diff, places).to(diff.dtype)
            diff_grad = diff_grad if factor == 1 else diff_grad.mul_(factor)
        if wants_bias:
            others = [axis for axis in range(grad.dim()) if axis != _channels(grad, places)]
            bias_grad = grad.sum(others, dtype=ctx.bias_dtype).mul_(factor)
        return x_grad, None, None, diff_grad, bias_grad, None, None


class Full(Adapter):
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
    def written_size(cls, rank: int | None, kernel: tuple[int, ...], choice: Choice) -> Size:
        """Neither alpha nor rank."""
        return Size(None, None)

    @classmethod
    def read_weights(cls, layer: nn.Module, tensors: Tensors) -> dict[str, Tensor]:
        """In the layer's own form: a 1 x 1 convolution may be stored as a matrix."""
        found = {DIFF: tensors[DIFF].reshape(layer_weight(layer).shape)}
        return found | ({DIFF_B: tensors[DIFF_B]} if DIFF_B in tensors else {})

    @classmethod
    def fresh(
        cls, name: str, layer: nn.Module, shapes: Shapes, seed: int, choice: Choice
    ) -> dict[str, Tensor]:
        """Zeros: nothing is drawn."""
        return {suffix: torch.zeros(shape) for suffix, shape in shapes.items()}

    def delta(self) -> Tensor:
        """dW itself."""
        return self.weight(DIFF)

    def bias_delta(self) -> Tensor | None:
        """db itself."""
        return self.weight(DIFF_B) if self.has(DIFF_B) else None

    def adapted(self, x: Tensor, factor: float) -> Tensor:
        """Base and difference in one node, where nothing else stands behind."""
        layer = self.layer
        assert isinstance(layer, nn.Linear | nn.Conv2d)
        own = nn.Linear if isinstance(layer, nn.Linear) else nn.Conv2d
        frozen = not layer.weight.requires_grad
        if not (type(layer).forward is own.forward and self.alone() and frozen):
            return super().adapted(x, factor)
        return self._applied(x, layer.weight, layer.bias, factor)

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
        diff, diff_b, layer = self.weight(DIFF), self.bias_delta(), self.layer
        places: Places | None = None
        if isinstance(layer, nn.Conv2d):
            places = (layer.stride, _padding(layer), layer.dilation)
        out: Tensor = Differing.apply(  # type: ignore[no-untyped-call]
            x, weight, bias, diff, diff_b, factor, places
        )
        return out


def _applied(x: Tensor, weight: Tensor, bias: Tensor | None, places: Places | None) -> Tensor:
    return F.linear(x, weight, bias) if places is None else F.conv2d(x, weight, bias, *places)


def _bias(bias: Tensor | None, change: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    if bias is None or change is None:
        return bias if bias is None else bias.to(dtype)
    return (bias + change).to(dtype)


def _linear_pair(
    x: Tensor, weight: Tensor, bias: Tensor | None, change: Tensor, bias_change: Tensor | None
) -> Tensor:
    """W x + dW x + b. The small product comes first: the large one adds it before it is rounded."""
    more = None if bias_change is None else bias_change.to(x.dtype)
    x_N = x.reshape(-1, x.shape[-1])
    out = F.linear(x_N, change, more).addmm_(x_N, weight.t())
    out = out if bias is None else out.add_(bias)
    return out.view(*x.shape[:-1], -1)


def _input_grad_of_pair(
    grad: Tensor, x: Tensor, weight: Tensor, diff: Tensor, factor: float, places: Places | None
) -> Tensor:
    """grad through W + f dW, each of them a product of its own in half precision."""
    if x.dtype.itemsize >= diff.dtype.itemsize:
        whole = torch.add(weight, diff, alpha=factor).to(x.dtype)
        return _input_grad(grad, x, whole, places)
    change = (diff * factor).to(x.dtype)
    weight = weight.to(x.dtype)
    found = _input_grad(grad, x, change, places)
    if places is not None:
        return found.add_(_input_grad(grad, x, weight, places))
    found.view(-1, found.shape[-1]).addmm_(grad.reshape(-1, grad.shape[-1]), weight)
    return found


def _input_grad(grad: Tensor, x: Tensor, weight: Tensor, places: Places | None) -> Tensor:
    if places is None:
        return (grad.reshape(-1, grad.shape[-1]) @ weight).view(x.shape)
    return conv2d_input(x.shape, weight, grad, *places)


def _weight_grad(grad: Tensor, x: Tensor, weight: Tensor, places: Places | None) -> Tensor:
    if places is None:
        return grad.reshape(-1, grad.shape[-1]).t() @ x.reshape(-1, x.shape[-1])
    return conv2d_weight(x, weight.shape, grad, *places)


def _channels(grad: Tensor, places: Places | None) -> int:
    return grad.dim() - 1 if places is None else 1


def _padding(layer: nn.Conv2d) -> tuple[int, ...]:
    """Padding in numbers; "same" with an even kernel is none of these models."""
    if isinstance(layer.padding, str):
        sides = zip(layer.kernel_size, layer.dilation, strict=True)
        same = layer.padding == "same"
        return tuple(dilation * (kernel - 1) // 2 if same else 0 for kernel, dilation in sides)
    return tuple(layer.padding)


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without the trailing ones by which a 1 x 1 convolution differs from a matrix."""
    found = shape
    while len(found) > 2 and found[-1] == 1:
        found = found[:-1]
    return found
