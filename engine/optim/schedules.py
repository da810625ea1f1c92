"""Learning rate as a function of the step: nothing to save, nothing to drift. No torch.

Formulas of diffusers.optimization and transformers.optimization, which the tests compare with. The
warmup is ours: the first step already learns.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.settings.schedule import piecewise_rules

if TYPE_CHECKING:
    from engine.settings.schedule import SchedulerName

POLYNOMIAL_END = 1e-7
"""Rate at which `polynomial` ends; the rate it begins with must be larger."""
USUAL_TIMESCALE = 10_000
"""Steps over which `inverse_sqrt` falls where there is no warmup to take it from."""


@dataclass(frozen=True, slots=True)
class Curve:
    """The course of a learning rate over a run."""

    scheduler: SchedulerName
    steps: int
    """Optimizer steps of the whole run."""
    warmup: int = 0
    """Steps of rise at the beginning."""
    cycles: int = 1
    power: float = 1.0
    min_ratio: float = 0.1
    decay_percent: float = 20.0
    rules: str = ""

    def factor(self, k: int, rate: float = 1.0) -> float:
        """Factor of the base rate at step index k = 0, 1, ...; (k + 1) / warmup while it rises.

        `rate` is the base rate, on which `polynomial` depends, since it ends at a rate of its own.
        """
        if k < self.warmup:
            return (k + 1) / self.warmup
        return FORMULAS[self.scheduler](self, k, rate)

    @property
    def after(self) -> int:
        """Steps after the warmup."""
        return max(1, self.steps - self.warmup)

    def share(self, k: int) -> float:
        """Share of the steps after the warmup that lie before step index k."""
        return (k - self.warmup) / self.after


def warmup_length(steps: int, *, percent: float, count: int | None) -> int:
    """Steps of warmup: an explicit count, or int(percent of all steps)."""
    return min(steps, count if count is not None else int(percent / 100 * steps))


def constant(curve: Curve, k: int, rate: float) -> float:
    """1 throughout."""
    return 1.0


def linear(curve: Curve, k: int, rate: float) -> float:
    """A straight line to 0."""
    return max(0.0, 1.0 - curve.share(k))


def cosine(curve: Curve, k: int, rate: float) -> float:
    """Half a cosine, SGDR without restarts (Loshchilov and Hutter 2017, arXiv:1608.03983), equation 5."""
    return max(0.0, 0.5 * (1.0 + math.cos(math.pi * curve.share(k))))


def cosine_with_restarts(curve: Curve, k: int, rate: float) -> float:
    """The same again in each cycle, all equally long."""
    share = curve.share(k)
    if share >= 1:
        return 0.0
    return max(0.0, 0.5 * (1.0 + math.cos(math.pi * ((curve.cycles * share) % 1.0))))


def cosine_with_min_lr(curve: Curve, k: int, rate: float) -> float:
    """Half a cosine that ends at a share of the rate."""
    return max(0.0, cosine(curve, k, rate) * (1 - curve.min_ratio) + curve.min_ratio)


def polynomial(curve: Curve, k: int, rate: float) -> float:
    """(rate - end) (1 - z)^power + end, as a factor of the rate; z is the share of the steps."""
    if k > curve.steps:
        return POLYNOMIAL_END / rate
    left = math.pow(1.0 - curve.share(k), curve.power)
    return ((rate - POLYNOMIAL_END) * left + POLYNOMIAL_END) / rate


def piecewise_constant(curve: Curve, k: int, rate: float) -> float:
    """The factor of the first rule whose step has not come yet."""
    steps, last = piecewise_rules(curve.rules)
    return next((factor for until, factor in steps if k < until), last)


def inverse_sqrt(curve: Curve, k: int, rate: float) -> float:
    """1 / sqrt(k / t), Zhai et al. 2022 (arXiv:2106.04560); the timescale t is the warmup."""
    timescale = curve.warmup or USUAL_TIMESCALE
    return 1.0 / math.sqrt((k + timescale - curve.warmup) / timescale)


def warmup_stable_decay(curve: Curve, k: int, rate: float) -> float:
    """Full rate, then half a cosine to the lowest one (Hu et al. 2024, arXiv:2404.06395)."""
    decay = min(curve.after, int(curve.decay_percent / 100 * curve.steps))
    begin = curve.steps - decay
    if k < begin:
        return 1.0
    if k >= curve.steps:
        return curve.min_ratio
    fallen = 0.5 * (1.0 + math.cos(math.pi * (k - begin) / decay))
    return max(0.0, fallen * (1 - curve.min_ratio) + curve.min_ratio)


def rex(curve: Curve, k: int, rate: float) -> float:
    """(1 - z) / (1 - z / 2), REX (Chen, Wolfe and Kyrillidis 2022, arXiv:2107.04197), equation 1."""
    z = min(1.0, curve.share(k))
    return (1 - z) / (1 - z / 2)


FORMULAS: dict[str, Callable[[Curve, int, float], float]] = {
    "constant": constant,
    "constant_with_warmup": constant,
    "linear": linear,
    "cosine": cosine,
    "cosine_with_restarts": cosine_with_restarts,
    "cosine_with_min_lr": cosine_with_min_lr,
    "polynomial": polynomial,
    "piecewise_constant": piecewise_constant,
    "inverse_sqrt": inverse_sqrt,
    "warmup_stable_decay": warmup_stable_decay,
    "rex": rex,
    # The optimizer computes its own.
    "adafactor": constant,
}
