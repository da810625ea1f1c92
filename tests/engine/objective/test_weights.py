"""Weights against the numbers of the papers' schedule in fp64; finite at an SNR of 0."""

from collections.abc import Callable

import pytest
import torch

from engine.objective.weights import (
    debiased_weight,
    min_snr_weight,
    p2_weight,
    v_like_loss_weight,
    v_loss_like_noise_weight,
)
from tests.engine.objective.schedules import alphas_cumprod

Weight = Callable[[torch.Tensor], torch.Tensor]
PLACES = torch.tensor([0, 100, 500, 999])
SNR = (1175.47059, 8.45389, 0.38185, 0.0046819)


def capped(value: float) -> float:
    return min(value, 1000.0)


@pytest.mark.parametrize(
    ("weight", "expected"),
    [
        (lambda alphas: min_snr_weight(alphas, 5.0, "epsilon"), (0.00425, 0.59145, 1.0, 1.0)),
        (lambda alphas: min_snr_weight(alphas, 5.0, "v"), (0.00425, 0.52888, 0.27633, 0.00466)),
        (lambda alphas: debiased_weight(alphas, "epsilon"), (0.03162, 0.34393, 1.61828, 14.61464)),
        (lambda alphas: debiased_weight(alphas, "v"), (0.00100, 0.10578, 0.72367, 0.99534)),
    ],
)
def test_weights_by_number(weight: Weight, expected: tuple[float, ...]) -> None:
    assert weight(alphas_cumprod()[PLACES]).tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("weight", "formula"),
    [
        (v_loss_like_noise_weight, lambda s: capped(s) / (capped(s) + 1)),
        (lambda a: v_like_loss_weight(a, 0.5), lambda s: 1 + 0.5 * (capped(s) + 1) / capped(s)),
        (lambda alphas: p2_weight(alphas, 1.0), lambda s: 1 / (1 + s)),
        (lambda alphas: p2_weight(alphas, 0.5), lambda s: (1 + s) ** -0.5),
    ],
)
def test_weights_by_formula(weight: Weight, formula: Callable[[float], float]) -> None:
    expected = [formula(value) for value in SNR]
    assert weight(alphas_cumprod()[PLACES]).tolist() == pytest.approx(expected, rel=1e-4)


def test_min_snr_off_weighs_everything_the_same() -> None:
    assert min_snr_weight(alphas_cumprod()[:3], 0, "epsilon").tolist() == [1, 1, 1]


def test_p2_of_gamma_0_weighs_everything_the_same() -> None:
    assert p2_weight(alphas_cumprod()[PLACES], 0.0).tolist() == [1, 1, 1, 1]


def test_at_zero_terminal_snr_every_weight_is_finite() -> None:
    nothing_left = torch.tensor([0.0], dtype=torch.float64)
    assert min_snr_weight(nothing_left, 5.0, "epsilon").item() == 1.0
    assert min_snr_weight(nothing_left, 5.0, "v").item() == 0.0
    # An SNR in a denominator counts as 1e-4.
    assert debiased_weight(nothing_left, "epsilon").item() == pytest.approx(100.0)
    assert debiased_weight(nothing_left, "v").item() == pytest.approx(1.0, abs=1e-3)
    assert v_loss_like_noise_weight(nothing_left).item() == pytest.approx(1e-4, rel=1e-3)
    assert v_like_loss_weight(nothing_left, 1.0).item() == pytest.approx(10_002.0)
    assert p2_weight(nothing_left, 1.0).item() == 1.0


def test_scaled_velocity_loss_is_the_noise_loss() -> None:
    """A wrong picture makes errors in eps and v whose squares differ by exactly this weight."""
    alphas = alphas_cumprod()[torch.tensor([100, 500])].view(-1, 1)
    latents, noise, error = (torch.randn(2, 8, dtype=torch.float64) for _ in range(3))
    noisy = alphas.sqrt() * latents + (1 - alphas).sqrt() * noise
    wrong = latents + error
    wrong_noise = (noisy - alphas.sqrt() * wrong) / (1 - alphas).sqrt()
    v_error = (alphas.sqrt() * wrong_noise - (1 - alphas).sqrt() * wrong) - (
        alphas.sqrt() * noise - (1 - alphas).sqrt() * latents
    )
    scaled = v_error.square().mean(1) * v_loss_like_noise_weight(alphas[:, 0])
    torch.testing.assert_close(scaled, (wrong_noise - noise).square().mean(1))
