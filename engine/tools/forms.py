"""One module of a network in another form: as a LoRA, as a whole difference, or cut to fewer ranks.

Shape letters: O outputs, I inputs times the kernel's cells, D ranks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from engine.errors import NetworkFileError, Problem
from engine.inert import inert
from engine.networks.base import ALPHA, Adapter, Setup, layer_weight
from engine.networks.dora_rules import SCALE
from engine.networks.lokr import T2, W1, W1_A, W1_B, W2, W2_A, W2_B
from engine.networks.lora import DOWN, MID, UP
from engine.networks.reading import MISFITS
from engine.networks.shapes import BASE_FACTORS, KEPT_EXACT
from engine.networks.t_lora import TLora, narrow_factors
from engine.networks.table import read
from engine.tools.checkpoint import blank_layer
from engine.tools.requests import RankRule
from engine.tools.svd import Spectrum, distance, of_factors, of_kron, of_matrix, rank_for

Tensors = dict[str, Tensor]
Shape = tuple[int, ...]
DIFF, DIFF_B = "diff", "diff_b"
BEHIND_THE_BASE = frozenset({"ia3", "diag-oft", "boft", "glora"})
"""Algorithms whose change depends on the base's weight."""
FACTORS = ("q_layer.weight", "p_layer.weight", "lambda_layer")


