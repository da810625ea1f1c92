"""An adapter changes one layer; it owns its own parameters and nothing else.

Adapters keep fp32 parameters. The base weight is never changed, and the change is never formed as
(W + dW) - W: in half precision most of it would be lost.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import ClassVar, Self, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.draws import generator
from engine.networks.choice import Choice, Dropouts
from engine.networks.dropout import Moment, module_coin
from engine.networks.shapes import FIXED, Shapes

Tensors: TypeAlias = Mapping[str, Tensor]
"""Tensor suffix to tensor, of one module."""
NOTHING: Tensors = MappingProxyType({})
FP32_BYTES = 4
ALPHA = "alpha"
SCALAR = "scalar"


@dataclass(frozen=True, slots=True)
class Size:
    """Alpha as a file holds it, and the rank that consumers divide it by."""

    alpha: float | None
    """None where a file of the algorithm holds none."""
    rank: int | None
    """None where no factor tells a rank: the scale is 1, whatever alpha says."""

    @property
    def scale(self) -> float:
        """What consumers compute: alpha / rank."""
        if self.rank is None or self.alpha is None:
            return 1.0
        return self.alpha / self.rank


@dataclass(frozen=True, slots=True)
class Setup:
    """What all adapters of a network share."""

    moment: Moment = field(default_factory=Moment)
    dropouts: Dropouts = field(default_factory=Dropouts)


class Adapter(nn.Module, ABC):
    """The change of one layer: linear, convolution or norm."""

    starts_at_zero: ClassVar[tuple[str, ...]] = ()
    """The first of these suffixes that the module has begins at zero, unless a scalar does."""
    scalar_goes_into: ClassVar[tuple[str, ...]] = ()
    """The first of these suffixes that the module has takes the scalar when it is saved."""
    layer: nn.Module
    scalar: nn.Parameter | None

    def __init__(
        self,
        name: str,
        layer: nn.Module,
        weights: Tensors,
        size: Size,
        setup: Setup,
        *,
        scalar: Tensor | None = None,
        fixed: Tensors = NOTHING,
    ) -> None:
        super().__init__()
        self.name = name
        self.size = size
        self.setup = setup
        self.strength = 1.0
        self.suffixes = tuple(weights)
        self.fixed_suffixes = tuple(fixed)
        # Not a submodule: the base is not part of the adapter's parameters, device moves or mode.
        object.__setattr__(self, "layer", layer)
        # A tuple: nn.Module would take another adapter for a submodule.
        self._behind: tuple[Callable[[Tensor], Tensor], ...] = ()
        for suffix, tensor in weights.items():
            self.register_parameter(_attribute(suffix), nn.Parameter(tensor.clone()))
        for suffix, tensor in fixed.items():
            self.register_buffer(_attribute(suffix), tensor.clone())
        self.scalar = None if scalar is None else nn.Parameter(scalar.clone())
        self.prepare()

    # What an algorithm says ---------------------------------------------------------------

    @classmethod
    @abstractmethod
    def read_size(cls, layer: nn.Module, tensors: Tensors) -> Size:
        """Alpha and rank from a module's tensors; raises ValueError where shapes do not fit."""

    @classmethod
    def read_weights(cls, layer: nn.Module, tensors: Tensors) -> dict[str, Tensor]:
        """The parameters among a module's tensors, in our order and form."""
        return {suffix: tensor for suffix, tensor in tensors.items() if suffix != ALPHA}

    @classmethod
    def read_fixed(cls, layer: nn.Module, tensors: Tensors) -> dict[str, Tensor]:
        """Tensors that the file holds and nobody trains, in the order in which they are written."""
        return {}

    @classmethod
    def fresh(
        cls, name: str, layer: nn.Module, shapes: Shapes, seed: int, choice: Choice
    ) -> dict[str, Tensor]:
        """Weights that start a change of exactly zero, drawn by module name and tensor alone."""
        return fresh_weights(cls, name, shapes, seed, scalar=choice.scalar)

    @classmethod
    def written_size(cls, rank: int | None, kernel: tuple[int, ...], choice: Choice) -> Size:
        """Size of a fresh module, with alpha as a file holds it; `rank` is what the tensors tell."""
        return scaled_size(rank, kernel, choice)

    @classmethod
    def fresh_fixed(
        cls, name: str, layer: nn.Module, weights: Tensors, choice: Choice
    ) -> dict[str, Tensor]:
        """The fixed tensors of a module that starts with these weights."""
        return {}

    def prepare(self) -> None:
        """Set what the algorithm remembers beside its tensors; called once, when those are there."""
        return

    def adopt(self, choice: Choice) -> None:
        """Take what training needs and no tensor tells; called once, after the module is made."""
        return

    @abstractmethod
    def delta(self) -> Tensor:
        """The weight change at strength 1, in the parameters' type and the weight's shape."""

    def bias_delta(self) -> Tensor | None:
        """The bias change at strength 1, where the algorithm has one."""
        return None

    @abstractmethod
    def change(self, x: Tensor, factor: float) -> Tensor:
        """`factor` times what the change adds to the layer's output for this input."""

    def adapted(self, x: Tensor, factor: float) -> Tensor:
        """The layer's output with `factor` times the change; the place for a fused path."""
        if self.alone() and sums_onto(self.layer, compute_dtype(x)):
            return onto_change(self.layer, x, self.change(x, factor))
        base = self.base(x)
        return base + self.change(x, factor)

    @abstractmethod
    def delta_norm(self) -> Tensor | None:
        """Frobenius norm of the change, on the device; None where max-norm does not measure."""

    def norm_factors(self) -> tuple[nn.Parameter, ...]:
        """Tensors in which the change is linear each, so that max-norm can scale them."""
        return ()

    def shrink(self, ratio: Tensor) -> None:
        """Scale the change by a ratio in (0, 1], by scaling the parameters; waits for nothing."""
        factors = self.norm_factors()
        root = ratio ** (1 / len(factors))
        for factor in factors:
            factor.mul_(root.to(factor.dtype))

    def plus_parameters(self) -> tuple[nn.Parameter, ...]:
        """What LoRA+ gives a larger learning rate (Hayou et al. 2024): the factor of the outputs."""
        return ()

    def exact_parameters(self) -> tuple[nn.Parameter, ...]:
        """What stays in fp32 where the network is held in half precision: a large number of which a
        small part is the change."""
        return ()

    def penalty(self) -> Tensor | None:
        """A term that the algorithm asks to be added to the loss, where it has one."""
        return None

    # What all have in common --------------------------------------------------------------

    def forward(self, x: Tensor) -> Tensor:
        """The layer with the change at this strength."""
        factor = self.strength
        chance = self.setup.dropouts.module
        if self.training and chance > 0:
            factor *= module_coin(self.setup.moment, self.name, chance)
        if self.strength == 0:
            return self.base(x)
        return self.adapted(x, factor)

    def weight(self, suffix: str) -> nn.Parameter:
        """The parameter of a tensor suffix."""
        found = getattr(self, _attribute(suffix))
        assert isinstance(found, nn.Parameter)
        return found

    def has(self, suffix: str) -> bool:
        """Whether the module has a tensor."""
        return suffix in self.suffixes

    def fixed(self, suffix: str) -> Tensor:
        """The fixed tensor of a suffix."""
        found = getattr(self, _attribute(suffix))
        assert isinstance(found, Tensor)
        return found

    def own_parameters(self) -> tuple[nn.Parameter, ...]:
        """Trained tensors in a fixed order: as in the shape table, the scalar last."""
        weights = tuple(self.weight(suffix) for suffix in self.suffixes)
        return weights if self.scalar is None else (*weights, self.scalar)

    @property
    def trained(self) -> bool:
        """Whether any of its tensors is trained."""
        return any(parameter.requires_grad for parameter in self.own_parameters())

    def scale(self) -> Tensor | float:
        """alpha / rank, times the trained scalar where there is one."""
        return self.size.scale if self.scalar is None else self.size.scale * self.scalar

    def tensors(self) -> dict[str, Tensor]:
        """The module as a file holds it: the scalar folded into one factor, alpha in fp32."""
        found = {suffix: self.weight(suffix).detach() for suffix in self.suffixes}
        if self.scalar is not None:
            takes = next(suffix for suffix in self.scalar_goes_into if suffix in found)
            found[takes] = found[takes] * self.scalar.detach()
        found |= {suffix: self.fixed(suffix) for suffix in self.fixed_suffixes}
        if self.size.alpha is not None:
            found[ALPHA] = torch.tensor(self.size.alpha, dtype=torch.float32)
        return found

    @classmethod
    def create(
        cls, name: str, layer: nn.Module, shapes: Shapes, choice: Choice, setup: Setup
    ) -> Self:
        """A module that changes nothing yet."""
        weight = layer_weight(layer)
        weights = {
            suffix: tensor.to(weight.device)
            for suffix, tensor in cls.fresh(name, layer, shapes, setup.moment.seed, choice).items()
        }
        size = cls.written_size(cls.read_size(layer, weights).rank, kernel_of(layer), choice)
        fixed = cls.fresh_fixed(name, layer, weights, choice)
        # Norms stand in networks with a scalar, and have no factor that could take one.
        with_scalar = choice.scalar and bool(cls.scalar_goes_into)
        scalar = torch.zeros((), device=weight.device) if with_scalar else None
        made = cls(name, layer, weights, size, setup, scalar=scalar, fixed=fixed)
        made.adopt(choice)
        return made

    @classmethod
    def from_tensors(
        cls,
        name: str,
        layer: nn.Module,
        tensors: Tensors,
        setup: Setup,
        choice: Choice | None = None,
    ) -> Self:
        """Exact inverse of `tensors`: shapes alone decide. A new scalar starts at 1.

        `choice` gives what training needs and no file holds; never size, scale or form.
        """
        size = cls.read_size(layer, tensors)
        device = layer_weight(layer).device
        weights = {
            suffix: tensor.to(device, torch.float32)
            for suffix, tensor in cls.read_weights(layer, tensors).items()
        }
        fixed = {
            suffix: tensor.to(device) for suffix, tensor in cls.read_fixed(layer, tensors).items()
        }
        scalar = choice is not None and choice.scalar and bool(cls.scalar_goes_into)
        one = torch.ones((), device=device) if scalar else None
        made = cls(name, layer, weights, size, setup, scalar=one, fixed=fixed)
        if choice is not None:
            made.adopt(choice)
        return made

    def state(self) -> dict[str, Tensor]:
        """What training needs to go on exactly: unfolded parameters, fixed tensors and alpha."""
        found = {suffix: self.weight(suffix).detach() for suffix in self.suffixes}
        if self.scalar is not None:
            found[SCALAR] = self.scalar.detach()
        found |= {suffix: self.fixed(suffix) for suffix in self.fixed_suffixes}
        if self.size.alpha is not None:
            found[ALPHA] = torch.tensor(self.size.alpha, dtype=torch.float64)
        return found

    def load_state(self, state: Tensors) -> None:
        """Exact inverse of `state`, written into the tensors that are there."""
        for suffix in self.suffixes:
            self.weight(suffix).copy_(state[suffix])
        for suffix in self.fixed_suffixes:
            self.fixed(suffix).copy_(state[suffix])
        if self.scalar is not None:
            self.scalar.copy_(state[SCALAR])
        alpha = float(state[ALPHA]) if ALPHA in state else None
        self.size = Size(alpha, self.size.rank)

    def base(self, x: Tensor) -> Tensor:
        """The layer as it was found."""
        if self._behind:
            return self._behind[0](x)
        forward: Callable[[nn.Module, Tensor], Tensor] = type(self.layer).forward
        return forward(self.layer, x)

    def alone(self) -> bool:
        """Whether what lies behind is the layer's own class and nothing else."""
        return not self._behind

    def inject(self) -> None:
        """Put this adapter in front of its layer. A second injection changes nothing."""
        if self in self._in_front():
            return
        found = self.layer.__dict__.get("forward")
        self._behind = () if found is None else (found,)
        # Into __dict__, so that nn.Module does not take the adapter for a submodule of the base.
        self.layer.__dict__["forward"] = self

    def eject(self) -> None:
        """Leave the layer exactly as it was found; other adapters on it stay, in any order."""
        chain = self._in_front()
        if self not in chain:
            return
        place = chain.index(self)
        if place > 0:
            chain[place - 1]._behind = self._behind
        elif self._behind:
            self.layer.__dict__["forward"] = self._behind[0]
        else:
            del self.layer.__dict__["forward"]
        self._behind = ()

    def _in_front(self) -> list[Adapter]:
        """Adapters on the layer, the outermost first."""
        found: list[Adapter] = []
        front = self.layer.__dict__.get("forward")
        while isinstance(front, Adapter):
            found.append(front)
            front = front._behind[0] if front._behind else None
        return found


