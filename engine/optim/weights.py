"""The trained numbers as the optimizer sees them: in fp32, also where the network keeps half precision.

A half-precision network has its numbers and gradients in half; for the step, when activations are gone,
they are copied to fp32, where clipping and loss scaling work as ever, and rounded back at random.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from engine.draws import key
from engine.optim.groups import Group

SMALLEST_EXPONENT = {torch.bfloat16: -126, torch.float16: -14}
"""Below two to this power numbers of the type are evenly spaced."""
MANTISSA_BITS = {torch.bfloat16: 8, torch.float16: 11}
"""Of the type, the leading one with them."""
DROPPED_BITS = {torch.bfloat16: 16, torch.float16: 13}
"""Bits of an fp32 mantissa that the type does not hold."""


@torch.no_grad()
def stochastic_round(x: Tensor, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """x in fp32 rounded up or down at random, so that the mean is x (Gupta et al. 2015, arXiv:1502.02551).

    Section 4: up with the probability (x - floor(x)) / spacing. What is too large becomes infinite.
    The generator lives on x's device.
    """
    _, exponent = torch.frexp(x)
    least = SMALLEST_EXPONENT[dtype] + 1
    power = exponent.clamp_(min=least) - MANTISSA_BITS[dtype]
    scaled = torch.ldexp(x, -power)
    bits = DROPPED_BITS[dtype]
    # As coarse as what is dropped: the sum below is exact.
    dice = torch.randint(1 << bits, x.shape, generator=generator, device=x.device)
    lifted = scaled + dice.to(torch.float32).mul_(2.0**-bits)
    return torch.ldexp(lifted.floor_(), power).to(dtype)


@dataclass(frozen=True, slots=True)
class Pair:
    """A group as the network holds it, and as the optimizer steps it."""

    live: Group
    stepped: Group
    """The same group where the network is fp32; else fp32 copies that exist during the step."""
    number: int
    """Place among all groups, which its draws depend on."""

    @property
    def half(self) -> bool:
        """Whether the two differ."""
        return self.live is not self.stepped


class Weights:
    """All groups, and the fp32 copies of those in half precision."""

    def __init__(self, groups: Sequence[Group]) -> None:
        self.pairs = tuple(
            Pair(group, _shadow(group), number) for number, group in enumerate(groups)
        )
        """Every group, those that are no longer trained too."""
        self._trained = self.pairs
        self.release()

    @property
    def stepped(self) -> tuple[Group, ...]:
        """What the optimizer gets."""
        return tuple(pair.stepped for pair in self._trained)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Flat fp32 numbers with their gradients, for clipping; whole between gather and settle."""
        return [pair.stepped.flat for pair in self._trained]

    def zero_grad(self) -> None:
        """Zero the gradients that backward adds to."""
        for pair in self._trained:
            assert pair.live.flat.grad is not None
            pair.live.flat.grad.zero_()

    def leave(self, parts: Collection[str]) -> None:
        """Train these parts no more."""
        self._trained = tuple(pair for pair in self._trained if pair.live.part not in parts)

    def gather(self) -> None:
        """Make the fp32 copies of half-precision numbers and gradients."""
        for pair in self._trained:
            if pair.half:
                grad = pair.live.flat.grad
                assert grad is not None
                _point(pair.stepped, pair.live.flat.detach().float(), grad.float())

    def settle(self, seed: int, step: int) -> None:
        """Round the stepped copies back, with draws that depend on (seed, step, group); free them."""
        for pair in self._trained:
            if not pair.half:
                continue
            flat = pair.live.flat
            draws = torch.Generator(flat.device).manual_seed(
                key(seed, "rounding", step, pair.number)
            )
            flat.data.copy_(stochastic_round(pair.stepped.flat.detach(), flat.dtype, draws))
        self.release()

    def release(self) -> None:
        """Free the fp32 copies; what is left has their shapes and no memory."""
        for pair in self.pairs:
            if pair.half:
                nothing = torch.zeros((), device=pair.live.flat.device)
                _point(pair.stepped, nothing.expand(pair.live.flat.shape), None)


def _shadow(group: Group) -> Group:
    if group.flat.dtype == torch.float32:
        return group
    empty = torch.zeros((), device=group.flat.device)
    flat = nn.Parameter(empty.expand(group.flat.shape))
    shaped = [nn.Parameter(empty.expand(shape)) for _, shape in group.places.values()]
    return replace(group, flat=flat, shaped=shaped)


def _point(group: Group, numbers: Tensor, gradients: Tensor | None) -> None:
    """Let a group's parameters be these numbers, and views of them."""
    group.flat.grad = None
    group.flat.data = numbers
    group.flat.grad = gradients
    released = gradients is None
    for view, (start, shape) in zip(group.shaped, group.places.values(), strict=True):
        cells = slice(start, start + shape.numel())
        view.grad = None
        view.data = numbers[0].expand(shape) if released else numbers[cells].view(shape)
        view.grad = None if gradients is None else gradients[cells].view(shape)
