"""Many small parameters as views of one long one: each optimizer step, clip or zeroing is one call.

A step over 384 LoRA factors costs more in 384 small calls than in arithmetic. The adapters keep their
parameters, whose numbers now lie in one buffer and whose gradients in another; writing in place (max-norm,
loading) goes on as before. Replacing a parameter's data or gradient would cut it off.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from engine.networks.base import Adapter

ALIGNMENT = 256
"""Every tensor begins at a multiple of this many numbers. 8-bit optimizers quantise blocks of 256, so
none of their blocks spans two tensors; and vector loads need no tail."""


class Placed(Protocol):
    """An adapter and the part of the model that it belongs to."""

    @property
    def component(self) -> str:
        """Part of the model."""

    @property
    def adapter(self) -> Adapter:
        """The adapter itself."""


class FlatBuffer:
    """Parameters as views of `whole`, their gradients as views of `whole.grad`, which stays zeroed."""

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], dtype: torch.dtype = torch.float32
    ) -> None:
        """Take over fp32 parameters of one device; gradients begin at 0.

        They keep their values, or in half precision the nearest ones.
        """
        self.parameters = dict(parameters)
        self.places: dict[str, tuple[int, torch.Size]] = {}
        """Name to first number and shape."""
        end = 0
        for name, parameter in self.parameters.items():
            self.places[name] = (end, parameter.shape)
            end += -(-parameter.numel() // ALIGNMENT) * ALIGNMENT
        device = next(iter(self.parameters.values())).device
        numbers = torch.zeros(end, dtype=dtype, device=device)
        gradients = torch.zeros_like(numbers)
        for name, parameter in self.parameters.items():
            start, shape = self.places[name]
            cells = slice(start, start + shape.numel())
            numbers[cells] = parameter.detach().flatten()
            parameter.grad = None
            parameter.data = numbers[cells].view(shape)
            parameter.grad = gradients[cells].view(shape)
        self.whole = nn.Parameter(numbers)
        self.whole.grad = gradients

    def zero_grad(self) -> None:
        """Zero all gradients in one call; setting them to None would cut the views off."""
        assert self.whole.grad is not None
        self.whole.grad.zero_()


@dataclass(frozen=True, slots=True)
class Kind:
    """Parameters that an optimizer treats alike."""

    plus: bool
    """They take the ratio of LoRA+."""
    small: bool
    """Too small for a state of 8 bits."""
    exact: bool = False
    """Held in fp32 whatever the rest is held in."""


def flatten(
    members: Iterable[Placed],
    component: str,
    *,
    split_plus: bool = False,
    small_below: int = 0,
    dtype: torch.dtype = torch.float32,
) -> dict[Kind, FlatBuffer]:
    """The trained parameters of a component as flat buffers, one for each kind that it has.

    LoRA+ (Hayou et al. 2024, arXiv:2402.12354) trains the up factors at a rate of their own, so with
    `split_plus` they get their own buffer. Tensors of fewer numbers than `small_below` do too, and in
    half precision those that an adapter has to hold in fp32. Call it once the adapters are on their device.
    """
    found: dict[Kind, dict[str, nn.Parameter]] = {}
    for member in members:
        if member.component != component:
            continue
        plus = {id(parameter) for parameter in member.adapter.plus_parameters()}
        exact = {id(parameter) for parameter in member.adapter.exact_parameters()}
        for name, parameter in named(member.adapter):
            kind = Kind(
                plus=split_plus and id(parameter) in plus,
                small=parameter.numel() < small_below,
                exact=dtype != torch.float32 and id(parameter) in exact,
            )
            found.setdefault(kind, {})[name] = parameter
    return {
        kind: FlatBuffer(parameters, torch.float32 if kind.exact else dtype)
        for kind, parameters in found.items()
    }


def named(adapter: Adapter) -> list[tuple[str, nn.Parameter]]:
    """Trained parameters of an adapter in their fixed order, each with a name unlike all others."""
    attributes = {id(parameter): name for name, parameter in adapter.named_parameters()}
    return [
        (f"{adapter.name}.{attributes[id(parameter)]}", parameter)
        for parameter in adapter.own_parameters()
        if parameter.requires_grad
    ]
