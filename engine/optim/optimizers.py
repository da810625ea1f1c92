"""Optimizers from torch, bitsandbytes and pytorch-optimizer, by the names of the settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from engine.errors import EnvironmentFault, Problem
from engine.optim.groups import SHAPED, Group, indexed_state, named_state

ADAPTIVE = frozenset({"prodigy"})
"""Optimizers that find the learning rate themselves: rate 1, one rate for all parts."""


SMALLEST_OF_8_BITS = 4096
"""Tensors of fewer numbers keep 32 bits, as bitsandbytes does where it gets them one by one."""


@dataclass(frozen=True, slots=True)
class OptimizerChoice:
    """Which optimizer, and its numbers; None leaves the optimizer's own default."""

    name: str
    weight_decay: float | None = None
    betas: tuple[float, float] | None = None
    eps: float = 1e-8
    d_coef: float = 1.0
    plus_ratio: float = 1.0
    """LoRA+ ratio of the up factors' rate; 1 is off."""
    safeguard_warmup: bool = False


def build_optimizer(choice: OptimizerChoice, groups: Sequence[Group]) -> torch.optim.Optimizer:
    """Optimizer over these groups; its state_dict holds tensors by name, in their shapes.

    A part with rate 0 must not be passed: some optimizers apply one group's rate to all.
    """
    optimizer = _built(choice, groups)
    if choice.name != "adamw8bit":  # that one names its state itself
        _name_state(optimizer, groups, shaped=choice.name in SHAPED)
    return optimizer


def _built(choice: OptimizerChoice, groups: Sequence[Group]) -> torch.optim.Optimizer:
    params = [group.as_torch(choice.name) for group in groups]
    betas = choice.betas or (0.9, 0.999)
    match choice.name:
        case "adamw":
            return torch.optim.AdamW(
                params,
                betas=betas,
                eps=choice.eps,
                weight_decay=0.01 if choice.weight_decay is None else choice.weight_decay,
                fused=True,
            )
        case "adamw8bit":
            from engine.optim.eight_bit import FlatAdamW8bit

            optimizer: torch.optim.Optimizer = FlatAdamW8bit(
                groups,
                betas=betas,
                eps=choice.eps,
                weight_decay=0.01 if choice.weight_decay is None else choice.weight_decay,
            )
            return optimizer
        case "prodigy":
            from pytorch_optimizer import Prodigy

            adaptive: torch.optim.Optimizer = Prodigy(
                params,
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


def _name_state(optimizer: torch.optim.Optimizer, groups: Sequence[Group], *, shaped: bool) -> None:
    optimizer.register_state_dict_post_hook(lambda _, state: named_state(state, groups))
    optimizer.register_load_state_dict_pre_hook(
        lambda _, state: indexed_state(state, groups, shaped=shaped)
    )


def set_rates(
    optimizer: torch.optim.Optimizer, rates: Mapping[str, float], factor: float
) -> dict[str, float]:
    """Set this step's learning rate of every group; gives the rate of each part, without LoRA+."""
    current: dict[str, float] = {}
    for group in optimizer.param_groups:
        rate = rates[group["part"]] * factor
        group["lr"] = rate * group["ratio"]
        current[group["part"]] = rate
    return current


def effective_rate(group: Mapping[str, float]) -> float:
    """Rate that moves the weights: lr, times d where the optimizer estimates it (Prodigy)."""
    return float(group["lr"]) * float(group.get("d", 1.0))
