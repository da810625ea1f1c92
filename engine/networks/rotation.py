"""What Diag-OFT and BOFT share: layers whose outputs are turned by small orthogonal blocks.

W' = D R W, R orthogonal and made of blocks, D the optional rescale. R is never applied as it is: the
small R - I is, to the layer's output, and the result is added. In half precision R y - y would be
noise.

Shape letters: N places (tokens or pixels), O outputs, K blocks, S rows of a block. An output is
[N, O], or [images, O, N] with the outputs before the places.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from engine.networks.base import (
    ALPHA,
    Adapter,
    Size,
    Tensors,
    compute_dtype,
    convolve,
    kernel_of,
    layer_weight,
)
from engine.networks.choice import Choice
from engine.networks.shapes import Shapes

BLOCKS, RESCALE, CONSTRAINT = "oft_blocks", "rescale", "constraint"
SEARCH_STEPS = 14
FP32_ROOM, HALF_ROOM = 2.0**-22, 2.0**-8
"""By how much of |B| rounding a clipped B may lift the norm of B - B^T, in fp32 and in bf16."""

Turns: TypeAlias = tuple[Tensor, ...]
"""For each step what is added to the identity, [K, S, S]; rows y become y + y @ turn."""


@dataclass(frozen=True, slots=True)
class Step:
    """One blockwise product: rows lie as (outer, mixed, inner, width), a block has mixed x width."""

    outer: int
    mixed: int
    inner: int
    width: int

    @property
    def size(self) -> int:
        """Rows of a block."""
        return self.mixed * self.width

    def cut(self, y: Tensor) -> Tensor:
        """Blocks of an output: [K, N, S], or [images K, S, N]. A view where `inner` is 1."""
        if y.dim() == 2:
            return y.view(len(y), -1, self.size).transpose(0, 1)
        parts = self._parts(y).permute(0, 1, 3, 2, 4, 5)
        return parts.reshape(-1, self.size, y.shape[2])

    def _parts(self, y: Tensor) -> Tensor:
        return y.view(-1, self.outer, self.mixed, self.inner, self.width, y.shape[2])

    def add_(self, out: Tensor, blocks: Tensor, turn: Tensor) -> Tensor:
        """out + blocks @ turn, written into out."""
        if out.dim() == 2:
            self.cut(out).baddbmm_(blocks, turn)
            return out
        turn = turn.transpose(1, 2)
        turn = turn.repeat(len(out), 1, 1) if len(out) > 1 else turn
        if self.inner == 1:
            self.cut(out).baddbmm_(turn, blocks)
            return out
        part = torch.bmm(turn, blocks)
        part = part.view(-1, self.outer, self.inner, self.mixed, self.width, out.shape[2])
        self._parts(out).add_(part.permute(0, 1, 3, 2, 4, 5))
        return out

    def inner_product(self, blocks: Tensor, grads: Tensor, y: Tensor) -> Tensor:
        """y^T @ gradient of each block, summed over all places: [K, S, S]."""
        if y.dim() == 2:
            return torch.bmm(blocks.transpose(1, 2), grads)
        found = torch.bmm(blocks, grads.transpose(1, 2))
        return found.view(len(y), -1, self.size, self.size).sum(0)

    def settled(self, y: Tensor) -> Tensor:
        """Blocks as they are best read more than once: a CPU's products crawl over strided tokens."""
        blocks = self.cut(y)
        return blocks.contiguous() if y.device.type == "cpu" else blocks


def rows_first(y: Tensor, steps: tuple[Step, ...]) -> Tensor:
    """Tokens as one image where steps regroup rows: whole rows move more quickly than short runs."""
    return y.t().contiguous()[None] if y.dim() == 2 and len(steps) > 1 else y


def turned_part(y: Tensor, turns: Turns, steps: tuple[Step, ...]) -> Tensor:
    """(prod (I + turn) - I) applied to y, which has no bias, in the shape of y.

    The change is carried on its own, so that a small one does not drown in y's rounding.
    """
    rows = rows_first(y, steps)
    change = torch.zeros_like(rows)
    for number, (step, turn) in enumerate(zip(steps, turns, strict=True)):
        now = rows if number == 0 else rows + change
        change = step.add_(change, step.cut(now), turn)
    return change if rows is y else change[0].t()


