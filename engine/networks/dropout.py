"""Masks and coins of dropout, each a function of (seed, purpose with module name, step, sample).

No generator carries state, so gradient checkpointing, a resume and a step repeated in smaller parts
see the same draw.

Shape letters: B samples, D ranks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.draws import generator, rng


@dataclass(slots=True)
class Moment:
    """Where in the run a forward pass stands; one object is shared by all adapters of a network."""

    seed: int = 0
    step: int = 0
    batch: int = 0
    """Planned micro-batch of the step; parts into which one is split keep its number."""
    first_sample: int = 0
    samples: int = 1
    timesteps_B: Tensor | None = None
    """Timestep of each sample, where the pass has one; None outside the denoiser."""
    timesteps: int = 1000
    """How many timesteps the noise schedule has."""

    def place(self, row: int) -> tuple[int, int, int]:
        """Step, sample and part of a row; a sample may fill several rows (chunks of a caption)."""
        return self.step, self.first_sample + row % self.samples, row // self.samples


def activation_mask(moment: Moment, name: str, chance: float, like: Tensor) -> Tensor:
    """Dropout (Srivastava et al. 2014): 0 or 1/(1-p) for each number of a hidden activation."""
    rows = [
        _kept(moment.seed, f"dropout:{name}", moment.place(row), chance, tuple(like.shape[1:]))
        for row in range(like.shape[0])
    ]
    return torch.stack(rows).to(like.device, like.dtype)


def sample_rank_mask_BD(
    moment: Moment, name: str, chance: float, samples: int, ranks: int
) -> Tensor:
    """One mask over the ranks for each sample, kept ranks scaled by 1/(1-p)."""
    rows = [
        _kept(moment.seed, f"rank_dropout:{name}", moment.place(row), chance, (ranks,))
        for row in range(samples)
    ]
    return torch.stack(rows)


def step_rank_mask_D(moment: Moment, name: str, chance: float, ranks: int) -> Tensor:
    """One mask over the ranks for a whole step, for algorithms that may form a dense change."""
    return _kept(moment.seed, f"rank_dropout:{name}", (moment.step,), chance, (ranks,))


def module_coin(moment: Moment, name: str, chance: float) -> float:
    """0.0 where the module is left out of this step, else 1.0; nothing is rescaled."""
    drawn = rng(moment.seed, f"module_dropout:{name}", moment.step).random()
    return 0.0 if drawn < chance else 1.0


def _kept(
    seed: int, purpose: str, place: tuple[int, ...], chance: float, shape: tuple[int, ...]
) -> Tensor:
    drawn = torch.rand(shape, generator=generator(seed, purpose, *place))
    return (drawn >= chance).to(torch.float32) / (1.0 - chance)
