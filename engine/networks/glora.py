"""GLoRA (Chavan et al. 2023, arXiv:2306.07967): low-rank factors behind the base weight and beside it.

dW = s * (W a1 a2 + b1 b2); for a convolution W a1 a2 contracts the input channels and keeps the kernel.

W a1 is formed once a pass, which costs as much as d more tokens would. Then both products are narrow and
the layer's own product is shared with the base. W(x + s a1 a2 x) would need no W a1, but a bf16 sum
loses what is small beside x, and with it most of an early update.

Shape letters: N rows, O outputs, I inputs, D ranks, K cells of the kernel (1 for a linear layer).
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
    fresh_weights,
    kernel_of,
    layer_weight,
)
from engine.networks.choice import Choice, spans
from engine.networks.layouts_glora import A1, A2, B1, B2
from engine.networks.lowrank import LowRank
from engine.networks.shapes import Shapes


class GloraLinear(torch.autograd.Function):
    """A frozen linear layer with both pairs as one node: a LoRA of the factors [W a1, b1] and [a2; b2].

    Saves the input and the narrow factors, and computes the hidden activation again in backward.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        scale: float,
        a1: Tensor,
        a2: Tensor,
        b1: Tensor,
        b2: Tensor,
    ) -> Tensor:
        down, up = _joined(weight, scale, a1, a2, b1, b2)
        ctx.save_for_backward(x, weight, down, up)
        ctx.scale, ctx.dtype = scale, a1.dtype
        # The change first and the base onto it: their sum is rounded once.
        x_NI = x.reshape(-1, x.shape[-1])
        out_NO = ((x_NI @ down.t()) @ up.t()).addmm_(x_NI, weight.t())
        if bias is not None:
            out_NO.add_(bias)
        return out_NO.view(*x.shape[:-1], weight.shape[0])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, down, up = ctx.saved_tensors
        x_NI = x.reshape(-1, x.shape[-1])
        grad_NO = grad.reshape(-1, grad.shape[-1])
        hidden_grad_ND = grad_NO @ up
        x_grad = None
        if ctx.needs_input_grad[0]:
            x_grad = (grad_NO @ weight).addmm_(hidden_grad_ND, down).view(x.shape)
        a2_grad, b2_grad = (hidden_grad_ND.t() @ x_NI).to(ctx.dtype).chunk(2)
        behind_grad_OD, b1_grad = (grad_NO.t() @ (x_NI @ down.t())).chunk(2, dim=1)
        a1_grad = (weight.t() @ behind_grad_OD).to(ctx.dtype) * ctx.scale
        b1_grad = b1_grad.to(ctx.dtype) * ctx.scale
        return x_grad, None, None, None, a1_grad, a2_grad, b1_grad, b2_grad


