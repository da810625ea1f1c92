"""Every random draw is a function of (seed, purpose, place); no generator carries state.

`key` needs no torch, so the step arithmetic of the wizard draws the same order as the trainer.
"""

from __future__ import annotations

import hashlib
import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def key(seed: int, purpose: str, *place: int) -> int:
    """63-bit key of one draw: same (seed, purpose, place), same key, on every machine."""
    text = "\x1f".join((str(seed), purpose, *(str(number) for number in place)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def rng(seed: int, purpose: str, *place: int) -> random.Random:
    """A Python generator for one draw (orders, crops, caption shuffles)."""
    return random.Random(key(seed, purpose, *place))


def generator(seed: int, purpose: str, *place: int) -> torch.Generator:
    """A CPU torch generator for one draw (noise, timesteps, masks): the device changes nothing."""
    import torch

    return torch.Generator().manual_seed(key(seed, purpose, *place))
