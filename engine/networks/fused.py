"""A frozen layer and its weight change as one node of the graph that saves the input alone.

Whatever has the weight's size is computed again in backward. Where the numbers of the matrix products
are fine enough (fp32 and above) the change is added to the base weight: one product serves both. In
half precision most of a small change would be lost in that sum, so there it is a product of its own.

Shape letters: O outputs, I inputs times the kernel's cells.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.grad import conv2d_input, conv2d_weight

from engine.networks.base import Adapter, layer_weight
from engine.networks.dropout import activation_mask, step_rank_mask_D

Pull = Callable[[Tensor], tuple[Tensor, ...]]
"""From the gradient of a dense change [O, I] to those of its factors."""


@dataclass(frozen=True, slots=True)
class Product:
    """A dense change made of factors, and its derivative."""

    dense: Callable[..., Tensor]
    """The change [O, I] from its factors."""
    again: Callable[..., tuple[Tensor, Pull]]
    """The change once more, with what leads a gradient back; the pull may write over what it holds."""


@dataclass(frozen=True, slots=True)
class Reach:
    """The places of its input that a layer looks at; everything empty for a linear one."""

    shape: torch.Size
    """Shape of the layer's weight."""
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()

    def output(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """What a weight of this reach makes of an input."""
        if self.stride:
            return F.conv2d(x, weight, bias, self.stride, self.padding, self.dilation)
        return F.linear(x, weight, bias)

    def output_onto(self, change: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Adds the layer's output to that of its change, in place, with one rounding where it counts.

        Half precision keeps three digits: a change of 1e-3 of an output that is already rounded would
        be rounded away half the time. A product sums in fp32 on top of what is there, so the small
        part comes first. Convolutions beyond one pixel offer no such sum.
        """
        if folds(x.dtype) or (self.stride and not self.pointwise()):
            return change.add_(self.output(x, weight, bias))
        change = change.contiguous()
        if self.stride:
            _images(change).baddbmm_(_each(weight.flatten(1), x), _images(x))
            return change if bias is None else change.add_(bias[:, None, None])
        change.view(-1, change.shape[-1]).addmm_(_rows(x), weight.t())
        return change if bias is None else change.add_(bias)

    def pointwise(self) -> bool:
        """Whether a convolution is a matrix for each pixel."""
        ones = bool(self.stride) and set(self.shape[2:]) == set(self.stride) == {1}
        return ones and not any(self.padding)

    def input_grad(self, grad: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        """Gradient of the input."""
        if self.stride:
            found: Tensor = conv2d_input(  # type: ignore[no-untyped-call]
                x.shape, weight, grad, self.stride, self.padding, self.dilation
            )
            return found
        return grad @ weight

    def input_grad_onto(self, found: Tensor, grad: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        """The same added to what is there: that of the change, for the same reason."""
        if self.stride and (folds(x.dtype) or not self.pointwise()):
            return found.add_(self.input_grad(grad, x, weight))
        found = found.contiguous()
        if self.stride:
            _images(found).baddbmm_(_each(weight.flatten(1).t(), x), _images(grad))
            return found
        found.view(-1, found.shape[-1]).addmm_(_rows(grad), weight)
        return found

    def weight_grad(self, grad: Tensor, x: Tensor, shape: torch.Size | None = None) -> Tensor:
        """Gradient of a weight of this reach; `shape` where it has other channels."""
        if self.stride:
            shape = self.shape if shape is None else shape
            found: Tensor = conv2d_weight(  # type: ignore[no-untyped-call]
                x, shape, grad, self.stride, self.padding, self.dilation
            )
            return found
        return _rows(grad).t() @ _rows(x)


def reach_of(layer: nn.Module) -> Reach:
    """The reach of a linear layer or an ungrouped convolution."""
    shape = layer_weight(layer).shape
    if not isinstance(layer, nn.Conv2d):
        return Reach(shape)
    padding = layer.padding
    if isinstance(padding, str):
        same = padding == "same"
        padding = tuple(
            step * (side - 1) // 2 if same else 0
            for side, step in zip(layer.kernel_size, layer.dilation, strict=True)
        )
    return Reach(shape, layer.stride, padding, layer.dilation)


def can_fuse(layer: nn.Module) -> bool:
    """Whether a layer is one that these nodes replace: a plain one whose weight is not trained."""
    plain = type(layer).forward in (nn.Linear.forward, nn.Conv2d.forward)
    return plain and not layer_weight(layer).requires_grad


def frozen(layer: nn.Module, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of a layer in the type of the products."""
    bias = layer.bias
    assert bias is None or isinstance(bias, Tensor)
    return layer_weight(layer).to(dtype), None if bias is None else bias.to(dtype)


def folds(dtype: torch.dtype) -> bool:
    """Whether W + dW keeps a small dW: in bf16 and fp16 it would lose most of one of 1e-4 W."""
    return dtype.itemsize >= torch.float32.itemsize


def rows(reach: Reach, x: Tensor) -> int:
    """Places of the output: what a layer's matrix products are long."""
    found = x.numel() // reach.shape[1]
    return found // math.prod(reach.stride)


def moved(dtype: torch.dtype) -> int:
    """Multiplications that take the time of moving one number through memory.

    Measured with one thread on a Zen 4 core; what is known of GPUs lies at twice that (arithmetic).
    """
    return 12 if folds(dtype) else 80


def dense_products(dtype: torch.dtype) -> int:
    """Products of the layer's own size that a dense change adds, forward and backward."""
    return 1 if folds(dtype) else 3


def plainly(device: torch.device) -> torch.autocast:
    """Autocast off: a change is computed in its parameters' type."""
    return torch.autocast(device.type, enabled=False)


class DenseChange(torch.autograd.Function):
    """A frozen layer plus a dense change; without a weight, what the change alone adds."""

    @staticmethod
    def forward(
        ctx: Any,
        reach: Reach,
        product: Product,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        *factors: Tensor,
    ) -> Tensor:
        ctx.reach, ctx.product = reach, product
        ctx.save_for_backward(x, weight, *factors)
        with plainly(x.device):
            delta = product.dense(*factors).view(reach.shape)
            if weight is None:
                return reach.output(x, delta.to(x.dtype))
            if folds(x.dtype):
                return reach.output(x, delta.to(x.dtype).add_(weight), bias)
            change = reach.output(x, delta.to(x.dtype))
            return reach.output_onto(change, x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, *factors = ctx.saved_tensors
        reach: Reach = ctx.reach
        with plainly(x.device):
            delta, pull = ctx.product.again(*factors)
            x_grad = None
            if ctx.needs_input_grad[2]:
                x_grad = _through(reach, grad, x, weight, delta.view(reach.shape))
            del delta
            factor_grads = pull(reach.weight_grad(grad, x).flatten(1))
        return None, None, x_grad, None, None, *factor_grads


def _through(reach: Reach, grad: Tensor, x: Tensor, weight: Tensor | None, delta: Tensor) -> Tensor:
    """Gradient of the input through base and change."""
    change = delta.to(x.dtype)
    if weight is None:
        return reach.input_grad(grad, x, change)
    if folds(x.dtype):
        return reach.input_grad(grad, x, change.add_(weight))
    return reach.input_grad_onto(reach.input_grad(grad, x, change), grad, x, weight)


def _rows(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1])


def _images(x: Tensor) -> Tensor:
    """[B, C, H W] of [B, C, H, W]."""
    return x.flatten(2)


def _each(weight: Tensor, x: Tensor) -> Tensor:
    """The same matrix for each image."""
    return weight.expand(x.shape[0], *weight.shape)


def dense_change(
    layer: nn.Module, product: Product, x: Tensor, factors: tuple[Tensor, ...], *, fused: bool
) -> Tensor:
    """The layer with the change (`fused`), or what the change alone adds; `x` in its final type."""
    weight, bias = frozen(layer, x.dtype) if fused else (None, None)
    out: Tensor = DenseChange.apply(  # type: ignore[no-untyped-call]
        reach_of(layer), product, x, weight, bias, *factors
    )
    return out


class FusedAdapter(Adapter):
    """An adapter that can compute base and change as one node; dropout acts on what the change adds."""

    @abstractmethod
    def computed(self, x: Tensor, factor: float, *, fused: bool) -> Tensor:
        """The layer with `factor` times the change (`fused`), or what the change alone adds."""

    def change(self, x: Tensor, factor: float) -> Tensor:
        """What the change alone adds."""
        change = self.computed(x, factor, fused=False)
        dropouts = self.setup.dropouts
        if self.training and dropouts.activation > 0:
            moment = self.setup.moment
            change = change * activation_mask(moment, self.name, dropouts.activation, change)
        return change

    def adapted(self, x: Tensor, factor: float) -> Tensor:
        """Base and change as one node, where nothing stands between them."""
        drops = self.training and self.setup.dropouts.activation > 0
        if drops or not self.alone() or not can_fuse(self.layer):
            return super().adapted(x, factor)
        return self.computed(x, factor, fused=True)

    def kept(self, factor: Tensor, axis: int, half: str) -> Tensor:
        """A factor with the ranks on its axis that this step keeps, one mask for the whole step."""
        chance = self.setup.dropouts.rank
        if not self.training or chance == 0:
            return factor
        mask_D = step_rank_mask_D(
            self.setup.moment, f"{self.name}.{half}", chance, factor.shape[axis]
        ).to(factor.device, factor.dtype)
        return factor * (mask_D if axis == 1 else mask_D[:, None])