class Glora(LowRank):
    """Two pairs of factors."""

    starts_at_zero: ClassVar = (A2, B2)
    scalar_goes_into: ClassVar = (A2, B2)
    """Both: each product takes the scalar."""

    @classmethod
    def read_size(cls, layer: nn.Module, tensors: Tensors) -> Size:
        """The rank is the first axis of a2."""
        rank = tensors[A2].shape[0]
        for suffix, shape in _shapes(layer, rank).items():
            found = tensors[suffix].shape
            if tuple(found[:2]) != shape[:2] or found.numel() != torch.Size(shape).numel():
                raise ValueError(f"{suffix} is {list(found)}, not {list(shape)}")
        alpha = float(tensors[ALPHA]) if ALPHA in tensors else float(rank)
        return Size(alpha, rank)

    @classmethod
    def read_weights(cls, layer: nn.Module, tensors: Tensors) -> dict[str, Tensor]:
        """1 x 1 convolutions may be stored as matrices and the other way round: the layer decides."""
        shapes = _shapes(layer, tensors[A2].shape[0])
        return {suffix: tensors[suffix].reshape(shape) for suffix, shape in shapes.items()}

    @classmethod
    def fresh(
        cls, name: str, layer: nn.Module, shapes: Shapes, seed: int, choice: Choice
    ) -> dict[str, Tensor]:
        """Both second factors start at zero, unless a scalar does."""
        drawn = fresh_weights(cls, name, shapes, seed, scalar=True)
        if not choice.scalar:
            for suffix in cls.starts_at_zero:
                drawn[suffix].zero_()
        return drawn

    def delta(self) -> Tensor:
        """dW = s * (W a1 a2 + b1 b2)."""
        weight = layer_weight(self.layer)
        behind_ODK, a2_DI, b1_OD, b2_DIK = self._parts()
        behind = torch.einsum("odk,di->oik", behind_ODK, a2_DI)
        beside = torch.einsum("od,dik->oik", b1_OD, b2_DIK)
        return ((behind + beside) * self.scale()).view(weight.shape)

    def adapted(self, x: Tensor, factor: float) -> Tensor:
        """One node of the graph where nothing is dropped."""
        layer = self.layer
        if not (isinstance(layer, nn.Linear) and self.one_node()):
            return super().adapted(x, factor)
        dtype = compute_dtype(x)
        weight = layer.weight.to(dtype)
        bias = None if layer.bias is None else layer.bias.to(dtype)
        out: Tensor = GloraLinear.apply(  # type: ignore[no-untyped-call]
            x.to(dtype), weight, bias, self.size.scale * factor, *self._factors()
        )
        return out

    def change(self, x: Tensor, factor: float) -> Tensor:
        """s * ((W a1)(a2 x) + b1 (b2 x)); the base's bias has no part in it."""
        dtype = compute_dtype(x)
        x = x.to(dtype)
        weight = layer_weight(self.layer).to(dtype)
        scale = self.size.scale * factor
        a1, a2, b1, b2 = self._factors()
        if not spans(kernel_of(self.layer)):
            down, up = _joined(weight, scale, a1, a2, b1, b2)
            if isinstance(self.layer, nn.Linear):
                return F.linear(self._dropped(F.linear(x, down)), up)
            return F.conv2d(self._dropped(convolve(self.layer, x, down)), up)
        behind, b1 = _outer(weight, scale, a1, b1)
        hidden = self.dropped(F.conv2d(x, a2.to(dtype)), f"{self.name}.a")
        change = convolve(self.layer, hidden, behind)
        hidden = self.dropped(convolve(self.layer, x, b2.to(dtype)), f"{self.name}.b")
        return change + F.conv2d(hidden, b1)

    def delta_norm(self) -> Tensor:
        """|A + B|^2 = <A, A> + 2 <A, B> + <B, B>, each from small products of the factors."""
        behind_ODK, a2_DI, b1_OD, b2_DIK = (part.double() for part in self._parts())
        behind = torch.einsum("odk,oek->de", behind_ODK, behind_ODK) * (a2_DI @ a2_DI.t())
        beside = torch.einsum("dik,eik->de", b2_DIK, b2_DIK) * (b1_OD.t() @ b1_OD)
        both = torch.einsum("odk,oe->dek", behind_ODK, b1_OD) * torch.einsum(
            "di,eik->dek", a2_DI, b2_DIK
        )
        squared = behind.sum() + 2 * both.sum() + beside.sum()
        norm: Tensor = squared.clamp_min(0).sqrt() * self.scale()
        return norm.abs()

    def shrink(self, ratio: Tensor) -> None:
        """The change is linear in a2 and b2 together."""
        for suffix in (A2, B2):
            weight = self.weight(suffix)
            weight.mul_(ratio.to(weight.dtype))

    def tensors(self) -> dict[str, Tensor]:
        """As a file holds it, in the new layout; the scalar goes into a2 and b2."""
        found = super().tensors()
        if self.scalar is not None:
            found[B2] = found[B2] * self.scalar.detach()
        return found

    def _parts(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """W a1, a2, b1 and b2 with the kernel as one axis, in the parameters' type."""
        a1, a2, b1, b2 = (self.weight(suffix) for suffix in (A1, A2, B1, B2))
        behind = _behind(layer_weight(self.layer).to(a1.dtype), a1)
        behind_ODK, b2_DIK = (part.reshape(*part.shape[:2], -1) for part in (behind, b2))
        return behind_ODK, a2.flatten(1), b1.flatten(1), b2_DIK

    def _factors(self) -> tuple[Tensor, ...]:
        """a1, a2, b1 and b2, the scalar in the outer ones: it stays fp32 until they are cast."""
        a1, a2, b1, b2 = (self.weight(suffix) for suffix in (A1, A2, B1, B2))
        if self.scalar is None:
            return a1, a2, b1, b2
        return a1 * self.scalar, a2, b1 * self.scalar, b2

    def _dropped(self, hidden: Tensor) -> Tensor:
        """Hidden activations of both products side by side, each dropped by itself."""
        if not self.drops():
            return hidden
        axis = self.rank_axis()
        halves = zip(hidden.chunk(2, axis), "ab", strict=True)
        return torch.cat([self.dropped(half, f"{self.name}.{name}") for half, name in halves], axis)


def _behind(weight: Tensor, a1: Tensor) -> Tensor:
    """W a1: [O, D], or [O, D, h, w] of a convolution."""
    if weight.dim() == 2:
        return weight @ a1
    return torch.einsum("oi...,id->od...", weight, a1.flatten(1))


def _outer(weight: Tensor, scale: float, a1: Tensor, b1: Tensor) -> tuple[Tensor, Tensor]:
    """s W a1 and s b1 in the weight's type; the scale goes in while the factors are fp32."""
    return _behind(weight, (a1 * scale).to(weight.dtype)), (b1 * scale).to(weight.dtype)


def _joined(
    weight: Tensor, scale: float, a1: Tensor, a2: Tensor, b1: Tensor, b2: Tensor
) -> tuple[Tensor, Tensor]:
    """[a2; b2] and s [W a1, b1], where the kernel is one cell."""
    down = torch.cat([a2, b2]).to(weight.dtype)
    return down, torch.cat(_outer(weight, scale, a1, b1), dim=1)


def _shapes(layer: nn.Module, rank: int) -> dict[str, tuple[int, ...]]:
    weight, kernel = layer_weight(layer), kernel_of(layer)
    out, in_ = weight.shape[:2]
    ones = (1,) * len(kernel)
    return {
        A1: (in_, rank, *ones),
        A2: (rank, in_, *ones),
        B1: (out, rank, *ones),
        B2: (rank, in_, *kernel),
    }
