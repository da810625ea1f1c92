"""Targets and losses. Every loss is elementwise in fp32; `masked_mean` makes one value a sample."""

from __future__ import annotations

import math

import torch
from torch import Tensor

TIMESTEPS = 1000
"""Length of the schedule that the exponential form of `huber_c` runs along."""
SMALLEST_AREA = 1e-6
"""Area in latent pixels below which a mask counts as empty: its sample teaches nothing."""


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


def l2_loss(prediction_BCHW: Tensor, target_BCHW: Tensor) -> Tensor:
    """L_simple, equation 14 of Ho et al. 2020 (arXiv:2006.11239): the squared error of each element."""
    return (prediction_BCHW.float() - target_BCHW.float()).square()


def l1_loss(prediction_BCHW: Tensor, target_BCHW: Tensor) -> Tensor:
    """The L1 form of L_simple (Saharia et al. 2021, arXiv:2104.07636, equation 6 with p = 1)."""
    return (prediction_BCHW.float() - target_BCHW.float()).abs()


def smooth_l1_loss(prediction_BCHW: Tensor, target_BCHW: Tensor, c_B: Tensor) -> Tensor:
    """Pseudo-Huber loss (Khrapov et al. 2024, arXiv:2403.16728), 2 (sqrt(e^2 + c^2) - c): twice |e| far out."""
    squared_BCHW = l2_loss(prediction_BCHW, target_BCHW)
    c_B111 = c_B.view(-1, 1, 1, 1).to(squared_BCHW.dtype)
    # The same as the difference of two near numbers, without their cancellation at small errors.
    return 2 * squared_BCHW / ((squared_BCHW + c_B111.square()).sqrt() + c_B111)


def huber_loss(prediction_BCHW: Tensor, target_BCHW: Tensor, c_B: Tensor) -> Tensor:
    """Pseudo-Huber loss (Khrapov et al. 2024, arXiv:2403.16728), 2 c (sqrt(e^2 + c^2) - c): e^2 near 0."""
    return c_B.view(-1, 1, 1, 1) * smooth_l1_loss(prediction_BCHW, target_BCHW, c_B)


def huber_c(
    schedule: str, c: float, scale: float, timesteps_B: Tensor, alphas_cumprod_B: Tensor
) -> Tensor:
    """Scheduled c (Khrapov et al. 2024, arXiv:2403.16728; "snr" is kohya's), shape (B,).

    constant: c scale; exponential: c^(t / 1000) scale; snr: ((1 - c) / (1 + sigma)^2 + c) scale with
    sigma = sqrt((1 - alpha_bar) / alpha_bar).
    """
    match schedule:
        case "constant":
            return torch.full_like(alphas_cumprod_B, c * scale)
        case "exponential":
            exponent_B = timesteps_B.to(alphas_cumprod_B.dtype) * (math.log(c) / TIMESTEPS)
            return exponent_B.exp() * scale
        case "snr":
            signal_B, noise_B = alphas_cumprod_B.sqrt(), (1 - alphas_cumprod_B).sqrt()
            # 1 / (1 + sigma), which is 0 where nothing is left of the picture.
            share_B = signal_B / (signal_B + noise_B)
            return ((1 - c) * share_B.square() + c) * scale
    raise ValueError(f"no such schedule of c: {schedule}")


def masked_mean(loss_BCHW: Tensor, mask_B1HW: Tensor | None = None, over: str = "mask") -> Tensor:
    """One value for each sample, shape (B,): the mean over the mask's area, or over the "picture".

    `mask_B1HW` is 0 to 1 at latent size. A sample whose mask is empty has loss 0.
    """
    if mask_B1HW is None:
        return loss_BCHW.mean(dim=(1, 2, 3))
    masked_BCHW = loss_BCHW * mask_B1HW
    if over == "picture":
        return masked_BCHW.mean(dim=(1, 2, 3))
    area_B = mask_B1HW.sum(dim=(1, 2, 3)).clamp(min=SMALLEST_AREA)
    return masked_BCHW.sum(dim=(1, 2, 3)) / (area_B * loss_BCHW.shape[1])
