"""Noise and timesteps, drawn for each sample on its own so that batching changes nothing."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from engine import draws


def sample_noise(
    shape_CHW: tuple[int, int, int], *, seed: int, step: int, samples: Iterable[int]
) -> Tensor:
    """Gaussian noise eps ~ N(0, I) in fp32 on the CPU, shape (B, C, H, W), keyed by (seed, step, sample)."""
    noises_CHW = [
        torch.randn(shape_CHW, generator=draws.generator(seed, "noise", step, sample))
        for sample in samples
    ]
    return torch.stack(noises_CHW)


def offset_noise(
    noise_BCHW: Tensor,
    offset: float,
    *,
    random_strength: bool,
    seed: int,
    step: int,
    samples: Iterable[int],
) -> Tensor:
    """Offset noise (Guttenberg 2023, "Diffusion with offset noise"): eps += o * N(0, 1) per sample and channel.

    With `random_strength` o is drawn uniformly between 0 and `offset` for each sample.
    """
    if offset == 0:
        return noise_BCHW
    channels = noise_BCHW.shape[1]
    shifts_C11 = []
    for sample in samples:
        generator = draws.generator(seed, "noise offset", step, sample)
        shift_C11 = torch.randn((channels, 1, 1), generator=generator)
        strength = offset
        if random_strength:
            strength *= float(torch.rand((), generator=generator))
        shifts_C11.append(shift_C11 * strength)
    return noise_BCHW + torch.stack(shifts_C11).to(noise_BCHW)


def sample_timesteps(
    *, low: int, high: int, seed: int, step: int, samples: Iterable[int]
) -> Tensor:
    """Uniform timesteps in [low, high), shape (B,), int64; equal limits mean that one step."""
    timesteps = [
        low if high <= low + 1 else draws.rng(seed, "timestep", step, sample).randrange(low, high)
        for sample in samples
    ]
    return torch.tensor(timesteps, dtype=torch.int64)


def add_noise(latents_BCHW: Tensor, noise_BCHW: Tensor, alphas_cumprod_B: Tensor) -> Tensor:
    """Forward process q(z_t | z_0), equation 4 of Ho et al. 2020 (arXiv:2006.11239)."""
    alpha_bar_B111 = alphas_cumprod_B.view(-1, 1, 1, 1).to(latents_BCHW.dtype)
    return alpha_bar_B111.sqrt() * latents_BCHW + (1 - alpha_bar_B111).sqrt() * noise_BCHW