class Turned(torch.autograd.Function):
    """y turned by orthogonal steps, as one node.

    Saves its output alone: what a step was given is what it gave, turned back.
    """

    @staticmethod
    def forward(
        ctx: Any, y: Tensor, bias: Tensor | None, steps: tuple[Step, ...], *turns: Tensor
    ) -> Tensor:
        cast = tuple(turn.to(y.dtype) for turn in turns)
        own = _without(y, bias)
        if len(steps) == 1:
            out = steps[0].add_(y.clone(), steps[0].cut(own), cast[0])
        else:
            out = y + turned_part(own, cast, steps)
        ctx.steps, ctx.types = steps, tuple(turn.dtype for turn in turns)
        ctx.save_for_backward(out, bias, *cast)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        out, bias, *turns = ctx.saved_tensors
        now = rows_first(_without(out, bias), ctx.steps)
        grad = rows_first(grad.contiguous(), ctx.steps)
        turn_grads: list[Tensor] = []
        for number in reversed(range(len(turns))):
            step, turn = ctx.steps[number], turns[number]
            blocks, grads = step.settled(now), step.settled(grad)
            # Given = gave @ (I + turn)^T, so its product with the gradient needs no pass of its own.
            met = step.inner_product(blocks, grads, now).to(ctx.types[number])
            turn_grads.append(met + turn.to(met.dtype) @ met)
            if number > 0 or ctx.needs_input_grad[0]:
                grad = step.add_(grad.clone(), grads, turn.mT)
            if number > 0:
                now = step.add_(now.clone(), blocks, turn.mT)
        if not ctx.needs_input_grad[0]:
            return None, None, None, *reversed(turn_grads)
        y_grad = grad if grad.shape == out.shape else grad[0].t()
        return y_grad, None, None, *reversed(turn_grads)


def _without(y: Tensor, bias: Tensor | None) -> Tensor:
    if bias is None:
        return y
    return y - (bias if y.dim() == 2 else bias[:, None])


def skew(blocks: Tensor) -> Tensor:
    """Q = B - B^T."""
    return blocks - blocks.transpose(-1, -2)


def clip(q: Tensor, limit: float) -> Tensor | float:
    """What brings the norm of Q over all blocks to the limit where it is above; 0 is no limit."""
    if limit <= 0:
        return 1.0
    ratio: Tensor = limit / torch.linalg.vector_norm(q).clamp_min(limit)
    return ratio


def cayley(q: Tensor) -> Tensor:
    """R - I = 2 Q (I - Q)^-1, R orthogonal (Cayley 1846; Qiu et al. 2023, arXiv:2306.07280)."""
    one = torch.eye(q.shape[-1], dtype=q.dtype, device=q.device)
    # The plain inverse asks the device whether it went well; I - Q always has one.
    inverse, _ = torch.linalg.inv_ex(one - q, check_errors=False)
    turn: Tensor = 2 * q @ inverse
    return turn


def baked(blocks: Tensor, limit: float) -> Tensor:
    """B times limit / |Q| where |Q| is above the limit by more than rounding; 0 is no limit.

    So what was baked is baked already, also once it went through a file in half precision.
    """
    if limit <= 0:
        return blocks
    ratio = float(clip(skew(blocks.double()), limit))
    halves = (torch.bfloat16, torch.float16)
    half = any(torch.equal(blocks, blocks.to(dtype).to(blocks.dtype)) for dtype in halves)
    room = float(torch.linalg.vector_norm(blocks.double())) * (HALF_ROOM if half else FP32_ROOM)
    return blocks * ratio if limit / ratio > limit + room else blocks


def fraction_for(norm_at: Callable[[Tensor], Tensor], whole: Tensor, wanted: Tensor) -> Tensor:
    """t in [0, 1] with norm_at(t) = wanted, where norm_at(0) = 0 and norm_at(1) = whole >= wanted.

    Bisection, every other step by the secant of the bracket: small turns are nearly linear and large
    ones nearly flat. A fixed number of steps, and no wait for the device.
    """
    low, high = torch.zeros_like(whole), torch.ones_like(whole)
    below, above = -wanted, whole - wanted

    def secant() -> Tensor:
        return torch.where(above > below, low - below * (high - low) / (above - below), high)

    for number in range(SEARCH_STEPS):
        t = (low + high) / 2 if number % 2 else secant()
        off = norm_at(t) - wanted
        over = off > 0
        low, below = torch.where(over, low, t), torch.where(over, below, off)
        high, above = torch.where(over, t, high), torch.where(over, off, above)
    return secant()


