"""A module of a network changed as little as a program needs, the change itself staying as it is."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from engine.errors import NetworkFileError
from engine.networks.base import ALPHA, Setup, layer_weight
from engine.networks.dora_rules import SCALE
from engine.networks.layouts_glora import A1, A2, B1
from engine.networks.lokr import T2, W1, W1_B, W2, W2_A, W2_B
from engine.networks.lora import DOWN, UP
from engine.networks.table import read
from engine.tools.checkpoint import bare_layer
from engine.tools.forms import (
    Module,
    Written,
    base_needed,
    cast,
    checked,
    factors_as_lora,
    left_half,
    scale_of,
    tucker_half,
    two_factors,
)
from engine.tools.svd import distance, of_factors


def untucked(module: Module, dtype: torch.dtype) -> Written:
    """A tucker LoRA as one of two factors, exactly but for the rounding."""
    up, down, shape = two_factors(module.tensors)
    return factors_as_lora(module.name, up, down, shape, dtype)


def with_alpha(name: str, written: Written, alpha: float) -> Written:
    """A LoRA with another alpha, its factors scaled so that the change stays; the same where it has it."""
    own = float(written.tensors[ALPHA])
    if own == alpha or own == 0:
        return written
    root = math.sqrt(own / alpha)
    tensors = dict(written.tensors)
    exact = {suffix: tensors[suffix].double() * root for suffix in (UP, DOWN)}
    tensors |= {suffix: exact[suffix].to(tensors[suffix].dtype) for suffix in exact}
    tensors[ALPHA] = torch.tensor(alpha)
    checked(name, tensors)
    (up, down), rank = (exact[suffix].flatten(1) for suffix in (UP, DOWN)), tensors[DOWN].shape[0]
    scale = alpha / rank
    rounded = distance((up, down), (tensors[UP].flatten(1), tensors[DOWN].flatten(1))) * scale
    norm = written.norm or of_factors(up, down).norm * scale
    return replace(written, tensors=tensors, norm=norm, error=math.hypot(written.error, rounded))


def plain_lokr(module: Module, dtype: torch.dtype) -> Written:
    """A LoKr whose second half is whole instead of tucker; the scale stays what consumers compute."""
    tensors = dict(module.tensors)
    scale = module.adapter().size.scale
    half = tucker_half({suffix: tensors[suffix].double() for suffix in (T2, W2_A, W2_B)})
    for suffix in (T2, W2_A, W2_B):
        del tensors[suffix]
    if W1 in tensors:
        # Both halves whole: consumers use a scale of 1 whatever alpha says.
        half = half * scale
        tensors[ALPHA] = torch.tensor(1.0)
    else:
        tensors[ALPHA] = torch.tensor(scale * tensors[W1_B].shape[0])
    tensors[W2] = half.to(dtype)
    written = checked(module.name, cast(tensors, dtype))
    left = left_half({suffix: tensor.double() for suffix, tensor in tensors.items()})
    size = float(left.norm()) * (1.0 if W1 in tensors else abs(scale))
    error = float((written[W2].double() - half).norm()) * size
    return Written("lokr", written, None, float(half.norm()) * size, error)


def without_alpha(module: Module) -> Module:
    """A GLoRA with its scale in one factor of each product, and an alpha that makes the scale 1."""
    rank = module.tensors[A2].shape[0]
    scale = scale_of(module.tensors, rank)
    tensors = dict(module.tensors) | {ALPHA: torch.tensor(float(rank))}
    if scale != 1:
        tensors |= {suffix: module.tensors[suffix].float() * scale for suffix in (A1, B1)}
    return replace(module, tensors=tensors)


@torch.no_grad()
def over_base_norm(module: Module, dtype: torch.dtype | None) -> Written:
    """An output-axis DoRA for programs that divide by |W| instead of |W + dW|: m |W| / |W + dW|."""
    layer = module.layer
    if layer is None:
        raise NetworkFileError(base_needed(module.name, module.algorithm, dora=True))
    blank = read(
        module.algorithm,
        module.name,
        bare_layer(layer_weight(layer).detach()),
        {suffix: tensor for suffix, tensor in module.tensors.items() if suffix != SCALE},
        Setup(),
    )
    weight = layer_weight(layer).detach().double()
    whole = weight + blank.double().delta().detach()
    ratio_O = weight.flatten(1).norm(dim=1) / whole.flatten(1).norm(dim=1).clamp_min(1e-30)
    magnitude = module.tensors[SCALE].double()
    tensors = dict(module.tensors)
    tensors[SCALE] = (magnitude * ratio_O.view(magnitude.shape)).float()
    rank = tensors[DOWN].shape[0] if DOWN in tensors else None
    return Written(module.algorithm, checked(module.name, cast(tensors, dtype)), rank)
