"""(IA)³ (Liu et al. 2022, arXiv:2205.05638): every output, or every input, is scaled.

W' = W * (1 + w) with one number for each row or each column of W; the bias is not scaled.

Shape letters: C channels of the layer's output, on the last axis or (convolutions) on axis 1.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from engine.networks.base import (
    Size,
    Tensors,
    Unscaled,
    compute_dtype,
    convolve,
    kernel_of,
    layer_weight,
)
from engine.networks.choice import Choice
from engine.networks.fused import can_fuse, folds

WEIGHT, ON_INPUT = "weight", "on_input"


class ScaledOutput(torch.autograd.Function):
    """out = y + f w (y - b), for y = W x + b that is there already, as one node.

    Scales are fp32 and the result is rounded once. Saves y alone.
    """

    @staticmethod
    def forward(
        ctx: Any, y: Tensor, bias: Tensor | None, weight_C: Tensor, factor: float
    ) -> Tensor:
        ctx.save_for_backward(y, bias, weight_C)
        ctx.factor = factor
        scale_C = 1 + weight_C * factor
        if bias is None:
            return torch.mul(y, scale_C, out=torch.empty_like(y))
        shift_C = bias.view_as(weight_C) * weight_C * -factor
        return torch.addcmul(shift_C, y, scale_C, out=torch.empty_like(y))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        y, bias, weight_C = ctx.saved_tensors
        wants_y, _, wants_weight, _ = ctx.needs_input_grad
        y_grad = weight_grad = None
        if wants_y:
            y_grad = torch.mul(grad, 1 + weight_C * ctx.factor, out=torch.empty_like(y))
        if wants_weight:
            others = [axis for axis in range(y.dim()) if axis != y.dim() - weight_C.dim()]
            wide = grad.to(weight_C.dtype)
            sums_C = None if bias is None else wide.sum(others)
            product = wide * y if wide is grad else wide.mul_(y)
            grad_C = product.sum(others)
            grad_C = grad_C if sums_C is None else grad_C - sums_C * bias
            weight_grad = grad_C.mul_(ctx.factor).view_as(weight_C)
        return y_grad, None, weight_grad, None


class ScaledInputLinear(torch.autograd.Function):
    """W (x + f w x) + b for a frozen linear layer; its backward needs one product of W's size.

    In half precision x + f w x would fall back on x wherever w is small, so that the change is a
    product of its own. It enters the sum before that is rounded. Saves x alone.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, weight_C: Tensor, factor: float
    ) -> Tensor:
        ctx.save_for_backward(x, weight, weight_C)
        ctx.factor = factor
        weight, bias = weight.to(x.dtype), None if bias is None else bias.to(x.dtype)
        if folds(x.dtype):
            return F.linear(x * (1 + weight_C * factor), weight, bias)
        x_N = x.reshape(-1, x.shape[-1])
        # The small product comes first: the large one adds it before it is rounded.
        out = F.linear((x_N * (weight_C * factor)).to(x.dtype), weight).addmm_(x_N, weight.t())
        out = out if bias is None else out.add_(bias)
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, weight_C = ctx.saved_tensors
        wants_x, _, _, wants_weight, _ = ctx.needs_input_grad
        x_grad = weight_grad = None
        inner = grad @ weight.to(x.dtype)
        if wants_x:
            x_grad = (inner * (1 + weight_C * ctx.factor)).to(x.dtype)
        if wants_weight:
            wide = inner.to(weight_C.dtype)
            weight_grad = (wide * x).flatten(0, -2).sum(0).mul_(ctx.factor)
        return x_grad, None, None, weight_grad, None


