"""LoRA (Hu et al. 2021, arXiv:2106.09685) and LoCon, LoRA on convolutions (LyCORIS).

dW = s * up @ down; a tucker convolution puts a third factor between: dW = s * sum_ij mid up down.

Shape letters: N rows, D ranks.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from engine.networks.base import (
    ALPHA,
    Size,
    Tensors,
    compute_dtype,
    convolve,
    kernel_of,
    layer_weight,
)
from engine.networks.lowrank import LowRank

UP, DOWN, MID = "lora_up.weight", "lora_down.weight", "lora_mid.weight"


class LoraLinear(torch.autograd.Function):
    """A frozen linear layer with its two factors, as one node.

    Saves the input and the parameters alone; casts and the hidden activation are made again in backward.
    The change comes first and the base's product is added onto it inside one GEMM, so the sum is
    rounded once. Added to an output that was rounded before, a change below half a step of its type
    is lost: of one of 1e-3 of a bf16 output only about half arrives.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        down: Tensor,
        up: Tensor,
        scale: float = 1.0,
    ) -> Tensor:
        ctx.scale = scale
        ctx.save_for_backward(x, weight, down, up)
        down, up = _ready(down, up, scale, x.dtype)
        x_N = x.reshape(-1, x.shape[-1])
        out_N = torch.mm(torch.mm(x_N, down.t()), up.t())
        out_N.addmm_(x_N, weight.t())
        if bias is not None:
            out_N.add_(bias)
        return out_N.view(*x.shape[:-1], weight.shape[0])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, down_32, up_32 = ctx.saved_tensors
        wants_x, _, _, wants_down, wants_up, *_ = ctx.needs_input_grad
        down, up = _ready(down_32, up_32, ctx.scale, x.dtype)
        x_N = x.reshape(-1, x.shape[-1])
        grad_N = grad.reshape(-1, grad.shape[-1])
        hidden_grad_ND = torch.mm(grad_N, up)
        x_grad = down_grad = up_grad = None
        if wants_x:
            x_grad = torch.mm(hidden_grad_ND, down).addmm_(grad_N, weight).view(x.shape)
        if wants_down:
            down_grad = torch.mm(hidden_grad_ND.t(), x_N).to(down_32.dtype)
        if wants_up:
            up_grad = torch.mm(grad_N.t(), torch.mm(x_N, down.t())).to(up_32.dtype)
            if ctx.scale != 1:
                up_grad.mul_(ctx.scale)
        return x_grad, None, None, down_grad, up_grad, None


