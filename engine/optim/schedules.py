"""Learning rate as a function of the step: nothing to save, nothing to drift."""

from __future__ import annotations

from collections.abc import Callable

import torch

Factor = Callable[[int], float]


def warmup_length(steps: int, *, percent: float, count: int | None) -> int:
    """Steps of warmup: an explicit count, or int(percent of all steps)."""
    return min(steps, count if count is not None else int(percent / 100 * steps))


def learning_rate_factor(scheduler: str, *, steps: int, warmup: int, cycles: int = 1) -> Factor:
    """Factor of the base rate at step index k = 0, 1, ...

    Warmup is (k + 1) / warmup, so the first step already learns; from k = warmup on the formulas of
    diffusers.optimization hold unchanged.
    """
    if scheduler == "constant":
        after: Factor = _one
    else:
        after = _diffusers_factor(scheduler, steps, warmup, cycles)

    def factor(k: int) -> float:
        if k < warmup:
            return (k + 1) / warmup
        return after(k)

    return factor


def _one(k: int) -> float:
    return 1.0


def _diffusers_factor(scheduler: str, steps: int, warmup: int, cycles: int) -> Factor:
    from diffusers.optimization import get_scheduler

    # diffusers wraps its formulas in a scheduler over an optimizer; only the formula is wanted.
    bystander = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    wrapped = get_scheduler(
        scheduler,
        bystander,
        num_warmup_steps=warmup,
        num_training_steps=steps,
        num_cycles=cycles,
    )
    formula = wrapped.lr_lambdas[0]

    def after(k: int) -> float:
        return float(formula(k))

    return after
