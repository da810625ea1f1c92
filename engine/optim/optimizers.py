"""Optimizers from torch, bitsandbytes and pytorch-optimizer, by the names of the settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from engine.errors import EnvironmentFault, Problem

ADAPTIVE = frozenset({"prodigy"})
"""Optimizers that find the learning rate themselves: rate 1, one rate for all parts."""


@dataclass(frozen=True, slots=True)
class OptimizerChoice:
    """Which optimizer, and its numbers; None leaves the optimizer's own default."""

    name: str
    weight_decay: float | None = None
    betas: tuple[float, float] | None = None
    eps: float = 1e-8
    d_coef: float = 1.0
    safeguard_warmup: bool = False


def build_optimizer(
    choice: OptimizerChoice,
    parts: Mapping[str, Sequence[nn.Parameter]],
    rates: Mapping[str, float],
) -> torch.optim.Optimizer:
    """Optimizer with one group for each part ("unet", "te"), named by its `part` key.

    A part with rate 0 must not be passed: some optimizers apply one group's rate to all.
    """
    groups = [
        {"params": list(parameters), "lr": rates[part], "part": part}
        for part, parameters in parts.items()
        if parameters
    ]
    betas = choice.betas or (0.9, 0.999)
    match choice.name:
        case "adamw":
            return torch.optim.AdamW(
                groups,
                betas=betas,
                eps=choice.eps,
                weight_decay=0.01 if choice.weight_decay is None else choice.weight_decay,
                fused=True,
            )
        case "adamw8bit":
            from bitsandbytes.optim import AdamW8bit

            optimizer: torch.optim.Optimizer = AdamW8bit(
                groups,
                betas=betas,
                eps=choice.eps,
                weight_decay=0.01 if choice.weight_decay is None else choice.weight_decay,
            )
            return optimizer
        case "prodigy":
            from pytorch_optimizer import Prodigy

            adaptive: torch.optim.Optimizer = Prodigy(
                groups,
                betas=betas,
                eps=choice.eps,
                d_coef=choice.d_coef,
                weight_decay=choice.weight_decay or 0.0,
                weight_decouple=True,
                bias_correction=choice.safeguard_warmup,
                safeguard_warmup=choice.safeguard_warmup,
            )
            return adaptive
    raise EnvironmentFault(Problem(f"There is no optimizer named {choice.name}."))


def set_rates(
    optimizer: torch.optim.Optimizer, rates: Mapping[str, float], factor: float
) -> dict[str, float]:
    """Set this step's learning rate of every group; gives the rates that were set, by part."""
    current: dict[str, float] = {}
    for group in optimizer.param_groups:
        rate = rates[group["part"]] * factor
        group["lr"] = rate
        current[group["part"]] = rate
    return current


def effective_rate(group: Mapping[str, float]) -> float:
    """Rate that moves the weights: lr, times d where the optimizer estimates it (Prodigy)."""
    return float(group["lr"]) * float(group.get("d", 1.0))
