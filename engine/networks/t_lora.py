"""T-LoRA (Soboleva et al. 2025, arXiv:2507.05964): singular factors, fewer of them where noise is high.

dW = s (P diag(l) Q - P0 diag(l0) Q0), section 3.3; ranks [:r] act at timestep t, equation 3.

Both products are nearly equal, so their difference is never taken. It is the same as
P diag(l) (Q - Q0) + ((P - P0) diag(l) + P0 diag(l - l0)) Q0, each term of which is as small as dW: a
LoRA of rank 2d whose factors may be rounded.

Shape letters: B samples, N rows of activations, O outputs, I inputs with the kernel, D ranks.
"""

from __future__ import annotations

from typing import ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.draws import generator
from engine.networks.base import (
    ALPHA,
    Setup,
    Size,
    Tensors,
    compute_dtype,
    convolve,
    layer_weight,
)
from engine.networks.choice import Choice
from engine.networks.dropout import activation_mask, sample_rank_mask_BD
from engine.networks.lora import DOWN, UP, LoraLinear
from engine.networks.lowrank import LowRank
from engine.networks.shapes import BASE_FACTORS, Shapes
from engine.networks.singular import Spectrum
from engine.networks.t_lora_start import (
    FACTORS,
    LAMBDA,
    P,
    Q,
    factor_shapes,
    nearest_start,
    placed,
)

SHRUNK = "shrunk"
TEXT_ENCODERS = "lora_te"


