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
    Modules without a norm of their own, trained norm layers, are left as they are.
    """
    measured = [
        (adapter, norm.float())
        for adapter in adapters
        if (norm := adapter.delta_norm()) is not None
    ]
    if not measured:
        none = torch.zeros(())
        return NormReport(none, none, none)
    norms = torch.stack([norm for _, norm in measured])
    ratios = torch.where(norms > limit, limit / norms, torch.ones_like(norms))
    for (adapter, _), ratio in zip(measured, ratios, strict=True):
        adapter.shrink(ratio)
    after = norms * ratios
    return NormReport((norms > limit).sum(), after.mean(), after.max())
