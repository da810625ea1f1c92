"""SNR and zero terminal SNR against numbers, and against diffusers' own rescale."""

import pytest
import torch

from engine.objective.schedule import rescale_zero_terminal_snr, snr
from tests.engine.objective.schedules import alphas_cumprod


@pytest.mark.parametrize(
    ("timestep", "expected"), [(0, 1175.47), (100, 8.45389), (500, 0.38185), (999, 0.0046819)]
)
def test_snr_of_the_stable_diffusion_schedule(timestep: int, expected: float) -> None:
    assert snr(alphas_cumprod()[timestep]).item() == pytest.approx(expected, rel=2e-5)


def test_ends_of_the_stable_diffusion_schedule() -> None:
    alphas = alphas_cumprod()
    assert alphas[0].item() == pytest.approx(0.99915, abs=1e-9)
    assert alphas[999].item() == pytest.approx(0.0046601, rel=1e-5)


@pytest.mark.parametrize(
    ("timestep", "expected", "tolerance"),
    [
        (0, 0.9991500, 1e-7),
        (1, 0.9982334, 1e-7),
        (500, 0.2410188, 1e-7),
        (998, 1.97e-7, 1e-9),
        (999, 0.0, 0.0),
    ],
)
def test_zero_terminal_snr_by_number(timestep: int, expected: float, tolerance: float) -> None:
    found = rescale_zero_terminal_snr(alphas_cumprod())
    assert found.dtype == torch.float64
    assert abs(found[timestep].item() - expected) <= tolerance


def test_zero_terminal_snr_is_that_of_diffusers() -> None:
    from diffusers.schedulers.scheduling_ddim import rescale_zero_terminal_snr as theirs

    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    reference = (1 - theirs(betas)).cumprod(0)
    torch.testing.assert_close(rescale_zero_terminal_snr(alphas_cumprod()), reference)


def test_zero_terminal_snr_falls_everywhere_and_works_from_fp32() -> None:
    found = rescale_zero_terminal_snr(alphas_cumprod().float())
    assert found.dtype == torch.float64
    assert bool((found.diff() < 0).all())
    assert found[-1].item() == 0
