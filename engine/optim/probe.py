"""Does an optimizer work on this machine? One real step tells."""

from __future__ import annotations

import torch
from torch import nn

from engine.optim.groups import one_group
from engine.optim.optimizers import OptimizerChoice, build_optimizer


def adamw8bit_works(device: str) -> tuple[bool, str]:
    """One 8-bit step on `device`: whether it moved a weight to a finite value, and the reason if not.

    bitsandbytes fails in many ways (missing, built for another CUDA, no kernel for the card), so any
    exception counts as the answer.
    """
    try:
        # 8-bit states begin at 4096 elements; smaller tensors would test the 32-bit path only.
        weight = nn.Parameter(torch.ones(64, 128, device=device))
        group = one_group("probe", 1e-2, weight)
        optimizer = build_optimizer(OptimizerChoice("adamw8bit"), [group])
        weight.square().sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    except Exception as error:  # any failure at all is the answer, in words
        return False, f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    moved = bool((weight.detach() != 1).all()) and bool(torch.isfinite(weight).all())
    return moved, "" if moved else "the 8-bit step left the weights unchanged"
