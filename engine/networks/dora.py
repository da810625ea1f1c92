"""DoRA (Liu et al. 2024, arXiv:2402.09353): magnitudes beside the change of another adapter.

W' = g (W + dW) with g = m / |W + dW|, where the norm is taken along one axis and kept out of the graph,
as in section 4.3 of the paper. What is applied is W' - W = (g - 1) W + g dW, so g - 1 keeps its digits.

The norm is computed anew in each pass. Nothing tells that parameters have changed: those in a flat
buffer keep their version counter while the optimizer writes the buffer.

Shape letters: O outputs, I inputs, K cells of the kernel, D ranks.
"""

from __future__ import annotations

from typing import Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.networks.base import (
    ALPHA,
    Adapter,
    Size,
    Tensors,
    compute_dtype,
    convolve,
    layer_weight,
)
from engine.networks.dora_nodes import InputMagnitudes, OutputMagnitudes
from engine.networks.dora_rules import SCALE
from engine.networks.lora import DOWN, MID, UP, Lora

Axis = Literal["input", "output"]
SMALLEST_NORM = 1e-30
"""Where a row of W + dW is nothing but zeros, its magnitude is 0 too."""


class Dora(Adapter):
    """Another adapter with a trained magnitude for each input or output."""

    dora_scale: nn.Parameter

    def __init__(self, inner: Adapter, scale: Tensor) -> None:
        """`scale` is [1, in] or [out, 1], of a convolution with ones behind; ValueError if neither."""
        layer = inner.layer
        axis = axis_of(layer, scale)
        shape = [1] * layer_weight(layer).dim()
        shape[1 if axis == "input" else 0] = -1
        weights = {SCALE: scale.reshape(shape)}
        super().__init__(inner.name, layer, weights, inner.size, inner.setup)
        self.axis = axis
        self.inner = inner
        self.suffixes = (*inner.suffixes, SCALE)
        self._base_squared: tuple[object, Tensor] | None = None

    @classmethod
    def over(cls, inner: Adapter, axis: Axis) -> Self:
        """Magnitudes of the weight as it is with the adapter's change, which is still zero."""
        weight = layer_weight(inner.layer)
        count = weight.shape[1 if axis == "input" else 0]
        shape = (1, count) if axis == "input" else (count, 1)
        made = cls(inner, torch.empty(shape, dtype=torch.float32, device=weight.device))
        with torch.no_grad():
            made.dora_scale.copy_(made.norm().view(made.dora_scale.shape))
        return made

    @classmethod
    def wrap(cls, inner: Adapter, tensors: Tensors) -> Self:
        """The adapter with the magnitudes of a file, kept in fp32."""
        return cls(inner, tensors[SCALE].to(layer_weight(inner.layer).device, torch.float32))

    @classmethod
    def read_size(cls, layer: nn.Module, tensors: Tensors) -> Size:
        """Size is that of the adapter inside."""
        raise NotImplementedError("magnitudes are put over an adapter that is there")

    # The decomposition --------------------------------------------------------------------

    @torch.no_grad()
    def norm(self) -> Tensor:
        """|W + dW| along the axis, [in] or [out], summed in fp64; dropouts have no part in it."""
        weight = layer_weight(self.layer)
        dtype = self.dora_scale.dtype
        with torch.autocast(weight.device.type, enabled=False):
            if isinstance(self.inner, Lora) and not self.inner.has(MID):
                squared = self._whole_squared() + _lora_squared(self.inner, weight, self.axis)
            else:
                changed = weight.to(dtype) + self.inner.delta()
                squared = _squared(changed, self.axis)
        return squared.clamp_min(SMALLEST_NORM**2).sqrt().to(dtype)

    def gain(self) -> Tensor:
        """g = m / |W + dW|, [in] or [out], in the parameters' type."""
        return self.dora_scale.flatten() / self.norm()

    def delta(self) -> Tensor:
        """W' - W = (g - 1) W + g dW."""
        gain = self.gain().view(self.dora_scale.shape)
        weight = layer_weight(self.layer).to(gain.dtype)
        return (gain - 1) * weight + gain * self.inner.delta()

    def change(self, x: Tensor, factor: float) -> Tensor:
        """(g - 1)(W x) + g (dW x), or W((g - 1) x) + dW(g x); W x is without the bias."""
        dtype = compute_dtype(x)
        x = x.to(dtype)
        gain = self.gain()
        less_one, gain = ((gain - 1) * factor).to(dtype), gain.to(dtype)
        if self.axis == "input":
            scaled = self._alone(x * self._channels(less_one))
            return scaled + self.inner.change(x * self._channels(gain), factor)
        scaled = self._alone(x) * self._channels(less_one)
        return scaled + self.inner.change(x, factor) * self._channels(gain)

    def adapted(self, x: Tensor, factor: float) -> Tensor:
        """One node of the graph over a LoRA; else W x is taken from the layer's output where it can be."""
        layer = self.layer
        # The inner module stands in front of nothing: whether this one is alone decides.
        alone = self.alone() and isinstance(self.inner, Lora) and self.inner.one_node()
        if alone and isinstance(layer, nn.Linear) and isinstance(self.inner, Lora):
            return self._fused(layer, self.inner, x, factor)
        if self.axis == "input" or not self.alone():
            # Not summed onto the change: at the start the output is the base's own to the bit.
            return self.base(x) + self.change(x, factor)
        out = self.base(x)
        gain = self.gain()
        less_one, gain = ((gain - 1) * factor).to(out.dtype), gain.to(out.dtype)
        bias = layer.bias
        plain = out - self._channels(bias.to(out.dtype)) if isinstance(bias, Tensor) else out
        more = self.inner.change(x, factor) * self._channels(gain)
        return out + plain * self._channels(less_one) + more

    def _fused(self, layer: nn.Linear, inner: Lora, x: Tensor, factor: float) -> Tensor:
        """The magnitudes go into the small factor on their side of the work."""
        dtype = compute_dtype(x)
        gain = self.gain()
        down: Tensor = inner.weight(DOWN)
        up: Tensor = inner.weight(UP) * (inner.scale() * factor)
        node: type[torch.autograd.Function] = OutputMagnitudes
        if self.axis == "input":
            down, node = down * gain, InputMagnitudes
        else:
            up = up * gain[:, None]
        bias = None if layer.bias is None else layer.bias.to(dtype)
        weight, less_one = layer.weight.to(dtype), (gain - 1) * factor
        out: Tensor = node.apply(  # type: ignore[no-untyped-call]
            x.to(dtype), weight, bias, less_one, down.to(dtype), up.to(dtype)
        )
        return out

    def _alone(self, x: Tensor) -> Tensor:
        """W x without the bias, whatever lies behind."""
        weight = layer_weight(self.layer).to(x.dtype)
        if isinstance(self.layer, nn.Linear):
            return F.linear(x, weight)
        return convolve(self.layer, x, weight)

    def _channels(self, vector: Tensor) -> Tensor:
        """A vector in the shape that meets the channels of an activation."""
        return vector if isinstance(self.layer, nn.Linear) else vector[:, None, None]

    def _whole_squared(self) -> Tensor:
        """|W|^2 along the axis, [in] or [out] in fp64, kept as long as the base is the same."""
        weight = layer_weight(self.layer)
        version = id(weight), weight._version, weight.dtype, weight.device
        if self._base_squared is None or self._base_squared[0] != version:
            wide = weight.to(torch.promote_types(weight.dtype, torch.float32))
            self._base_squared = version, _squared(wide, self.axis)
        return self._base_squared[1]

    # What the adapter inside is asked for ----------------------------------------------------

    def delta_norm(self) -> Tensor | None:
        """That of the change before the decomposition."""
        return self.inner.delta_norm()

    def shrink(self, ratio: Tensor) -> None:
        """Magnitudes stay."""
        self.inner.shrink(ratio)

    def norm_factors(self) -> tuple[nn.Parameter, ...]:
        """Those of the adapter inside."""
        return self.inner.norm_factors()

    def plus_parameters(self) -> tuple[nn.Parameter, ...]:
        """Those of the adapter inside."""
        return self.inner.plus_parameters()

    def exact_parameters(self) -> tuple[nn.Parameter, ...]:
        """The magnitudes: rounded to bf16 they change the base by a fifth of a percent at the start."""
        return (self.dora_scale, *self.inner.exact_parameters())

    def penalty(self) -> Tensor | None:
        """That of the adapter inside."""
        return self.inner.penalty()

    def weight(self, suffix: str) -> nn.Parameter:
        """The parameter of a tensor suffix."""
        return self.dora_scale if suffix == SCALE else self.inner.weight(suffix)

    def own_parameters(self) -> tuple[nn.Parameter, ...]:
        """Those of the adapter inside, magnitudes behind its weights, its scalar last."""
        weights = tuple(self.weight(suffix) for suffix in self.suffixes)
        return weights if self.inner.scalar is None else (*weights, self.inner.scalar)

    def tensors(self) -> dict[str, Tensor]:
        """As a file holds it."""
        return _before_alpha(self.inner.tensors(), self.dora_scale.detach())

    def state(self) -> dict[str, Tensor]:
        """What training needs to go on exactly."""
        return _before_alpha(self.inner.state(), self.dora_scale.detach())

    def load_state(self, state: Tensors) -> None:
        """Exact inverse of `state`."""
        self.inner.load_state(state)
        self.dora_scale.copy_(state[SCALE])
        self.size = self.inner.size