def scaled_size(rank: int | None, kernel: tuple[int, ...], choice: Choice) -> Size:
    """Alpha as it is written, so that alpha / rank is the trained scale (Kalajdzievski 2023 for rs)."""
    if rank is None:
        asked = choice.rank_of(kernel)
        return Size(1.0 if asked == "full" else float(asked), None)
    alpha = choice.alpha_of(kernel)
    if choice.rs_lora:
        alpha *= math.sqrt(rank)
    # As a file holds it: the trained scale must be that of the rounded number.
    return Size(float(torch.tensor(alpha, dtype=torch.float32)), rank)


class Unscaled(Adapter):
    """An adapter without rank and alpha, whose tensors all begin at zero."""

    @classmethod
    def written_size(cls, rank: int | None, kernel: tuple[int, ...], choice: Choice) -> Size:
        """Neither alpha nor rank."""
        return Size(None, None)

    @classmethod
    def fresh(
        cls, name: str, layer: nn.Module, shapes: Shapes, seed: int, choice: Choice
    ) -> dict[str, Tensor]:
        """Zeros: nothing is drawn."""
        return {
            suffix: torch.zeros(shape) for suffix, shape in shapes.items() if suffix not in FIXED
        }


def sums_onto(layer: nn.Module, dtype: torch.dtype) -> bool:
    """Whether a layer's product can be summed onto something else, and gains by it: half precision."""
    if dtype.itemsize >= FP32_BYTES:
        return False
    if isinstance(layer, nn.Conv2d):
        return {*layer.kernel_size, *layer.stride} == {1} and layer.padding in ((0, 0), "valid")
    return isinstance(layer, nn.Linear)


