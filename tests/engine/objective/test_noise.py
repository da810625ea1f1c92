"""Draws belong to samples, whatever the batch; and have the statistics of their formulas."""

import pytest
import torch

from engine.objective.noise import (
    add_noise,
    input_perturbation,
    multires_noise,
    offset_noise,
    sample_noise,
)
from engine.objective.samples import Samples

SHAPE = (4, 8, 8)


def samples(count: int, *, seed: int = 1, step: int = 7) -> Samples:
    return Samples(seed, step, range(count))


def zeros(count: int, shape: tuple[int, int, int] = SHAPE) -> torch.Tensor:
    return torch.zeros(count, *shape)


KINDS = {
    "plain": lambda latents, own: sample_noise(SHAPE, own),
    "offset": lambda latents, own: offset_noise(
        torch.zeros_like(latents),
        0.1,
        own,
        latents_BCHW=latents,
        random_strength=True,
        adaptive_scale=0.5,
    ),
    "multires": lambda latents, own: multires_noise(torch.zeros_like(latents), 6, 0.8, own),
    "perturbation": lambda latents, own: input_perturbation(
        torch.zeros_like(latents), 0.1, own, random_strength=True
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_has_the_same_noise_in_every_batch(kind: str) -> None:
    latents = torch.randn(4, *SHAPE)
    together = KINDS[kind](latents, samples(4))
    alone = KINDS[kind](latents[2:3], Samples(1, 7, [2]))
    assert torch.equal(together[2], alone[0])


@pytest.mark.parametrize("kind", KINDS)
def test_noise_differs_by_seed_step_and_sample(kind: str) -> None:
    latents = torch.ones(1, *SHAPE)
    first = KINDS[kind](latents, samples(1))
    for other in (samples(1, seed=2), samples(1, step=8), Samples(1, 7, [1])):
        assert not torch.equal(first, KINDS[kind](latents, other))


def test_noise_is_standard_normal_and_independent_across_pixels() -> None:
    noise = sample_noise((2, 4, 4), samples(2000)).flatten(1)
    covariance = noise.T.cov()
    # Of 2000 draws a covariance is off by 1 / sqrt(2000) = 0.022, a variance by 0.032.
    assert (covariance - torch.eye(32)).abs().max() < 0.15
    assert abs(noise.mean().item()) < 0.02


# Offset -------------------------------------------------------------------------------------------


def test_offset_shifts_whole_channels() -> None:
    shifted = offset_noise(zeros(2), 0.1, samples(2), latents_BCHW=zeros(2))
    assert shifted.std(dim=(2, 3)).max() == 0
    assert shifted[:, :, 0, 0].unique().numel() == 8


def test_offset_has_its_strength_in_each_channel() -> None:
    nothing = zeros(1000, (4, 1, 1))
    shifted = offset_noise(nothing, 0.1, samples(1000), latents_BCHW=nothing)
    assert (shifted.std(dim=0) - 0.1).abs().max() < 0.01
    weaker = offset_noise(nothing, 0.1, samples(1000), latents_BCHW=nothing, random_strength=True)
    # E[u^2] = 1/3 for u uniform in 0..1
    assert abs(weaker.std().item() - 0.1 / 3**0.5) < 0.005


def test_offset_with_noise_has_the_covariance_of_a_shift() -> None:
    noise = sample_noise((1, 2, 2), samples(4000, seed=3))
    shifted = offset_noise(noise, 0.5, samples(4000, seed=3), latents_BCHW=zeros(1))
    covariance = shifted.flatten(1).T.cov()
    expected = torch.eye(4) + 0.25  # variance 1 + o^2, covariance o^2
    assert (covariance - expected).abs().max() < 0.1


def test_adaptive_offset_follows_the_mean_of_each_channel() -> None:
    latents = zeros(1000, (4, 1, 2))
    latents[:, 1] = -0.4  # its size counts, not its sign
    latents[:, 2, :, 0] = 2.0
    latents[:, 2, :, 1] = -2.0  # mean 0
    shifted = offset_noise(
        torch.zeros_like(latents), 0.1, samples(1000), latents_BCHW=latents, adaptive_scale=0.5
    )
    expected = torch.tensor([0.1, 0.3, 0.1, 0.1])
    torch.testing.assert_close(shifted[:, :, 0, 0].std(dim=0), expected, rtol=0.1, atol=0)


def test_adaptive_offset_never_falls_below_0_and_needs_no_plain_one() -> None:
    latents = torch.ones(2, *SHAPE)
    less = offset_noise(zeros(2), 0.1, samples(2), latents_BCHW=latents, adaptive_scale=-1.0)
    assert less.abs().max() == 0
    more = offset_noise(zeros(2), 0.0, samples(2), latents_BCHW=latents, adaptive_scale=0.2)
    plain = offset_noise(zeros(2), 0.2, samples(2), latents_BCHW=latents)
    torch.testing.assert_close(more, plain)


# Multires -----------------------------------------------------------------------------------------


def test_multires_has_unit_deviation_in_every_sample() -> None:
    noise = multires_noise(sample_noise((4, 16, 24), samples(6)), 8, 0.8, samples(6))
    torch.testing.assert_close(noise.std(dim=(1, 2, 3)), torch.ones(6))


def test_multires_layers_bind_neighbours_the_more_the_less_they_are_discounted() -> None:
    def neighbours(iterations: int, discount: float) -> float:
        plain = sample_noise((4, 16, 16), samples(60))
        noise = multires_noise(plain, iterations, discount, samples(60))
        return float((noise[..., :-1] * noise[..., 1:]).mean())

    assert abs(neighbours(1, 0.3)) < 0.02  # the first layer is as fine as the noise
    assert neighbours(6, 0.0) == pytest.approx(neighbours(1, 0.0), abs=1e-6)
    assert neighbours(1, 0.3) + 0.01 < neighbours(6, 0.3) < neighbours(6, 0.8) - 0.1


def test_first_multires_layer_adds_noise_of_full_size_and_weight() -> None:
    """With one layer the sum of two unit noises is divided by sqrt(2): half of it is the first."""
    plain = sample_noise((4, 16, 16), samples(40))
    noise = multires_noise(plain, 1, 0.3, samples(40))
    correlation = float((noise * plain).mean())
    assert correlation == pytest.approx(0.5**0.5, abs=0.02)


def test_multires_ends_where_a_side_is_one_pixel() -> None:
    plain = sample_noise((4, 2, 64), samples(3))
    # Sides shrink by more than 2: the second layer of a strip of 2 is the last.
    few = multires_noise(plain, 2, 0.8, samples(3))
    many = multires_noise(plain, 20, 0.8, samples(3))
    assert torch.equal(few, many)


def test_multires_off_changes_nothing() -> None:
    plain = sample_noise(SHAPE, samples(1))
    assert multires_noise(plain, 0, 0.8, samples(1)) is plain


# Input perturbation -------------------------------------------------------------------------------


def test_perturbation_has_its_variance_on_top_of_the_noise() -> None:
    plain = sample_noise(SHAPE, samples(200))
    perturbed = input_perturbation(plain, 0.5, samples(200))
    assert perturbed.var().item() == pytest.approx(1.25, abs=0.04)
    assert (perturbed - plain).var().item() == pytest.approx(0.25, rel=0.05)
    weaker = input_perturbation(plain, 0.5, samples(200), random_strength=True) - plain
    assert weaker.var().item() == pytest.approx(0.25 / 3, rel=0.25)
    spread = weaker.std(dim=(1, 2, 3))
    assert spread.max() > 0.4 and spread.min() < 0.1


def test_noising_mixes_picture_and_noise() -> None:
    latents, noise = torch.ones(2, *SHAPE), torch.full((2, *SHAPE), 2.0)
    noisy = add_noise(latents, noise, torch.tensor([1.0, 0.36]))
    assert noisy[0].unique().tolist() == [1.0]
    assert noisy[1].unique().tolist() == pytest.approx([0.6 + 0.8 * 2])
