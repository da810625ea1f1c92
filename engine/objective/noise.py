"""Noise, drawn on the CPU for each sample on its own, so that device and batching change nothing."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from engine.objective.samples import Samples


def sample_noise(shape_CHW: tuple[int, int, int], samples: Samples) -> Tensor:
    """Gaussian noise eps ~ N(0, I) of Ho et al. 2020 (arXiv:2006.11239), algorithm 1, shape (B, C, H, W)."""
    return torch.stack(
        [torch.randn(shape_CHW, generator=own) for own in samples.generators("noise")]
    )


def offset_noise(
    noise_BCHW: Tensor,
    offset: float,
    samples: Samples,
    *,
    latents_BCHW: Tensor,
    random_strength: bool = False,
    adaptive_scale: float = 0.0,
) -> Tensor:
    """Offset noise (Guttenberg 2023, "Diffusion with offset noise"): eps += o N(0, 1), (B, C, 1, 1).

    With `random_strength` o is drawn uniformly between 0 and `offset` for each sample. With
    `adaptive_scale` a (kohya's extension) o becomes max(0, o + a |mean of z over H and W|) in each
    channel; `latents_BCHW` are the scaled latents z.
    """
    if offset == 0 and adaptive_scale == 0:
        return noise_BCHW
    channels = noise_BCHW.shape[1]
    shifts, strengths = [], []
    for own in samples.generators("noise offset"):
        shifts.append(torch.randn((channels, 1, 1), generator=own))
        share = float(torch.rand((), generator=own)) if random_strength else 1.0
        strengths.append(offset * share)
    strength_BC11 = torch.tensor(strengths).view(-1, 1, 1, 1).expand(-1, channels, 1, 1)
    if adaptive_scale != 0:
        mean_BC11 = latents_BCHW.mean(dim=(2, 3), keepdim=True).abs()
        strength_BC11 = (strength_BC11 + adaptive_scale * mean_BC11).clamp(min=0)
    return noise_BCHW + torch.stack(shifts) * strength_BC11


def multires_noise(
    noise_BCHW: Tensor, iterations: int, discount: float, samples: Samples
) -> Tensor:
    """Multi-resolution noise (Whitaker 2023, "Multi-resolution noise for diffusion model training").

    eps += d^i upsampled N(0, 1) of side / r^i, r ~ U(2, 4), for i = 0 .. k - 1 or until a side is 1;
    then each sample is divided by its own standard deviation.
    """
    if iterations == 0:
        return noise_BCHW
    return torch.stack(
        [
            _pyramid(noise_CHW, iterations, discount, own)
            for noise_CHW, own in zip(noise_BCHW, samples.generators("multires"), strict=True)
        ]
    )


def _pyramid(noise_CHW: Tensor, iterations: int, discount: float, own: torch.Generator) -> Tensor:
    channels, height, width = noise_CHW.shape
    for level in range(iterations):
        shrink = (2 + 2 * float(torch.rand((), generator=own))) ** level
        size = (max(1, int(height / shrink)), max(1, int(width / shrink)))
        layer_1CHW = torch.randn((1, channels, *size), generator=own)
        wide_1CHW = functional.interpolate(layer_1CHW, size=(height, width), mode="bilinear")
        noise_CHW = noise_CHW + discount**level * wide_1CHW[0]
        if 1 in size:
            break
    return noise_CHW / noise_CHW.std()


def input_perturbation(
    noise_BCHW: Tensor, gamma: float, samples: Samples, *, random_strength: bool = False
) -> Tensor:
    """Input perturbation (Ning et al. 2023, arXiv:2301.11706): the input gets eps + s xi, xi ~ N(0, I).

    s is `gamma`, or drawn uniformly between 0 and it for each sample. The target stays eps.
    """
    if gamma == 0:
        return noise_BCHW
    perturbed = []
    for noise_CHW, own in zip(noise_BCHW, samples.generators("input perturbation"), strict=True):
        extra_CHW = torch.randn(noise_CHW.shape, generator=own)
        share = float(torch.rand((), generator=own)) if random_strength else 1.0
        perturbed.append(noise_CHW + gamma * share * extra_CHW)
    return torch.stack(perturbed)


def add_noise(latents_BCHW: Tensor, noise_BCHW: Tensor, alphas_cumprod_B: Tensor) -> Tensor:
    """Forward process q(z_t | z_0), equation 4 of Ho et al. 2020 (arXiv:2006.11239)."""
    alpha_bar_B111 = alphas_cumprod_B.view(-1, 1, 1, 1).to(latents_BCHW.dtype)
    return alpha_bar_B111.sqrt() * latents_BCHW + (1 - alpha_bar_B111).sqrt() * noise_BCHW
