"""Optimizers from torch, bitsandbytes and pytorch-optimizer, by the names of the settings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from engine.errors import EnvironmentFault, Problem
from engine.optim.groups import Group
from engine.optim.named import NamedOptimizer, named
from engine.settings.optimizers import OPTIMIZERS, Optimizer

SMALLEST_OF_8_BITS = 4096
"""Tensors of fewer numbers keep 32 bits, as bitsandbytes does where it gets them one by one."""


@dataclass(frozen=True, slots=True)
class OptimizerChoice:
    """Which optimizer, and what it is given beside parameters and rates."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """By the names of its class; what is missing is as the table of the settings has it."""
    plus_ratio: float = 1.0
    """LoRA+ ratio of the up factors' rate; 1 is off."""

    @property
    def small_below(self) -> int:
        """Tensors of fewer numbers are kept apart; 0 for none."""
        return SMALLEST_OF_8_BITS if OPTIMIZERS[self.name].eight_bit else 0


def build_optimizer(choice: OptimizerChoice, groups: Sequence[Group]) -> NamedOptimizer:
    """Optimizer over these groups; its state_dict holds tensors by name, in their shapes.

    A part with rate 0 must not be passed: some optimizers apply one group's rate to all. Raises
    EnvironmentFault where its library is not installed or does not work.
    """
    row = OPTIMIZERS[choice.name]
    arguments = {**row.defaults, **choice.arguments}
    device = groups[0].flat.device
    params = [group.as_torch(choice.name) for group in groups]
    made = _class_of(row)(params, **arguments, **_fixed(choice.name, row, device))
    made.groups = tuple(groups)
    made.shaped = row.shaped
    return made


def _class_of(row: Optimizer) -> type[NamedOptimizer]:
    try:
        match row.library:
            case "torch":
                return named(getattr(torch.optim, row.source))
            case "pytorch-optimizer":
                import pytorch_optimizer

                return named(getattr(pytorch_optimizer, row.source))
            case "bitsandbytes":
                from engine.optim.eight_bit import Flat, class_named

                return named(class_named(row.source), Flat)
    except (ImportError, OSError, RuntimeError) as error:
        # A broken bitsandbytes fails in all three ways.
        raise EnvironmentFault(
            Problem(
                f"{row.title} needs {row.library}, which does not work here: {error}.",
                remedy="Set optim.optimizer to adamw; `lyctui doctor` says more.",
                path="optim.optimizer",
            )
        ) from error


def _fixed(name: str, row: Optimizer, device: torch.device) -> dict[str, Any]:
    """Arguments that nobody chooses: how it is computed, not what."""
    if name == "adamw":
        return {"fused": True}
    if name == "adafactor":
        return {"momentum_dtype": torch.float32}  # bfloat16 in the library
    if row.paged:
        # The CPU has nowhere to page to; bitsandbytes would warn at each run.
        return {"is_paged": device.type != "cpu"}
    if name == "sgd-nesterov8bit":
        return {"lr": 0.0}  # its class has no default; the groups have their own
    return {}


def set_rates(optimizer: torch.optim.Optimizer, rates: Mapping[str, float]) -> dict[str, float]:
    """Set this step's rate of each part in every group; gives those that are trained, without LoRA+."""
    current: dict[str, float] = {}
    for group in optimizer.param_groups:
        rate = rates[group["part"]]
        group["lr"] = rate * group["ratio"]
        current[group["part"]] = rate
    return current


def told_rates(optimizer: torch.optim.Optimizer, rates: Mapping[str, float]) -> dict[str, float]:
    """Rate of each part that moves the weights, after a step at these rates."""
    groups = {group["part"]: group for group in reversed(optimizer.param_groups)}
    return {part: effective_rate({**groups[part], "lr": rate}) for part, rate in rates.items()}


def effective_rate(group: Mapping[str, Any]) -> float:
    """Rate that moves the weights: lr, times d where it is estimated, or Adafactor's relative step.

    Prodigy (Mishchenko and Defazio 2024, arXiv:2306.06101) and D-Adaptation (Defazio and Mishchenko
    2023, arXiv:2301.07733) have a d; Adafactor (Shazeer and Stern 2018, arXiv:1804.04235, section 8)
    has min(1e-2, 1 / sqrt(step)) before it is scaled by a tensor's own size.
    """
    if group.get("relative_step"):
        step = max(1, int(group.get("step", 1)))
        return min(1e-6 * step if group["warmup_init"] else 1e-2, 1.0 / math.sqrt(step))
    return float(group["lr"]) * float(group.get("d", 1.0))
