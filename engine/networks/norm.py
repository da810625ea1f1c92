"""Trained norms: w' = w + w_norm, b' = b + b_norm, of LayerNorm and GroupNorm layers.

Both tensors are always written together: readers refuse a file that has one without the other.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from engine.networks.base import Size, Tensors, Unscaled

W_NORM, B_NORM = "w_norm", "b_norm"


class WideNorm(torch.autograd.Function):
    """A norm of half-precision activations with fp32 weight and bias, rounded once.

    Half-precision sums of weights would lose a small difference. Saves its input as it came and
    makes the wide copy again in backward.
    """

    @staticmethod
    def forward(ctx: Any, layer: nn.Module, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.layer = layer
        ctx.save_for_backward(x, weight, bias)
        return normed(layer, x.to(weight.dtype), weight, bias).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias = (tensor.detach() for tensor in ctx.saved_tensors)
        wide = x.to(weight.dtype).requires_grad_(ctx.needs_input_grad[1])
        inputs = [wide, weight.requires_grad_(), bias.requires_grad_()]
        wanted = [tensor for tensor in inputs if tensor.requires_grad]
        with torch.enable_grad():
            out = normed(ctx.layer, wide, weight, bias)
        grads = list(torch.autograd.grad(out, wanted, grad.to(out.dtype)))
        x_grad = grads.pop(0).to(x.dtype) if wide.requires_grad else None
        return None, x_grad, *grads


class Norm(Unscaled):
    """Differences of a norm layer's weight and bias, one number for each channel."""

    starts_at_zero: ClassVar = (W_NORM,)

    @classmethod
    def read_size(cls, layer: nn.Module, tensors: Tensors) -> Size:
        """Neither alpha nor rank; both tensors have the shape of the layer's weight."""
        if not isinstance(layer, nn.LayerNorm | nn.GroupNorm):
            raise ValueError("the layer is no norm")
        if layer.weight is None or layer.bias is None:
            raise ValueError("the norm has no weight or no bias")
        for suffix in (W_NORM, B_NORM):
            if tensors[suffix].shape != layer.weight.shape:
                found = list(tensors[suffix].shape)
                raise ValueError(f"{suffix} is {found}, not {list(layer.weight.shape)}")
        return Size(None, None)

    @classmethod
    def read_weights(cls, layer: nn.Module, tensors: Tensors) -> dict[str, Tensor]:
        """Weight, then bias."""
        return {suffix: tensors[suffix] for suffix in (W_NORM, B_NORM)}

    def delta(self) -> Tensor:
        """The difference of the weight, one number for each channel."""
        return self.weight(W_NORM)

    def bias_delta(self) -> Tensor:
        """The difference of the bias."""
        return self.weight(B_NORM)

    def adapted(self, x: Tensor, factor: float) -> Tensor:
        """One norm with w + f w_norm and b + f b_norm, both summed in the parameters' type."""
        layer = self.layer
        assert isinstance(layer, nn.LayerNorm | nn.GroupNorm)
        own = nn.LayerNorm if isinstance(layer, nn.LayerNorm) else nn.GroupNorm
        if not (type(layer).forward is own.forward and self.alone()):
            return super().adapted(x, factor)
        weight = layer.weight + self.weight(W_NORM) * factor
        bias = layer.bias + self.weight(B_NORM) * factor
        if x.dtype.itemsize >= weight.dtype.itemsize or _runs_wide(x):
            return normed(layer, x, weight, bias)
        out: Tensor = WideNorm.apply(layer, x, weight, bias)  # type: ignore[no-untyped-call]
        return out

    def change(self, x: Tensor, factor: float) -> Tensor:
        """The normed input times f w_norm, plus f b_norm."""
        weight, bias = self.weight(W_NORM) * factor, self.weight(B_NORM) * factor
        return normed(self.layer, x, weight.to(x.dtype), bias.to(x.dtype))

    def delta_norm(self) -> None:
        """Norms are not held back."""
        return


def normed(layer: nn.Module, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The layer with another weight and bias."""
    if isinstance(layer, nn.GroupNorm):
        return F.group_norm(x, layer.num_groups, weight, bias, layer.eps)
    assert isinstance(layer, nn.LayerNorm)
    return F.layer_norm(x, layer.normalized_shape, weight, bias, layer.eps)


def _runs_wide(x: Tensor) -> bool:
    """Whether autocast runs norms in fp32 whatever their input; it does so on CUDA alone."""
    return x.is_cuda and torch.is_autocast_enabled("cuda")
