"""Timesteps stay in their range and follow their distribution."""

import math

import pytest
import torch

from engine.objective.samples import Samples
from engine.objective.timesteps import sample_timesteps

SHAPES = ["uniform", "logit_normal", "cosine", "beta"]
COUNT = 4000


def drawn(shape: str, *, low: int = 0, high: int = 1000, **form: float) -> torch.Tensor:
    return sample_timesteps(shape, Samples(1, 1, range(COUNT)), low=low, high=high, **form)


@pytest.mark.parametrize("shape", SHAPES)
def test_timesteps_stay_in_their_range_and_cover_it(shape: str) -> None:
    found = drawn(shape, low=200, high=210)
    assert found.dtype == torch.int64
    assert set(found.tolist()) == set(range(200, 210))


@pytest.mark.parametrize("shape", SHAPES)
def test_equal_limits_mean_that_one_step(shape: str) -> None:
    samples = Samples(1, 1, range(3))
    assert sample_timesteps(shape, samples, low=500, high=500).tolist() == [500, 500, 500]
    assert sample_timesteps(shape, samples, low=999, high=1000).tolist() == [999, 999, 999]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_sample_has_the_same_timestep_in_every_batch(shape: str) -> None:
    together = sample_timesteps(shape, Samples(1, 5, range(8)), low=0, high=1000)
    alone = sample_timesteps(shape, Samples(1, 5, [6]), low=0, high=1000)
    assert together[6] == alone[0]


def logit_normal(share: float, mean: float, spread: float) -> float:
    return 0.5 * (1 + math.erf((math.log(share / (1 - share)) - mean) / spread / 2**0.5))


def cosmap(share: float) -> float:
    """Integral of 2 / (pi (1 - 2 t + 2 t^2))."""
    return 0.5 + 2 / math.pi * math.atan(2 * share - 1)


@pytest.mark.parametrize(
    ("shape", "form", "below"),
    [
        ("uniform", {}, lambda share: share),
        ("logit_normal", {}, lambda share: logit_normal(share, 0, 1)),
        ("logit_normal", {"mean": -1.0, "spread": 0.5}, lambda s: logit_normal(s, -1, 0.5)),
        ("cosine", {}, cosmap),
        ("beta", {"spread": 2.0}, lambda share: share * share * (3 - 2 * share)),
        ("beta", {"spread": 0.5}, lambda share: 2 / math.pi * math.asin(share**0.5)),
    ],
)
def test_shapes_have_their_distribution(shape: str, form: dict[str, float], below: object) -> None:
    assert callable(below)
    found = drawn(shape, **form)
    gaps = [
        abs(float((found < place).float().mean()) - below(place / 1000))
        for place in range(50, 1000, 50)
    ]
    # Kolmogorov and Smirnov: at 4000 draws a gap above 0.031 comes once in a thousand times.
    assert max(gaps) < 0.031


def test_extreme_forms_stay_inside() -> None:
    for mean in (-5.0, 5.0):
        found = drawn("logit_normal", mean=mean, spread=10.0)
        assert found.min() >= 0 and found.max() <= 999
    found = drawn("beta", spread=0.01)
    assert found.min() == 0 and found.max() == 999
