"""Targets and losses against numbers and closed forms, in fp64 or fp32 as they are used."""

import math
from functools import partial

import pytest
import torch

from engine.objective.loss import (
    huber_c,
    huber_loss,
    l1_loss,
    l2_loss,
    masked_mean,
    smooth_l1_loss,
    target,
    velocity,
)
from engine.objective.noise import add_noise
from engine.objective.schedule import rescale_zero_terminal_snr
from tests.engine.objective.schedules import alphas_cumprod


def test_velocity_and_noise_recover_the_latents() -> None:
    latents, noise = torch.randn(2, 4, 3, 3).double(), torch.randn(2, 4, 3, 3).double()
    alphas = alphas_cumprod()[torch.tensor([10, 900])]
    noisy = add_noise(latents, noise, alphas)
    v = velocity(latents, noise, alphas)
    root = alphas.view(-1, 1, 1, 1)
    assert torch.allclose(root.sqrt() * noisy - (1 - root).sqrt() * v, latents)
    assert torch.equal(target("v", latents, noise, alphas), v)
    assert torch.equal(target("epsilon", latents, noise, alphas), noise)


def test_velocity_at_the_ends_is_noise_and_minus_the_picture() -> None:
    latents, noise = torch.randn(2, 4, 3, 3).double(), torch.randn(2, 4, 3, 3).double()
    v = velocity(latents, noise, torch.tensor([1.0, 0.0], dtype=torch.float64))
    torch.testing.assert_close(v, torch.stack([noise[0], -latents[1]]))


def test_velocity_is_that_of_diffusers() -> None:
    from diffusers import DDPMScheduler

    scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    latents, noise = torch.randn(2, 4, 3, 3), torch.randn(2, 4, 3, 3)
    places = torch.tensor([5, 700])
    reference = scheduler.get_velocity(latents, noise, places)
    found = velocity(latents, noise, scheduler.alphas_cumprod[places])
    torch.testing.assert_close(found, reference)


ERRORS = torch.tensor([0.0, 1e-4, 0.1, -0.5, 3.0])
C = 0.25
LOSSES = {
    "l2": l2_loss,
    "l1": l1_loss,
    "huber": partial(huber_loss, c_B=torch.tensor([C])),
    "smooth_l1": partial(smooth_l1_loss, c_B=torch.tensor([C])),
}


@pytest.mark.parametrize(
    ("name", "formula"),
    [
        ("l2", lambda e: e * e),
        ("l1", abs),
        ("huber", lambda e: 2 * C * (math.sqrt(e * e + C * C) - C)),
        ("smooth_l1", lambda e: 2 * (math.sqrt(e * e + C * C) - C)),
    ],
)
def test_losses_by_their_formulas(name: str, formula: object) -> None:
    assert callable(formula)
    zeros = torch.zeros(1, 1, 1, len(ERRORS))
    found = LOSSES[name](zeros + ERRORS, zeros).flatten()
    expected = [formula(float(error)) for error in ERRORS]
    # Also an error far below c keeps its digits in fp32.
    assert found.tolist() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", ["l2", "l1", "huber", "smooth_l1"])
def test_losses_have_the_gradients_of_their_formulas(name: str) -> None:
    errors = ERRORS.clone().requires_grad_()
    loss = LOSSES[name](errors.view(1, 1, 1, -1), torch.zeros(1))
    loss.sum().backward()
    root = (ERRORS.square() + C * C).sqrt()
    expected = {
        "l2": 2 * ERRORS,
        "l1": ERRORS.sign(),
        "huber": 2 * C * ERRORS / root,
        "smooth_l1": 2 * ERRORS / root,
    }[name]
    torch.testing.assert_close(errors.grad, expected)


def test_losses_are_judged_in_fp32_whatever_comes_in() -> None:
    half = torch.full((1, 1, 1, 1), 300.0, dtype=torch.float16)
    found = l2_loss(half, torch.zeros_like(half))
    assert found.dtype == torch.float32
    assert found.item() == 90_000.0  # more than fp16 can hold


@pytest.mark.parametrize(("timestep", "expected"), [(0, 0.9497), (500, 0.2313), (999, 0.1037)])
def test_snr_schedule_of_c_by_number(timestep: int, expected: float) -> None:
    place = torch.tensor([timestep])
    found = huber_c("snr", 0.1, 1.0, place, alphas_cumprod()[place])
    assert found.item() == pytest.approx(expected, abs=5e-5)
    scaled = huber_c("snr", 0.1, 3.0, place, alphas_cumprod()[place])
    assert scaled.item() == pytest.approx(3 * found.item())


def test_other_schedules_of_c() -> None:
    places = torch.tensor([0, 500, 1000])
    alphas = torch.full((3,), 0.5, dtype=torch.float64)
    assert huber_c("constant", 0.1, 2.0, places, alphas).tolist() == pytest.approx([0.2] * 3)
    exponential = huber_c("exponential", 0.1, 2.0, places, alphas).tolist()
    assert exponential == pytest.approx([2.0, 2 * 0.1**0.5, 0.2])


def test_c_is_finite_where_nothing_is_left_of_the_picture() -> None:
    alphas = rescale_zero_terminal_snr(alphas_cumprod())[-1:]
    assert huber_c("snr", 0.1, 1.0, torch.tensor([999]), alphas).item() == pytest.approx(0.1)


def test_mean_is_one_value_for_each_sample() -> None:
    truth = torch.stack([torch.full((4, 2, 2), float(value)) for value in (0, 1, 2)])
    assert masked_mean(l2_loss(torch.zeros(3, 4, 2, 2), truth)).tolist() == [0, 1, 4]


def test_mask_takes_the_mean_over_its_area_or_over_the_picture() -> None:
    loss = torch.ones(3, 4, 2, 2)
    loss[:, :, 0, 0] = 5.0
    mask = torch.zeros(3, 1, 2, 2)
    mask[0, 0, 0, 0] = 1.0
    mask[1, 0, 0] = 0.5
    # The third sample's mask is empty: it teaches nothing, and divides by nothing.
    assert masked_mean(loss, mask).tolist() == [5.0, 3.0, 0.0]
    assert masked_mean(loss, mask, "picture").tolist() == [1.25, 0.75, 0.0]


def test_no_gradient_comes_from_outside_a_mask() -> None:
    prediction = torch.ones(1, 2, 2, 2, requires_grad=True)
    mask = torch.zeros(1, 1, 2, 2)
    mask[0, 0, 1, 1] = 1.0
    masked_mean(l2_loss(prediction, torch.zeros(1)), mask).sum().backward()
    assert prediction.grad is not None
    assert prediction.grad.count_nonzero().item() == 2