def axis_of(layer: nn.Module, scale: Tensor) -> Axis:
    """The axis that magnitudes belong to, told by their shape; raises ValueError where none fits."""
    out, in_ = layer_weight(layer).shape[:2]
    shape = tuple(scale.shape)
    if len(shape) >= 2 and all(side == 1 for side in shape[2:]):
        if shape[:2] == (out, 1):
            return "output"
        if shape[:2] == (1, in_):
            return "input"
    raise ValueError(f"{SCALE} is {list(shape)}, not {[1, in_]} or {[out, 1]}")


def _squared(weight: Tensor, axis: Axis) -> Tensor:
    """Sums of squares along an axis, in fp64: their order then changes nothing after rounding."""
    if axis == "output":
        weight_OI = weight.flatten(1)
        return weight_OI.square().sum(1, dtype=torch.float64)
    weight_OIK = weight.flatten(2) if weight.dim() > 2 else weight.unsqueeze(-1)
    return weight_OIK.square().sum((0, 2), dtype=torch.float64)


def _lora_squared(lora: Lora, weight: Tensor, axis: Axis) -> Tensor:
    """2 <W, dW> + |dW|^2 along an axis in fp64, from products with the factors: dW is not built."""
    # Factors held in half precision are multiplied in fp32, as whoever reads the file does.
    wide = torch.promote_types(lora.weight(UP).dtype, torch.float32)
    up_OD = lora.weight(UP).flatten(1).to(wide) * lora.scale()
    down_DI = lora.weight(DOWN).flatten(1).to(wide)
    weight_OI = weight.flatten(1).to(wide)
    if axis == "output":
        half_OD = 2 * (weight_OI @ down_DI.t()) + up_OD @ (down_DI @ down_DI.t())
        return (half_OD * up_OD).sum(1, dtype=torch.float64)
    half_DI = 2 * (up_OD.t() @ weight_OI) + (up_OD.t() @ up_OD) @ down_DI
    products_DIK = (half_DI * down_DI).view(down_DI.shape[0], weight.shape[1], -1)
    return products_DIK.sum((0, 2), dtype=torch.float64)


def _before_alpha(found: dict[str, Tensor], scale: Tensor) -> dict[str, Tensor]:
    """Tensors in the order of the shape table, alpha last."""
    alpha = {suffix: found.pop(suffix) for suffix in (ALPHA,) if suffix in found}
    return found | {SCALE: scale} | alpha
