"""LoRA's one node: a small change reaches a half-precision output, and nothing but the input is kept."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from engine.networks.lora import LoraLinear


def parts(bias: bool) -> tuple[Tensor, Tensor, Tensor | None, Tensor, Tensor]:
    torch.manual_seed(0)
    x_ND = torch.randn(8192, 320)
    return (
        x_ND,
        torch.randn(320, 320) / 320**0.5,
        torch.randn(320) if bias else None,
        torch.randn(16, 320) / 320**0.5,
        torch.randn(320, 16) / 16**0.5,
    )


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_change_of_a_thousandth_arrives_whole(dtype: torch.dtype, bias: bool) -> None:
    """Added to an output already rounded to bf16, only half of it would."""
    x, weight, b, down, up = parts(bias)
    x, weight = x.to(dtype), weight.to(dtype)
    b = None if b is None else b.to(dtype)
    with_change = LoraLinear.apply(x, weight, b, down, up, 1e-3)  # type: ignore[no-untyped-call]
    without = LoraLinear.apply(x, weight, b, down, up, 0.0)  # type: ignore[no-untyped-call]
    exact = 1e-3 * (x.double() @ down.double().t() @ up.double().t())
    found = with_change.double() - without.double()
    assert float((found * exact).sum() / exact.square().sum()) == pytest.approx(1, abs=0.02)


def test_it_keeps_the_input_and_the_parameters_alone() -> None:
    x, weight, b, down, up = parts(True)
    assert b is not None
    x, weight, b = (part.bfloat16() for part in (x, weight, b))
    leaves = [nn.Parameter(part) for part in (down, up)]
    kept: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        LoraLinear.apply(x.requires_grad_(), weight, b, *leaves, 0.5)  # type: ignore[no-untyped-call]
    places = {tensor.data_ptr() for tensor in kept}
    assert places == {part.data_ptr() for part in (x, weight, *leaves)}


@pytest.mark.parametrize("scale", [1.0, 0.37])
def test_gradients_are_those_of_autograd(scale: float) -> None:
    x, weight, b, down, up = (None if p is None else p[:64].double() for p in parts(True))
    assert x is not None
    assert weight is not None
    assert down is not None
    assert up is not None
    b = torch.randn(64, dtype=torch.float64)
    up = up.contiguous()
    leaves = [part.clone().requires_grad_() for part in (x, down, up)]
    again = [part.clone().requires_grad_() for part in (x, down, up)]
    node = LoraLinear.apply(leaves[0], weight, b, leaves[1], leaves[2], scale)  # type: ignore[no-untyped-call]
    plain = again[0] @ (weight + scale * again[2] @ again[1]).t() + b
    torch.testing.assert_close(node, plain)
    node.square().sum().backward()
    plain.square().sum().backward()
    for mine, theirs in zip(leaves, again, strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)
