"""The formulas against numbers of the papers' schedule (scaled-linear betas, fp64)."""

import pytest
import torch

from engine.objective.loss import min_snr_weight, mse_loss, snr, target, velocity
from engine.objective.noise import add_noise


def alphas_cumprod() -> torch.Tensor:
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return (1 - betas).cumprod(0)


@pytest.mark.parametrize(
    ("timestep", "expected"), [(0, 1175.47), (100, 8.45389), (500, 0.38185), (999, 0.0046819)]
)
def test_snr_of_the_stable_diffusion_schedule(timestep: int, expected: float) -> None:
    found = snr(alphas_cumprod()[timestep]).item()
    assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("prediction", "weights"),
    [
        ("epsilon", (0.00425, 0.59145, 1.0, 1.0)),
        ("v", (0.00425, 0.52888, 0.27633, 0.00466)),
    ],
)
def test_min_snr_weights(prediction: str, weights: tuple[float, ...]) -> None:
    alphas = alphas_cumprod()[torch.tensor([0, 100, 500, 999])]
    found = min_snr_weight(alphas, 5.0, prediction).tolist()
    assert found == pytest.approx(weights, abs=1e-5)


def test_min_snr_off_weighs_everything_the_same() -> None:
    assert min_snr_weight(alphas_cumprod()[:3], 0, "epsilon").tolist() == [1, 1, 1]


def test_min_snr_at_zero_terminal_snr_is_one() -> None:
    assert min_snr_weight(torch.tensor([0.0]), 5.0, "epsilon").item() == 1.0


def test_velocity_and_noise_recover_the_latents() -> None:
    latents, noise = torch.randn(2, 4, 3, 3).double(), torch.randn(2, 4, 3, 3).double()
    alphas = alphas_cumprod()[torch.tensor([10, 900])]
    noisy = add_noise(latents, noise, alphas)
    v = velocity(latents, noise, alphas)
    root = alphas.view(-1, 1, 1, 1)
    assert torch.allclose(root.sqrt() * noisy - (1 - root).sqrt() * v, latents)
    assert torch.equal(target("v", latents, noise, alphas), v)
    assert torch.equal(target("epsilon", latents, noise, alphas), noise)


def test_loss_is_one_value_for_each_sample() -> None:
    prediction = torch.zeros(3, 4, 2, 2)
    truth = torch.stack([torch.full((4, 2, 2), float(value)) for value in (0, 1, 2)])
    assert mse_loss(prediction, truth).tolist() == [0, 1, 4]
