"""A frozen linear layer with a LoRA and magnitudes (DoRA, Liu et al. 2024), each as one node.

u is g - 1; the factors come with g and the scale in them.

Shape letters: N rows, O outputs, I inputs, D ranks.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable


class InputMagnitudes(torch.autograd.Function):
    """W x + W(u x) + up down x as one node that saves the input alone.

    With u = g - 1 in a product of its own a small u survives a half-precision x.
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        less_one_I: Tensor,
        down: Tensor,
        up: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(x, weight, less_one_I, down, up)
        x_NI = x.reshape(-1, x.shape[-1])
        scaled_NI, hidden_ND = x_NI * less_one_I.to(x.dtype), x_NI @ down.t()
        if bias is None:
            # The small parts first: the sum with the base's product is rounded once.
            out_NO = (scaled_NI @ weight.t()).addmm_(hidden_ND, up.t()).addmm_(x_NI, weight.t())
            return out_NO.view(*x.shape[:-1], weight.shape[0])
        # A bias would swallow them, so there the base stands first, as it was to the bit.
        out = F.linear(x, weight, bias).contiguous()
        out.view(-1, out.shape[-1]).addmm_(scaled_NI, weight.t()).addmm_(hidden_ND, up.t())
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, less_one_I, down, up = ctx.saved_tensors
        wants_x, _, _, wants_u, wants_down, wants_up = ctx.needs_input_grad
        x_NI = x.reshape(-1, x.shape[-1])
        grad_NO = grad.reshape(-1, grad.shape[-1])
        hidden_grad_ND = grad_NO @ up
        u_grad = x_grad = None
        if wants_x or wants_u:
            back_NI = grad_NO @ weight
            if wants_u:
                u_grad = (back_NI * x_NI).sum(0, dtype=less_one_I.dtype)
            if wants_x:
                back_NI.addcmul_(back_NI, less_one_I.to(x.dtype))
                x_grad = back_NI.addmm_(hidden_grad_ND, down).view(x.shape)
        down_grad = hidden_grad_ND.t() @ x_NI if wants_down else None
        up_grad = grad_NO.t() @ (x_NI @ down.t()) if wants_up else None
        return x_grad, None, None, u_grad, down_grad, up_grad


class OutputMagnitudes(torch.autograd.Function):
    """(1 + u) W x + up down x as one node; saves the input and W x, and needs W only once each way."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        less_one_O: Tensor,
        down: Tensor,
        up: Tensor,
    ) -> Tensor:
        out = F.linear(x, weight, bias)
        plain = out if bias is None else out - bias
        ctx.save_for_backward(x, plain, weight, less_one_O, down, up)
        changed = torch.addcmul(out, plain, less_one_O.to(x.dtype)).contiguous()
        hidden_ND = x.reshape(-1, x.shape[-1]) @ down.t()
        changed.view(-1, out.shape[-1]).addmm_(hidden_ND, up.t())
        return changed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, plain, weight, less_one_O, down, up = ctx.saved_tensors
        wants_x, _, _, wants_u, wants_down, wants_up = ctx.needs_input_grad
        x_NI = x.reshape(-1, x.shape[-1])
        grad_NO = grad.reshape(-1, grad.shape[-1])
        hidden_grad_ND = grad_NO @ up
        u_grad = x_grad = None
        if wants_u:
            products_NO = grad_NO * plain.reshape(grad_NO.shape)
            u_grad = products_NO.sum(0, dtype=less_one_O.dtype)
        if wants_x:
            scaled_NO = torch.addcmul(grad_NO, grad_NO, less_one_O.to(x.dtype))
            x_grad = (scaled_NO @ weight).addmm_(hidden_grad_ND, down).view(x.shape)
        down_grad = hidden_grad_ND.t() @ x_NI if wants_down else None
        up_grad = grad_NO.t() @ (x_NI @ down.t()) if wants_up else None
        return x_grad, None, None, u_grad, down_grad, up_grad