def onto_change(layer: nn.Module, x: Tensor, change: Tensor) -> Tensor:
    """A frozen layer's output added to that of its change, inside one product.

    The sum is rounded once: added to an output that half precision has rounded before, a change
    below half a step of its type would be lost. For linear layers and 1 x 1 convolutions.
    """
    weight, bias = layer_weight(layer).to(change.dtype), layer.bias
    assert bias is None or isinstance(bias, Tensor)
    x = x.to(change.dtype)
    if isinstance(layer, nn.Conv2d):
        each = weight.flatten(1).expand(x.shape[0], *weight.shape[:2])
        out = torch.baddbmm(change.flatten(2), each, x.flatten(2)).view(change.shape)
        return out if bias is None else out + bias.to(change.dtype)[:, None, None]
    flat = torch.addmm(change.flatten(0, -2), x.flatten(0, -2), weight.t())
    out = flat.view(change.shape)
    return out if bias is None else out + bias.to(change.dtype)


def layer_weight(layer: nn.Module) -> Tensor:
    """The base weight of a layer."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight


def kernel_of(layer: nn.Module) -> tuple[int, ...]:
    """Kernel of a convolution; empty for a linear layer."""
    return tuple(layer.kernel_size) if isinstance(layer, nn.Conv2d) else ()


def compute_dtype(x: Tensor) -> torch.dtype:
    """Type of matrix products on activations: autocast's where it is on, else that of the input."""
    device = x.device.type
    if torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return x.dtype


