"""The noise schedule: how much of a picture is left at each timestep."""

from __future__ import annotations

import torch
from torch import Tensor

SMALLEST_SNR = 1e-4
"""SNR in a denominator is clamped here: a zero-terminal schedule reaches 0 at its end."""


def snr(alphas_cumprod_B: Tensor) -> Tensor:
    """Signal-to-noise ratio alpha_bar / (1 - alpha_bar) (Kingma et al. 2021, arXiv:2107.00630, equation 3)."""
    return alphas_cumprod_B / (1 - alphas_cumprod_B)


def rescale_zero_terminal_snr(alphas_cumprod_S: Tensor) -> Tensor:
    """Zero terminal SNR (Lin et al. 2023, arXiv:2305.08891, algorithm 1): a <- (a - a_T) a_0 / (a_0 - a_T).

    a = sqrt(alpha_bar) is shifted so that the last one is 0 and scaled so that the first one stays.
    In fp64, shape (S,); the last value is exactly 0.
    """
    root_S = alphas_cumprod_S.to(torch.float64).sqrt()
    first, last = root_S[0], root_S[-1]
    return ((root_S - last) * first / (first - last)).square()