@dataclass(frozen=True, slots=True)
class Module:
    """A module of a file with all that is known of its layer."""

    name: str
    algorithm: str
    tensors: Mapping[str, Tensor]
    """By our suffix, in our layout, as they are stored."""
    layer: nn.Module | None = None
    """With the base's weights, where there is a base."""
    kernel: Shape | None = None
    """Where the model's family tells it and the tensors may not."""

    def adapter(self) -> Adapter:
        """The module on its layer; raises NetworkFileError where they do not fit."""
        layer = self.layer if self.layer is not None else self._blank()
        try:
            return read(self.algorithm, self.name, layer, self.tensors, Setup())
        except MISFITS as error:
            what = f"It does not fit the layer: {inert(str(error))}."
            raise NetworkFileError(Problem(what, where=inert(self.name))) from error

    @property
    def dora(self) -> bool:
        """Whether it has magnitudes."""
        return SCALE in self.tensors

    @property
    def needs_base(self) -> bool:
        """Whether its change cannot be told without the base's weight."""
        if self.algorithm == "t-lora":
            return not set(BASE_FACTORS) <= set(self.tensors)
        return self.dora or self.algorithm in BEHIND_THE_BASE

    def check(self) -> None:
        """Raises NetworkFileError where the tensors do not fit each other, or the layer."""
        if self.layer is not None or not (self.needs_base or self._is_folded):
            self.adapter()

    @property
    def _is_folded(self) -> bool:
        """Whether the kernel is neither in the tensors nor known."""
        there = {"loha": "hada_w1_b", "lokr": W2_B}.get(self.algorithm, "")
        tucker = T2 in self.tensors or "hada_t1" in self.tensors
        return self.kernel is None and there in self.tensors and not tucker

    def _blank(self) -> nn.Module:
        if self.needs_base:
            raise NetworkFileError(base_needed(self.name, self.algorithm, dora=self.dora))
        return blank_layer(self._shape())

    def _shape(self) -> Shape:
        """The layer's weight's, from the tensors and what is known of the kernel."""
        found = {suffix: tuple(tensor.shape) for suffix, tensor in self.tensors.items()}
        match self.algorithm:
            case "lora":
                inner = found.get(MID, found[DOWN])
                return (found[UP][0], found[DOWN][1], *inner[2:])
            case "full":
                return found[DIFF]
            case "norm":
                return found["w_norm"]
            case "t-lora":
                return (found["p_layer.weight"][0], *found["q_layer.weight"][1:])
            case "loha" if "hada_t1" in found:
                return (found["hada_w1_a"][1], found["hada_w1_b"][1], *found["hada_t1"][2:])
            case "loha":
                return self._unfolded(found["hada_w1_a"][0], found["hada_w1_b"][1])
            case _:
                return self._kron_shape(found)

    def _kron_shape(self, found: Mapping[str, Shape]) -> Shape:
        left = found[W1] if W1 in found else (found[W1_A][0], found[W1_B][1])
        if W2 in found:
            return (left[0] * found[W2][0], left[1] * found[W2][1], *found[W2][2:])
        if T2 in found:
            sides = (left[0] * found[W2_A][1], left[1] * found[W2_B][1])
            return (*sides, *found[T2][2:])
        return self._unfolded(left[0] * found[W2_A][0], left[1] * found[W2_B][1])

    def _unfolded(self, out: int, inner: int) -> Shape:
        """With the kernel taken out of an axis that holds inputs and kernel together."""
        if self.kernel is None:
            what = "Whether this layer is a convolution is not in the file."
            remedy = "Give the base model with --base."
            raise NetworkFileError(Problem(what, where=inert(self.name), remedy=remedy))
        return (out, inner // math.prod(self.kernel), *self.kernel)


def base_needed(name: str, algorithm: str, *, dora: bool) -> Problem:
    """That a change cannot be told without the base."""
    what = "a DoRA" if dora else f"a module of {algorithm}"
    return Problem(
        f"The change of {what} depends on the base model.",
        where=inert(name),
        remedy="Give the base model that it was trained on with --base.",
        path="base",
    )


@dataclass(frozen=True, slots=True)
class Written:
    """A module as it goes into a file."""

    algorithm: str
    tensors: Tensors
    rank: int | None = None
    norm: float = 0.0
    """|dW|, where an error was measured."""
    error: float = 0.0
    """|written - dW|."""

    @property
    def relative(self) -> float:
        """|written - dW| / |dW|."""
        return self.error / self.norm if self.norm > 0 else 0.0


def cast(tensors: Mapping[str, Tensor], dtype: torch.dtype | None) -> Tensors:
    """Weights in a number format, None for each its own; what is kept exact stays, alpha is fp32."""
    found = {}
    for suffix, tensor in tensors.items():
        if suffix == ALPHA:
            found[suffix] = tensor.float()
        elif suffix in KEPT_EXACT:
            found[suffix] = tensor if not tensor.is_floating_point() else tensor.float()
        else:
            found[suffix] = tensor if dtype is None else tensor.to(dtype)
    return found


def checked(name: str, tensors: Tensors) -> Tensors:
    """The same; raises NetworkFileError where a number does not fit its format."""
    for suffix, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise NetworkFileError(
                Problem(
                    f"A weight does not fit {str(tensor.dtype).removeprefix('torch.')}.",
                    where=f"{inert(name)}.{suffix}",
                    remedy="Use --precision fp32 or bf16.",
                )
            )
    return tensors


def copied(module: Module, dtype: torch.dtype | None) -> Written:
    """The module as it is, in a number format."""
    tensors = checked(module.name, cast(module.tensors, dtype))
    rank = module.tensors[DOWN].shape[0] if DOWN in module.tensors else None
    return Written(module.algorithm, tensors, rank)


def scale_of(tensors: Mapping[str, Tensor], rank: int) -> float:
    """alpha / rank; 1 where there is no alpha."""
    return float(tensors[ALPHA]) / rank if ALPHA in tensors else 1.0


@torch.no_grad()
def change_of(module: Module) -> tuple[Tensor, Tensor | None]:
    """Change of weight and bias at strength 1, in fp32 and the layer's shape."""
    adapter = module.adapter()
    delta, bias = adapter.delta().detach(), adapter.bias_delta()
    return delta.float(), None if bias is None else bias.detach().float()


@torch.no_grad()
def as_diff(module: Module, dtype: torch.dtype) -> Written:
    """The whole change of weight and bias, the form that nearly every program loads."""
    if module.algorithm == "norm":
        return copied(module, dtype)
    delta, bias = change_of(module)
    return diff_of(module.name, delta, bias, dtype)


def diff_of(name: str, delta: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Written:
    """A whole difference in a number format, with what its rounding costs."""
    tensors = {DIFF: delta.to(dtype)} | ({} if bias is None else {DIFF_B: bias.to(dtype)})
    checked(name, tensors)
    error = float((tensors[DIFF].double() - delta.double()).norm())
    return Written("full", tensors, None, float(delta.double().norm()), error)


# LoRA ------------------------------------------------------------------------------------------


@torch.no_grad()
def spectrum_of(module: Module) -> tuple[Spectrum, Shape]:
    """Singular values of the change, by the cheapest exact way, and the layer's weight's shape."""
    tensors = {suffix: tensor.double() for suffix, tensor in module.tensors.items()}
    if not module.dora and module.algorithm == "lora" and MID not in tensors:
        up, down = tensors[UP].flatten(1), tensors[DOWN]
        spectrum = of_factors(up, down.flatten(1)).scaled(scale_of(tensors, down.shape[0]))
        return spectrum, (up.shape[0], *down.shape[1:])
    if not module.dora and module.algorithm == "lokr":
        return _kron_spectrum(module, tensors)
    adapter = module.adapter()
    shape = tuple(layer_weight(adapter.layer).shape)
    if isinstance(adapter, TLora):
        down, up = narrow_factors(*_t_lora_factors(adapter))
        scale = float(adapter.scale())
        return of_factors(up.flatten(1), down.flatten(1)).scaled(scale), shape
    if module.algorithm == "loha" and not module.dora and "hada_t1" not in tensors:
        rank = tensors["hada_w1_b"].shape[0]
        if rank**2 < min(shape[0], math.prod(shape[1:])):
            factors = _loha_factors(tensors)
            return of_factors(*factors).scaled(scale_of(tensors, rank)), shape
    adapter.double()
    return of_matrix(adapter.delta().flatten(1)), shape


def _t_lora_factors(adapter: TLora) -> tuple[Tensors, Tensors]:
    trained = {suffix: adapter.weight(suffix).detach().double() for suffix in FACTORS}
    pairs = zip(FACTORS, BASE_FACTORS, strict=True)
    return trained, {suffix: adapter.fixed(fixed).double() for suffix, fixed in pairs}


def _loha_factors(tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """(a1 b1) * (a2 b2) as one product of rank d^2: row by row and column by column products."""
    a1, b1, a2, b2 = (tensors[f"hada_{part}"] for part in ("w1_a", "w1_b", "w2_a", "w2_b"))
    up_OD = torch.einsum("oi,oj->oij", a1, a2).flatten(1)
    down_DI = torch.einsum("ic,jc->ijc", b1, b2).flatten(0, 1)
    return up_OD, down_DI


def _kron_spectrum(module: Module, tensors: Tensors) -> tuple[Spectrum, Shape]:
    """Of a LoKr from those of its halves; the kernel belongs to the second."""
    adapter = module.adapter()  # tells whether the halves fit the layer
    shape = tuple(layer_weight(adapter.layer).shape)
    left = of_matrix(left_half(tensors))
    return of_kron(left, half_spectrum(tensors)).scaled(adapter.size.scale), shape


def left_half(tensors: Mapping[str, Tensor]) -> Tensor:
    """w1 of a LoKr."""
    return tensors[W1] if W1 in tensors else tensors[W1_A] @ tensors[W1_B]


def half_spectrum(tensors: Mapping[str, Tensor]) -> Spectrum:
    """Singular values of a LoKr's w2, its kernel beside the inputs."""
    if W2 in tensors:
        return of_matrix(tensors[W2].flatten(1))
    if T2 in tensors:
        return of_matrix(tucker_half(tensors).flatten(1))
    return of_factors(tensors[W2_A], tensors[W2_B])


def tucker_half(tensors: Mapping[str, Tensor]) -> Tensor:
    return torch.einsum("ijhw,ik,jn->knhw", tensors[T2], tensors[W2_A], tensors[W2_B])


@torch.no_grad()
def as_lora(module: Module, rule: RankRule, dtype: torch.dtype) -> Written | None:
    """The LoRA nearest to the change that a rule allows; None where there is no change."""
    spectrum, shape = spectrum_of(module)
    return lora_of(module.name, spectrum, shape, rule, dtype)


def lora_of(
    name: str,
    spectrum: Spectrum,
    shape: Shape,
    rule: RankRule,
    dtype: torch.dtype,
    *,
    scale: float = 1.0,
) -> Written | None:
    """The largest singular triplets as a LoRA of this scale; None where there are none."""
    rank = rank_for(rule, spectrum.s_R)
    if rank == 0:
        return None
    up, down = spectrum.scaled(1 / scale).cut(rank)
    ones = (1,) * len(shape[2:])
    tensors = {
        UP: up.to(dtype).reshape(shape[0], rank, *ones).contiguous(),
        DOWN: down.to(dtype).reshape(rank, *shape[1:]).contiguous(),
    }
    checked(name, tensors)
    rounded = distance((up, down), (tensors[UP].flatten(1), tensors[DOWN].flatten(1))) * abs(scale)
    error = math.hypot(spectrum.lost(rank), rounded)
    tensors[ALPHA] = torch.tensor(scale * rank, dtype=torch.float32)
    return Written("lora", tensors, rank, spectrum.norm, error)


def two_factors(tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Shape]:
    """A LoRA as up [O, D] and down [D, I] in fp64, scale in up, and its weight's shape.

    The middle of a tucker goes into the inner factor, exactly.
    """
    up, down = tensors[UP].double().flatten(1), tensors[DOWN].double()
    if MID in tensors:
        down = torch.einsum("ijhw,jr->irhw", tensors[MID].double(), down.flatten(1))
    scale = scale_of(tensors, tensors[DOWN].shape[0])
    return up * scale, down.flatten(1), (up.shape[0], *down.shape[1:])


@torch.no_grad()
def factors_as_lora(
    name: str, up_OD: Tensor, down_DI: Tensor, shape: Shape, dtype: torch.dtype
) -> Written:
    """Factors as they are, in a number format, with a scale of 1."""
    rank, ones = down_DI.shape[0], (1,) * len(shape[2:])
    tensors = {
        UP: up_OD.to(dtype).reshape(shape[0], rank, *ones).contiguous(),
        DOWN: down_DI.to(dtype).reshape(rank, *shape[1:]).contiguous(),
        ALPHA: torch.tensor(float(rank)),
    }
    checked(name, tensors)
    error = distance((up_OD, down_DI), (tensors[UP].flatten(1), tensors[DOWN].flatten(1)))
    # The norm of a product of factors is the distance to nothing.
    norm = distance((up_OD, down_DI), (torch.zeros_like(up_OD), torch.zeros_like(down_DI)))
    return Written("lora", tensors, rank, norm, error)
