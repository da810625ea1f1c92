"""Which timestep a sample is trained at."""

from __future__ import annotations

import math
import random

import torch
from torch import Tensor

from engine.objective.samples import Samples


def sample_timesteps(
    shape: str, samples: Samples, *, low: int, high: int, mean: float = 0.0, spread: float = 1.0
) -> Tensor:
    """Timesteps in [low, high), shape (B,), int64 on the CPU; equal limits mean that one step.

    `shape` is "uniform", "logit_normal" (with `mean` and `spread`), "cosine" or "beta" (`spread` is
    both of its parameters).
    """
    if high <= low + 1:
        return torch.full((len(samples),), low, dtype=torch.int64)
    rngs = samples.rngs("timestep")
    if shape == "uniform":
        return torch.tensor([rng.randrange(low, high) for rng in rngs], dtype=torch.int64)
    drawn = [low + int(share(shape, rng, mean, spread) * (high - low)) for rng in rngs]
    # A share may round to 1.
    return torch.tensor([min(timestep, high - 1) for timestep in drawn], dtype=torch.int64)


def share(shape: str, rng: random.Random, mean: float, spread: float) -> float:
    """Where in the range a timestep falls, 0 to 1: 1 is the most noise."""
    match shape:
        case "logit_normal":
            return logit_normal(rng, mean, spread)
        case "cosine":
            return cosine(rng)
        case "beta":
            return rng.betavariate(spread, spread)
    raise ValueError(f"no such shape of timesteps: {shape}")


def logit_normal(rng: random.Random, mean: float, spread: float) -> float:
    """Logit-normal sampling (Esser et al. 2024, arXiv:2403.03206, section 3.1): u = sigmoid(N(m, s))."""
    return 1 / (1 + math.exp(-rng.normalvariate(mean, spread)))


def cosine(rng: random.Random) -> float:
    """CosMap (Esser et al. 2024, arXiv:2403.03206, section 3.1): u -> 1 - 1 / (tan(pi u / 2) + 1).

    Its density is 2 / (pi (1 - 2 t + 2 t^2)): twice as many in the middle as at either end.
    """
    return 1 - 1 / (math.tan(math.pi / 2 * rng.random()) + 1)