class TLora(LowRank):
    """Two orthogonal factors around singular values, less what they started from."""

    starts_at_zero: ClassVar = ()
    scalar_goes_into: ClassVar = ()
    shrunk: Tensor

    def prepare(self) -> None:
        """Masks and terms as they are where no recipe says otherwise."""
        self.min_rank = 1
        self.mask_alpha = 1.0
        self.orthogonality = 0.0
        self.derived = False
        """Whether the file held no fixed factors, so that they were taken from the base again."""
        # Alpha's part that max-norm has changed: on the device, so that nobody waits for it.
        self.register_buffer(SHRUNK, torch.ones((), device=layer_weight(self.layer).device))

    @classmethod
    def read_size(cls, layer: nn.Module, tensors: Tensors) -> Size:
        """The rank is the first axis of Q."""
        rank = tensors[Q].shape[0]
        expected = factor_shapes(layer, rank)
        found = [suffix for suffix in BASE_FACTORS if suffix in tensors]
        if found and len(found) != len(BASE_FACTORS):
            raise ValueError(f"it has {', '.join(found)} without the rest of {BASE_FACTORS}")
        for suffix in (*FACTORS, *found):
            shape = expected[suffix]
            shown = tensors[suffix].shape
            # A 1 x 1 convolution may be stored as a matrix and the other way round.
            if shown[:2] != shape[:2] or shown.numel() != torch.Size(shape).numel():
                raise ValueError(f"{suffix} is {list(shown)}, not {list(shape)}")
        return Size(float(tensors[ALPHA]) if ALPHA in tensors else float(rank), rank)

    @classmethod
    def read_weights(cls, layer: nn.Module, tensors: Tensors) -> dict[str, Tensor]:
        """The trained factors in the layer's form."""
        shapes = factor_shapes(layer, tensors[Q].shape[0])
        return {suffix: tensors[suffix].reshape(shapes[suffix]) for suffix in FACTORS}

    @classmethod
    def read_fixed(cls, layer: nn.Module, tensors: Tensors) -> dict[str, Tensor]:
        """What the factors started from: of the file, or of the base where the file holds none.

        lycoris-lora writes none. Raises ValueError where they do not begin at singular values of
        this base: random starts and those of another base cannot be found again.
        """
        shapes = factor_shapes(layer, tensors[Q].shape[0])
        if BASE_FACTORS[0] in tensors:
            return {
                suffix: tensors[suffix].reshape(shapes[suffix]).float() for suffix in BASE_FACTORS
            }
        trained = cls.read_weights(layer, tensors)
        found = nearest_start(layer, trained)
        return dict(zip(BASE_FACTORS, found.values(), strict=True))

    @classmethod
    def fresh(
        cls, name: str, layer: nn.Module, shapes: Shapes, seed: int, choice: Choice
    ) -> dict[str, Tensor]:
        """Singular factors of the base weight, or of normal numbers with a deviation of 1/d."""
        weight = layer_weight(layer)
        rank = shapes[Q][0]
        if choice.use_data_init:
            matrix_OI = weight.flatten(1)
        else:
            size = (weight.shape[0], weight[0].numel())
            drawn = torch.randn(size, generator=generator(seed, f"init:{name}.base"))
            matrix_OI = drawn.to(weight.device) / rank
        return placed(layer, Spectrum(matrix_OI).pick(rank, choice.sig_type), rank)

    @classmethod
    def fresh_fixed(
        cls, name: str, layer: nn.Module, weights: Tensors, choice: Choice
    ) -> dict[str, Tensor]:
        """The factors as they start."""
        pairs = zip(FACTORS, BASE_FACTORS, strict=True)
        return {fixed: weights[suffix].clone() for suffix, fixed in pairs}

    @classmethod
    def from_tensors(
        cls,
        name: str,
        layer: nn.Module,
        tensors: Tensors,
        setup: Setup,
        choice: Choice | None = None,
    ) -> Self:
        """Exact inverse of `tensors`; remembers whether fixed factors had to be derived."""
        made = super().from_tensors(name, layer, tensors, setup, choice)
        made.derived = BASE_FACTORS[0] not in tensors
        return made

    def adopt(self, choice: Choice) -> None:
        """How ranks follow the timestep, and the weight of the penalty."""
        self.min_rank, self.mask_alpha = choice.min_rank, choice.mask_alpha
        self.orthogonality = choice.orthogonality

    def scale(self) -> Tensor | float:
        """alpha / rank, with what max-norm has taken off."""
        return self.shrunk * self.size.scale

    def delta(self) -> Tensor:
        """dW = s (P diag(l) Q - P0 diag(l0) Q0), of all ranks."""
        down, up = self._narrow(1.0)
        return (up.flatten(1) @ down.flatten(1)).view(layer_weight(self.layer).shape)

    def adapted(self, x: Tensor, factor: float) -> Tensor:
        """One node of the graph where no rank is masked."""
        layer = self.layer
        masked = self._follows_timesteps() and self.setup.moment.timesteps_B is not None
        if masked or not (isinstance(layer, nn.Linear) and self.one_node()):
            return super().adapted(x, factor)
        dtype = compute_dtype(x)
        down, up = self._narrow(factor)
        bias = None if layer.bias is None else layer.bias.to(dtype)
        out: Tensor = LoraLinear.apply(  # type: ignore[no-untyped-call]
            x.to(dtype), layer.weight.to(dtype), bias, down.to(dtype), up.to(dtype)
        )
        return out

    def change(self, x: Tensor, factor: float) -> Tensor:
        """As a LoRA of rank 2d; both halves of the hidden activation share their masks."""
        dtype = compute_dtype(x)
        down, up = (narrow.to(dtype) for narrow in self._narrow(factor))
        x = x.to(dtype)
        if isinstance(self.layer, nn.Linear):
            return F.linear(self._masked(F.linear(x, down)), up)
        return F.conv2d(self._masked(convolve(self.layer, x, down)), up)

    def delta_norm(self) -> Tensor:
        """|up down|^2 = tr(up^T up . down down^T), of all ranks."""
        down, up = (narrow.flatten(1).double() for narrow in self._narrow(1.0))
        squared: Tensor = ((up.t() @ up) * (down @ down.t())).sum().clamp_min(0)
        return squared.sqrt()

    def shrink(self, ratio: Tensor) -> None:
        """The scale takes it; it is written through alpha."""
        self.shrunk.mul_(ratio.to(self.shrunk.dtype))

    def penalty(self) -> Tensor | None:
        """|P^T P - I|^2 + |Q Q^T - I|^2, equation 7, times its weight; None where that is 0."""
        if self.orthogonality == 0:
            return None
        q_DI, p_OD = self.weight(Q).flatten(1), self.weight(P).flatten(1)
        one_DD = torch.eye(q_DI.shape[0], device=q_DI.device, dtype=q_DI.dtype)
        apart = (p_OD.t() @ p_OD - one_DD).square().sum() + (
            q_DI @ q_DI.t() - one_DD
        ).square().sum()
        return apart * self.orthogonality

    def tensors(self) -> dict[str, Tensor]:
        """As a file holds it; what max-norm took off is part of alpha."""
        found = super().tensors()
        found[ALPHA] = (found[ALPHA].double() * float(self.shrunk)).float()
        return found

    def state(self) -> dict[str, Tensor]:
        """What training needs to go on exactly."""
        return super().state() | {SHRUNK: self.shrunk}

    def load_state(self, state: Tensors) -> None:
        """Exact inverse of `state`."""
        super().load_state(state)
        self.shrunk.copy_(state[SHRUNK])

    def _narrow(self, factor: float) -> tuple[Tensor, Tensor]:
        """[Q - Q0; Q0] and s [P diag(l), (P - P0) diag(l) + P0 diag(l - l0)]."""
        trained = {suffix: self.weight(suffix) for suffix in FACTORS}
        start = {
            suffix: self.fixed(fixed) for suffix, fixed in zip(FACTORS, BASE_FACTORS, strict=True)
        }
        down, up = narrow_factors(trained, start)
        return down, up * (self.scale() * factor)

    def _masked(self, hidden: Tensor) -> Tensor:
        """Each half times timestep mask and dropouts; the rank axis holds both halves."""
        axis = self.rank_axis()
        half = hidden.narrow(axis, 0, hidden.shape[axis] // 2)
        for mask in self._masks(half, axis):
            hidden = hidden * torch.cat([mask, mask], axis)
        return hidden

    def _masks(self, half: Tensor, axis: int) -> list[Tensor]:
        moment, dropouts = self.setup.moment, self.setup.dropouts
        rows, ranks = half.shape[0], half.shape[axis]
        shape = [rows] + [1] * (half.dim() - 1)
        shape[axis] = ranks
        masks = []
        if self._follows_timesteps() and moment.timesteps_B is not None:
            active_B = active_ranks(
                moment.timesteps_B.to(half.device),
                moment.timesteps,
                ranks,
                min_rank=self.min_rank,
                mask_alpha=self.mask_alpha,
            )
            sample_N = torch.arange(rows, device=half.device) % len(active_B)
            masks.append(rank_mask(active_B[sample_N], ranks))
        if self.training and dropouts.rank > 0:
            masks.append(sample_rank_mask_BD(moment, self.name, dropouts.rank, rows, ranks))
        found = [mask.to(half.device, half.dtype).view(shape) for mask in masks]
        if self.training and dropouts.activation > 0:
            found.append(activation_mask(moment, self.name, dropouts.activation, half))
        return found

    def _follows_timesteps(self) -> bool:
        # A text encoder has no timestep. Its layers run again in backward under checkpointing, when
        # that of the denoiser's pass is set.
        return not self.name.startswith(TEXT_ENCODERS)


def active_ranks(
    timesteps_B: Tensor, timesteps: int, ranks: int, *, min_rank: int, mask_alpha: float
) -> Tensor:
    """r = floor(((T - t) / T)^a (d - r_min)) + r_min, at most d (equation 3). int64, shape (B,)."""
    least = min(min_rank, ranks)
    left_B = (timesteps - timesteps_B.double()) / timesteps
    return ((left_B**mask_alpha * (ranks - least)).floor().long() + least).clamp(max=ranks)


def rank_mask(active_B: Tensor, ranks: int) -> Tensor:
    """1 for the first r ranks of each sample, shape (B, D)."""
    return (torch.arange(ranks, device=active_B.device) < active_B[:, None]).float()


def narrow_factors(trained: Tensors, start: Tensors) -> tuple[Tensor, Tensor]:
    """Factors of a LoRA of rank 2d, in the layer's form, whose product is the difference of both."""
    q, p = trained[Q], trained[P]
    over_p = (1, -1, *(1 for _ in p.shape[2:]))
    lambda_, lambda_0 = trained[LAMBDA].view(over_p), start[LAMBDA].view(over_p)
    moved = (p - start[P]) * lambda_ + start[P] * (lambda_ - lambda_0)
    return torch.cat([q - start[Q], start[Q]]), torch.cat([p * lambda_, moved], dim=1)


def as_lora(tensors: Tensors) -> dict[str, Tensor]:
    """The module of a file as a LoRA of rank 2d, in fp32, that has all ranks at every timestep.

    QR of both factors and SVD of the core spread the change evenly over factors of its own size, so
    that they may be rounded to half precision. Raises ValueError where the fixed factors are missing.
    """
    missing = [suffix for suffix in BASE_FACTORS if suffix not in tensors]
    if missing:
        raise ValueError(f"it lacks {', '.join(missing)}")
    trained = {suffix: tensors[suffix].double() for suffix in FACTORS}
    pairs = zip(FACTORS, BASE_FACTORS, strict=True)
    down, up = narrow_factors(trained, {suffix: tensors[fixed].double() for suffix, fixed in pairs})
    left, left_core = torch.linalg.qr(up.flatten(1))
    right, right_core = torch.linalg.qr(down.flatten(1).t())
    u, values, v = torch.linalg.svd(left_core @ right_core.t(), full_matrices=False)
    root = values.sqrt()
    missing_ranks = down.shape[0] - len(root)
    wide_up = F.pad((left @ u) * root, (0, missing_ranks))
    wide_down = F.pad(root[:, None] * (v @ right.t()), (0, 0, 0, missing_ranks))
    rank = tensors[Q].shape[0]
    alpha = float(tensors[ALPHA]) if ALPHA in tensors else float(rank)
    return {
        UP: wide_up.view(up.shape).float().contiguous(),
        DOWN: wide_down.view(down.shape).float().contiguous(),
        ALPHA: torch.tensor(2 * alpha, dtype=torch.float32),
    }