def convolve(layer: nn.Module, x: Tensor, weight: Tensor) -> Tensor:
    """Another weight on the places that a convolution layer looks at."""
    assert isinstance(layer, nn.Conv2d)
    return F.conv2d(x, weight, None, layer.stride, layer.padding, layer.dilation)


def fresh_weights(
    kind: type[Adapter],
    name: str,
    shapes: Mapping[str, tuple[int, ...]],
    seed: int,
    *,
    scalar: bool,
) -> dict[str, Tensor]:
    """Weights that start a change of exactly zero, drawn by module name and tensor alone.

    Others are uniform in 1/sqrt(fan_in): Kaiming with a = sqrt(5) (He et al. 2015, as torch does).
    """
    zero = next(suffix for suffix in kind.starts_at_zero if suffix in shapes)
    found = {}
    for suffix, shape in shapes.items():
        if suffix == zero and not scalar:
            found[suffix] = torch.zeros(shape)
            continue
        bound = 1.0 / math.sqrt(math.prod(shape[1:]))
        drawn = torch.rand(shape, generator=generator(seed, f"init:{name}.{suffix}"))
        found[suffix] = (drawn * 2 - 1) * bound
    return found


def _attribute(suffix: str) -> str:
    name = suffix.replace(".", "_")
    # A file may call a tensor "weight", which is a method here.
    return f"{name}_" if hasattr(Adapter, name) else name
