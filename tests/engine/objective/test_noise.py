"""Draws belong to samples: batching, order and offsets change nothing else."""

import torch

from engine.objective.noise import offset_noise, sample_noise, sample_timesteps

SHAPE = (4, 8, 8)


def test_noise_of_a_sample_does_not_depend_on_its_batch() -> None:
    together = sample_noise(SHAPE, seed=1, step=7, samples=range(4))
    alone = sample_noise(SHAPE, seed=1, step=7, samples=[2])
    assert torch.equal(together[2], alone[0])


def test_noise_differs_by_seed_step_and_sample() -> None:
    first = sample_noise(SHAPE, seed=1, step=7, samples=[0])
    for other in (
        sample_noise(SHAPE, seed=2, step=7, samples=[0]),
        sample_noise(SHAPE, seed=1, step=8, samples=[0]),
        sample_noise(SHAPE, seed=1, step=7, samples=[1]),
    ):
        assert not torch.equal(first, other)


def test_offset_shifts_whole_channels() -> None:
    noise = torch.zeros(2, *SHAPE)
    shifted = offset_noise(noise, 0.1, random_strength=False, seed=1, step=1, samples=range(2))
    assert shifted.std(dim=(2, 3)).max() == 0
    assert shifted[:, :, 0, 0].unique().numel() == 8


def test_offset_has_its_strength() -> None:
    noise = torch.zeros(500, 4, 1, 1)
    shifted = offset_noise(noise, 0.1, random_strength=False, seed=3, step=1, samples=range(500))
    assert abs(shifted.std().item() - 0.1) < 0.01
    weaker = offset_noise(noise, 0.1, random_strength=True, seed=3, step=1, samples=range(500))
    # E[u^2] = 1/3 for u uniform in 0..1
    assert abs(weaker.std().item() - 0.1 / 3**0.5) < 0.01


def test_timesteps_stay_in_their_range_and_cover_it() -> None:
    drawn = sample_timesteps(low=200, high=210, seed=1, step=1, samples=range(300))
    assert set(drawn.tolist()) == set(range(200, 210))
    fixed = sample_timesteps(low=500, high=500, seed=1, step=1, samples=range(3))
    assert fixed.tolist() == [500, 500, 500]