class Rotation(Adapter):
    """An adapter that turns a layer's outputs in blocks, within a limit, and may rescale them."""

    constraint = 0.0
    """Norm of Q per output of the layer above which it is clipped; 0 is off."""

    @classmethod
    @abstractmethod
    def check_blocks(cls, outputs: int, shape: tuple[int, ...]) -> None:
        """Raises ValueError where blocks of this shape do not fit the layer's outputs."""

    @abstractmethod
    def steps(self) -> tuple[Step, ...]:
        """How the outputs are cut, in the order of the products."""

    @abstractmethod
    def turns(self, q: Tensor, rescale: Tensor | None) -> Turns:
        """R - I of each step, or of D R for the last one; fp32 or better."""

    @classmethod
    def read_size(cls, layer: nn.Module, tensors: Tensors) -> Size:
        """Alpha tells consumers a limit and no scale; ours is in the blocks, so it is 0."""
        outputs = layer_weight(layer).shape[0]
        cls.check_blocks(outputs, tuple(tensors[BLOCKS].shape))
        if RESCALE in tensors and tensors[RESCALE].numel() != outputs:
            raise ValueError(f"{RESCALE} has {tensors[RESCALE].numel()} numbers, not {outputs}")
        return Size(0.0, None)

    @classmethod
    def read_weights(cls, layer: nn.Module, tensors: Tensors) -> dict[str, Tensor]:
        """Blocks with the limit of another program's file already applied, and the rescale."""
        outputs = layer_weight(layer).shape[0]
        blocks = tensors[BLOCKS].float()
        limit = float(tensors[ALPHA]) * outputs if ALPHA in tensors else 0.0
        found = {BLOCKS: blocks * clip(skew(blocks), limit)}
        if RESCALE in tensors:
            found[RESCALE] = tensors[RESCALE].reshape(_rescale_shape(layer))
        return found

    @classmethod
    def fresh(
        cls, name: str, layer: nn.Module, shapes: Shapes, seed: int, choice: Choice
    ) -> dict[str, Tensor]:
        """No turn, and a rescale of 1; nothing is drawn."""
        return {
            suffix: torch.zeros(shape) if suffix == BLOCKS else torch.ones(shape)
            for suffix, shape in shapes.items()
        }

    @classmethod
    def written_size(cls, rank: int | None, kernel: tuple[int, ...], choice: Choice) -> Size:
        """Alpha 0: consumers would clip a second time at any other."""
        return Size(0.0, None)

    def adopt(self, choice: Choice) -> None:
        """The limit of the turn."""
        self.constraint = choice.constraint

    def limit(self) -> float:
        """Largest Frobenius norm of Q over all blocks together; 0 is none."""
        return self.constraint * layer_weight(self.layer).shape[0]

    def tensors(self) -> dict[str, Tensor]:
        """The module as a file holds it: blocks within the limit, alpha 0."""
        found = super().tensors()
        found[BLOCKS] = baked(found[BLOCKS], self.limit())
        return found

    def state(self) -> dict[str, Tensor]:
        """Blocks as they are trained, and the limit."""
        return super().state() | {CONSTRAINT: torch.tensor(self.constraint, dtype=torch.float64)}

    def load_state(self, state: Tensors) -> None:
        """Exact inverse of `state`."""
        super().load_state(state)
        self.constraint = float(state[CONSTRAINT])

    def delta(self) -> Tensor:
        """dW = (D R - I) W."""
        rescale = self.weight(RESCALE) if self.has(RESCALE) else None
        return self._delta(self.weight(BLOCKS), rescale)

    def _delta(self, blocks: Tensor, rescale: Tensor | None) -> Tensor:
        weight = layer_weight(self.layer)
        turns = self._turns(blocks, rescale)
        rows = weight.to(blocks.dtype).reshape(1, weight.shape[0], -1)
        return turned_part(rows, turns, self.steps()).view(weight.shape)

    def _turns(self, blocks: Tensor, rescale: Tensor | None) -> Turns:
        # Autocast would take these small products to half precision.
        with torch.autocast(blocks.device.type, enabled=False):
            q = skew(blocks)
            return self.turns(
                q * clip(q, self.limit()), None if rescale is None else rescale.flatten()
            )

    def _own_turns(self) -> Turns:
        rescale = self.weight(RESCALE) if self.has(RESCALE) else None
        return self._turns(self.weight(BLOCKS), rescale)

    def change(self, x: Tensor, factor: float) -> Tensor:
        """m (D R - I) applied to the layer's own output without bias."""
        layer, dtype = self.layer, compute_dtype(x)
        weight = layer_weight(layer).to(dtype)
        x = x.to(dtype)
        y = F.linear(x, weight) if isinstance(layer, nn.Linear) else convolve(layer, x, weight)
        return self._part(y, None, factor)

    def adapted(self, x: Tensor, factor: float) -> Tensor:
        """The layer's output, turned; nothing but the output is kept where R alone turns it."""
        if not self._plain():
            return super().adapted(x, factor)
        y, bias = self.base(x), self.layer.bias
        assert bias is None or isinstance(bias, Tensor)
        bias = None if bias is None else bias.to(y.dtype)
        if factor != 1 or self.has(RESCALE):
            return y + self._part(y, bias, factor)
        turned: Tensor = Turned.apply(  # type: ignore[no-untyped-call]
            self._flat(y), bias, self.steps(), *self._own_turns()
        )
        return self._shaped(turned, y)

    def _part(self, y: Tensor, bias: Tensor | None, factor: float) -> Tensor:
        turns = tuple(turn.to(y.dtype) for turn in self._own_turns())
        part = turned_part(_without(self._flat(y), bias), turns, self.steps())
        return self._shaped(part * factor, y)

    def _plain(self) -> bool:
        """Whether what lies behind is W x + b, so that its output tells W x."""
        plain = type(self.layer).forward in (nn.Linear.forward, nn.Conv2d.forward)
        return plain and self.alone()

    def _flat(self, y: Tensor) -> Tensor:
        """[N, O], or [images, O, N] where the places of a channel lie together."""
        if isinstance(self.layer, nn.Linear):
            return y.reshape(-1, y.shape[-1])
        if y.is_contiguous():
            return y.flatten(2)
        return y.permute(0, 2, 3, 1).reshape(-1, y.shape[1])

    def _shaped(self, flat: Tensor, y: Tensor) -> Tensor:
        """Inverse of `_flat` for an output like y."""
        if isinstance(self.layer, nn.Linear) or flat.dim() == 3:
            return flat.view(y.shape)
        images, outputs, height, width = y.shape
        return flat.view(images, height, width, outputs).permute(0, 3, 1, 2)

    def delta_norm(self) -> Tensor:
        """|W' - W|, measured on the change itself."""
        norm: Tensor = torch.linalg.vector_norm(self.delta())
        return norm

    @torch.no_grad()
    def shrink(self, ratio: Tensor) -> None:
        """Turn and rescale less, by the fraction that scales |W' - W| by the ratio."""
        blocks = self.weight(BLOCKS)
        rescale = self.weight(RESCALE) if self.has(RESCALE) else None
        # From where the limit ends, or turning less would first change nothing.
        within = blocks * clip(skew(blocks), self.limit())

        def less(t: Tensor) -> tuple[Tensor, Tensor | None]:
            return within * t, None if rescale is None else 1 + (rescale - 1) * t

        def norm_at(t: Tensor) -> Tensor:
            norm: Tensor = torch.linalg.vector_norm(self._delta(*less(t)))
            return norm

        whole = self.delta_norm()
        found_blocks, found_rescale = less(fraction_for(norm_at, whole, whole * ratio))
        blocks.copy_(torch.where(ratio < 1, found_blocks, blocks))
        if rescale is not None and found_rescale is not None:
            rescale.copy_(torch.where(ratio < 1, found_rescale, rescale))


def _rescale_shape(layer: nn.Module) -> tuple[int, ...]:
    return (layer_weight(layer).shape[0], 1, *(1 for _ in kernel_of(layer)))