class Ia3(Unscaled):
    """One factor for each output or each input."""

    starts_at_zero: ClassVar = (WEIGHT,)

    def prepare(self) -> None:
        """Remember the side on which it acts."""
        # Asked once: to look at the tensor in a step would wait for the device.
        self._inward = bool(self.fixed(ON_INPUT))

    @classmethod
    def read_size(cls, layer: nn.Module, tensors: Tensors) -> Size:
        """Neither alpha nor rank; as many numbers as the layer has outputs or inputs."""
        shape = layer_weight(layer).shape
        if not isinstance(layer, nn.Linear | nn.Conv2d):
            raise ValueError("the layer is neither linear nor a convolution")
        count = tensors[WEIGHT].numel()
        if max(tensors[WEIGHT].shape, default=1) != count:
            raise ValueError(f"{WEIGHT} is {list(tensors[WEIGHT].shape)}, not numbers in a row")
        if ON_INPUT in tensors:
            wanted = shape[1] if _flag(tensors[ON_INPUT]) else shape[0]
            if count != wanted:
                raise ValueError(f"{WEIGHT} has {count} numbers, not {wanted}")
        return Size(None, None)

    @classmethod
    def read_weights(cls, layer: nn.Module, tensors: Tensors) -> dict[str, Tensor]:
        """[C] for a linear layer, [1, C, 1, 1] for a convolution."""
        ones = (1,) * len(kernel_of(layer))
        weight = tensors[WEIGHT]
        return {WEIGHT: weight.reshape((1, -1, *ones) if ones else (-1,))}

    @classmethod
    def read_fixed(cls, layer: nn.Module, tensors: Tensors) -> dict[str, Tensor]:
        """Whether inputs are scaled; files hold it in any type, and we write int64."""
        return {ON_INPUT: torch.tensor(int(_flag(tensors[ON_INPUT])))}

    @classmethod
    def fresh_fixed(
        cls, name: str, layer: nn.Module, weights: Tensors, choice: Choice
    ) -> dict[str, Tensor]:
        """Whether inputs are scaled, as it was chosen."""
        flag = torch.tensor(int(choice.train_on_input))
        return {ON_INPUT: flag.to(weights[WEIGHT].device)}

    def load_state(self, state: Tensors) -> None:
        """Exact inverse of `state`."""
        super().load_state(state)
        self._inward = bool(self.fixed(ON_INPUT))

    def delta(self) -> Tensor:
        """dW = W * w, for each row or each column."""
        weight = layer_weight(self.layer)
        numbers = self.weight(WEIGHT).flatten()
        axis = 1 if self._inward else 0
        shape = [1] * weight.dim()
        shape[axis] = -1
        return weight.to(numbers.dtype) * numbers.view(shape)

    def adapted(self, x: Tensor, factor: float) -> Tensor:
        """The layer runs once, where nothing else stands behind and no second product is needed."""
        layer, numbers = self.layer, self._broadcast()
        if not (can_fuse(layer) and self.alone()):
            return super().adapted(x, factor)
        assert isinstance(layer, nn.Linear | nn.Conv2d)
        if not self._inward:
            return _made(ScaledOutput, self.base(x), layer.bias, numbers, factor)
        if not isinstance(layer, nn.Linear):
            return super().adapted(x, factor)
        x = x.to(compute_dtype(x))
        return _made(ScaledInputLinear, x, layer.weight, layer.bias, numbers, factor)

    def change(self, x: Tensor, factor: float) -> Tensor:
        """f w (W x), or W (f w x); nothing of the weight's size is made."""
        dtype = compute_dtype(x)
        weight = layer_weight(self.layer).to(dtype)
        scale = self._broadcast() * factor
        x = (x * scale).to(dtype) if self._inward else x.to(dtype)
        linear = isinstance(self.layer, nn.Linear)
        product = F.linear(x, weight) if linear else convolve(self.layer, x, weight)
        return product if self._inward else (product * scale).to(dtype)

    def delta_norm(self) -> Tensor:
        """|W * w| from the norms of rows or columns: nothing of the weight's size is built."""
        weight = layer_weight(self.layer)
        numbers = self.weight(WEIGHT).flatten()
        kept = 1 if self._inward else 0
        others = [axis for axis in range(weight.dim()) if axis != kept]
        each_C = torch.linalg.vector_norm(weight, dim=others, dtype=numbers.dtype)
        norm: Tensor = torch.linalg.vector_norm(each_C * numbers)
        return norm

    def norm_factors(self) -> tuple[nn.Parameter, ...]:
        """The numbers themselves."""
        return (self.weight(WEIGHT),)

    def _broadcast(self) -> Tensor:
        """The numbers as they meet activations: [C], or [C, 1, 1] for a convolution."""
        ones = (1,) * len(kernel_of(self.layer))
        return self.weight(WEIGHT).view(-1, *ones)


def _made(node: type[torch.autograd.Function], *arguments: Tensor | float | None) -> Tensor:
    out: Tensor = node.apply(*arguments)  # type: ignore[no-untyped-call]
    return out


def _flag(tensor: Tensor) -> bool:
    """Zero or one in any type and shape; raises ValueError for anything else."""
    if tensor.numel() != 1 or float(tensor) not in (0.0, 1.0):
        raise ValueError(f"{ON_INPUT} is neither 0 nor 1")
    return bool(tensor)
