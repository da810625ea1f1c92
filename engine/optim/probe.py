"""Does an optimizer work on this machine? One real step tells."""

from __future__ import annotations

import torch
from torch import nn

from engine.errors import EnvironmentFault, Problem
from engine.optim.groups import one_group
from engine.optim.optimizers import OptimizerChoice, build_optimizer
from engine.settings.optimizers import OPTIMIZERS

STEPS = 8
"""D-Adaptation moves with its second gradient, schedule-free RAdam with its sixth."""


def adamw8bit_works(device: str) -> tuple[bool, str]:
    """`optimizer_works` of the usual 8-bit optimizer."""
    return optimizer_works("adamw8bit", device)


def optimizer_works(name: str, device: str) -> tuple[bool, str]:
    """A few steps on `device`: whether they moved a weight to finite values, and the reason if not.

    bitsandbytes fails in many ways (missing, built for another CUDA, no kernel for the card), so any
    exception counts as the answer.
    """
    try:
        # 8-bit states begin at 4096 elements; smaller tensors would test the 32-bit path only.
        weight = nn.Parameter(torch.zeros(64, 128, device=device))
        optimizer = build_optimizer(OptimizerChoice(name), [one_group("probe", 1e-2, weight)])
        for _ in range(STEPS):
            optimizer.zero_grad(set_to_none=False)
            (weight - 1).square().sum().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    except Exception as error:  # any failure at all is the answer, in words
        return False, f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    moved = bool((weight.detach() != 0).all()) and bool(torch.isfinite(weight).all())
    return moved, "" if moved else "the step left the weights unchanged"


def require_optimizer(name: str, device: torch.device) -> None:
    """Raise EnvironmentFault, before anything dear, where an optimizer's library does not work here."""
    row = OPTIMIZERS[name]
    if row.library == "torch":
        return
    works, why = optimizer_works(name, str(device))
    if not works:
        raise EnvironmentFault(
            Problem(
                f"{row.title} does not work on {device}: {why}.",
                remedy="Set optim.optimizer to adamw; `lyctui doctor` says more.",
                path="optim.optimizer",
            )
        )
