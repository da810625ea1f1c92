"""Whose draws: the samples of one step, each with generators of its own."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from engine import draws


@dataclass(frozen=True, slots=True)
class Samples:
    """Samples of a step by their number in it; how they are batched changes no draw."""

    seed: int
    step: int
    numbers: Sequence[int]

    def __len__(self) -> int:
        return len(self.numbers)

    def generators(self, purpose: str) -> list[torch.Generator]:
        """A fresh CPU generator for each sample, keyed by (seed, purpose, step, sample)."""
        return [draws.generator(self.seed, purpose, self.step, number) for number in self.numbers]

    def rngs(self, purpose: str) -> list[random.Random]:
        """The same for draws of single numbers."""
        return [draws.rng(self.seed, purpose, self.step, number) for number in self.numbers]
