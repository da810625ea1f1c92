"""Keeps each layer's change below a norm by scaling the parameters themselves."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.networks.base import Adapter


@dataclass(frozen=True, slots=True)
class NormReport:
    """Norms over all modules after scaling, also where nothing was scaled. Values on the device."""

    scaled: Tensor
    mean: Tensor
    largest: Tensor

    def numbers(self) -> tuple[int, float, float]:
        """Modules scaled, mean and largest norm; waits for the device."""
        return int(self.scaled), float(self.mean), float(self.largest)


@torch.no_grad()
def scale_weight_norms(adapters: Iterable[Adapter], limit: float) -> NormReport:
    """Max-norm regularisation (Srivastava et al. 2014) on the weight change of each module.

    Parameters carry the effect, so training state and file do too. No wait for the device.
    """
    every = tuple(adapters)
    norms = torch.stack([adapter.delta_norm().float() for adapter in every])
    ratios = torch.where(norms > limit, limit / norms, torch.ones_like(norms))
    for adapter, ratio in zip(every, ratios, strict=True):
        factors = adapter.norm_factors()
        root = ratio ** (1 / len(factors))
        for factor in factors:
            factor.mul_(root.to(factor.dtype))
    after = norms * ratios
    return NormReport((norms > limit).sum(), after.mean(), after.max())
