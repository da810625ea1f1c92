"""Weights of a sample's loss by its timestep: functions of the SNR, multiplied where several are set."""

from __future__ import annotations

import torch
from torch import Tensor

from engine.objective.schedule import SMALLEST_SNR, snr

LARGEST_SNR = 1000.0
"""SNR is cut here where it would make a weight vanish at timesteps with almost no noise."""


def min_snr_weight(alphas_cumprod_B: Tensor, gamma: float, prediction: str) -> Tensor:
    """Min-SNR-gamma weighting (Hang et al. 2023, arXiv:2303.09556, section 3.4), shape (B,); gamma 0 is off."""
    if gamma == 0:
        return torch.ones_like(alphas_cumprod_B)
    snr_B = snr(alphas_cumprod_B)
    clipped_B = snr_B.clamp(max=gamma)
    if prediction == "v":
        return clipped_B / (snr_B + 1)
    # Where the SNR is below gamma the quotient is 1 by definition, also at an SNR of 0.
    return torch.where(snr_B <= gamma, 1.0, clipped_B / snr_B.clamp(min=SMALLEST_SNR))


def debiased_weight(alphas_cumprod_B: Tensor, prediction: str) -> Tensor:
    """Debiased estimation (Yu et al. 2023, arXiv:2310.08442): 1 / sqrt(SNR), for v 1 / (SNR + 1); (B,)."""
    snr_B = _bounded(alphas_cumprod_B)
    return 1 / (snr_B + 1) if prediction == "v" else snr_B.rsqrt()


def v_loss_like_noise_weight(alphas_cumprod_B: Tensor) -> Tensor:
    """SNR / (SNR + 1): the loss of v as one of the noise (Salimans and Ho 2022, arXiv:2202.00512).

    The same wrong picture makes (SNR + 1) / SNR times the squared error in v; SNR between 1e-4 and 1000.
    """
    snr_B = _bounded(alphas_cumprod_B)
    return snr_B / (snr_B + 1)


def v_like_loss_weight(alphas_cumprod_B: Tensor, share: float) -> Tensor:
    """1 + w (SNR + 1) / SNR: adds w times the loss of v (Salimans and Ho 2022, arXiv:2202.00512)."""
    return 1 + share / v_loss_like_noise_weight(alphas_cumprod_B)


def p2_weight(alphas_cumprod_B: Tensor, gamma: float) -> Tensor:
    """P2 weighting (Choi et al. 2022, arXiv:2204.00227) with k = 1: 1 / (1 + SNR)^gamma, shape (B,)."""
    return (1 + snr(alphas_cumprod_B)).pow(-gamma)


def _bounded(alphas_cumprod_B: Tensor) -> Tensor:
    return snr(alphas_cumprod_B).clamp(min=SMALLEST_SNR, max=LARGEST_SNR)
