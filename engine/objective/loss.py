"""Targets, losses and weightings. Every loss returns one value per sample; the loop takes the mean."""

from __future__ import annotations

import torch
from torch import Tensor

SMALLEST_SNR = 1e-4
"""SNR in a denominator is clamped here: a zero-terminal schedule reaches 0 at its end."""


def snr(alphas_cumprod_B: Tensor) -> Tensor:
    """Signal-to-noise ratio alpha_bar / (1 - alpha_bar) (Kingma et al. 2021, arXiv:2107.00630, equation 3)."""
    return alphas_cumprod_B / (1 - alphas_cumprod_B)


def velocity(latents_BCHW: Tensor, noise_BCHW: Tensor, alphas_cumprod_B: Tensor) -> Tensor:
    """v = sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) z (Salimans and Ho 2022, arXiv:2202.00512, section 4)."""
    alpha_bar_B111 = alphas_cumprod_B.view(-1, 1, 1, 1).to(latents_BCHW.dtype)
    return alpha_bar_B111.sqrt() * noise_BCHW - (1 - alpha_bar_B111).sqrt() * latents_BCHW


def target(
    prediction: str, latents_BCHW: Tensor, noise_BCHW: Tensor, alphas_cumprod_B: Tensor
) -> Tensor:
    """What the network should predict: the noise ("epsilon") or the velocity ("v")."""
    if prediction == "v":
        return velocity(latents_BCHW, noise_BCHW, alphas_cumprod_B)
    return noise_BCHW


def mse_loss(prediction_BCHW: Tensor, target_BCHW: Tensor) -> Tensor:
    """L_simple, equation 14 of Ho et al. 2020 (arXiv:2006.11239), per sample in fp32, shape (B,)."""
    error_BCHW = prediction_BCHW.float() - target_BCHW.float()
    return error_BCHW.square().mean(dim=(1, 2, 3))


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