def _ready(down: Tensor, up: Tensor, scale: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Factors in the type of the products; scale goes into the up factor, before it is rounded."""
    return down.to(dtype), (up if scale == 1 else up * scale).to(dtype)


class Lora(LowRank):
    """Two factors around a narrow middle."""

    starts_at_zero: ClassVar = (UP,)
    scalar_goes_into: ClassVar = (UP,)

    @classmethod
    def read_size(cls, layer: nn.Module, tensors: Tensors) -> Size:
        """The rank is the first axis of the down factor."""
        rank = tensors[DOWN].shape[0]
        alpha = float(tensors[ALPHA]) if ALPHA in tensors else float(rank)
        weight = layer_weight(layer)
        kernel = kernel_of(layer)
        tucker = MID in tensors
        inner = (1,) * len(kernel) if tucker else kernel
        expected = {UP: (weight.shape[0], rank), DOWN: (rank, weight.shape[1], *inner)}
        if tucker:
            expected[MID] = (rank, rank, *kernel)
        for suffix, shape in expected.items():
            if _without_ones(tensors[suffix].shape) != _without_ones(shape):
                raise ValueError(f"{suffix} is {list(tensors[suffix].shape)}, not {list(shape)}")
        return Size(alpha, rank)

    @classmethod
    def read_weights(cls, layer: nn.Module, tensors: Tensors) -> dict[str, Tensor]:
        """Linear files may hold 1 x 1 convolutions and the other way round: the layer's form wins."""
        kernel = kernel_of(layer)
        ones = (1,) * len(kernel)
        up, down = tensors[UP], tensors[DOWN]
        rank, in_ = down.shape[0], layer_weight(layer).shape[1]
        found = {UP: up.reshape(up.shape[0], rank, *ones)}
        found[DOWN] = down.reshape(rank, in_, *(ones if MID in tensors else kernel))
        return found | ({MID: tensors[MID]} if MID in tensors else {})

    def delta(self) -> Tensor:
        """dW = s * up @ down."""
        shape = layer_weight(self.layer).shape
        up, down = self.weight(UP).flatten(1), self.weight(DOWN)
        if self.has(MID):
            mid = self.weight(MID)
            return torch.einsum("ijkl,pi,jr->prkl", mid, up, down.flatten(1)) * self.scale()
        return (up @ down.flatten(1)).view(shape) * self.scale()

    def adapted(self, x: Tensor, factor: float) -> Tensor:
        """The two-product path; one node of the graph where nothing is dropped."""
        layer = self.layer
        if not (isinstance(layer, nn.Linear) and self.one_node()):
            return super().adapted(x, factor)
        dtype = compute_dtype(x)
        down: Tensor
        up: Tensor
        if type(self) is Lora and self.scalar is None:
            down, up, scale = self.weight(DOWN), self.weight(UP), self.size.scale * factor
        else:  # whoever makes other factors of the parameters
            down, up, scale = *self._factors(factor, dtype), 1.0
        bias = None if layer.bias is None else layer.bias.to(dtype)
        out: Tensor = LoraLinear.apply(  # type: ignore[no-untyped-call]
            x.to(dtype), layer.weight.to(dtype), bias, down, up, scale
        )
        return out

    def change(self, x: Tensor, factor: float) -> Tensor:
        """up(mid(down(x))), with stride, padding and dilation on the k x k operation."""
        dtype = compute_dtype(x)
        down, up = self._factors(factor, dtype)
        x = x.to(dtype)
        if isinstance(self.layer, nn.Linear):
            return F.linear(self.dropped(F.linear(x, down), self.name), up)
        if self.has(MID):
            hidden = self.dropped(F.conv2d(x, down), self.name)
            return F.conv2d(convolve(self.layer, hidden, self.weight(MID).to(dtype)), up)
        return F.conv2d(self.dropped(convolve(self.layer, x, down), self.name), up)

    def plus_parameters(self) -> tuple[nn.Parameter, ...]:
        """The up factor."""
        return (self.weight(UP),)

    def _factors(self, factor: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Down and up; scale and strength go into the smaller side of the work, in fp32."""
        up = (self.weight(UP) * (self.scale() * factor)).to(dtype)
        return self.weight(DOWN).to(dtype), up

    def delta_norm(self) -> Tensor:
        """|up @ down|^2 = tr(up^T up . down down^T): nothing of the weight's size is built."""
        if self.has(MID):
            whole: Tensor = torch.linalg.vector_norm(self.delta())
            return whole
        up, down = self.weight(UP).flatten(1).double(), self.weight(DOWN).flatten(1).double()
        squared = ((up.t() @ up) * (down @ down.t())).sum().clamp_min(0)
        norm: Tensor = squared.sqrt() * self.scale()
        return norm.abs()

    def norm_factors(self) -> tuple[nn.Parameter, ...]:
        """Both outer factors, a tucker's middle stays."""
        return self.weight(UP), self.weight(DOWN)


def _without_ones(shape: tuple[int, ...] | torch.Size) -> tuple[int, ...]:
    """A shape without the trailing ones by which a 1 x 1 convolution differs from a matrix."""
    found = tuple(shape)
    while len(found) > 2 and found[-1] == 1:
        found = found[:-1]
    return found
