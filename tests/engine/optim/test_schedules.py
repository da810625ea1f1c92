"""Learning-rate curves against the vectors of the specification."""

import pytest

from engine.optim.schedules import learning_rate_factor, warmup_length


@pytest.mark.parametrize(
    ("scheduler", "warmup", "steps", "cycles", "expected"),
    [
        ("cosine", 2, 10, 1, [0.5, 1, 1, 0.962, 0.854, 0.691, 0.5, 0.309, 0.146, 0.038]),
        ("linear", 2, 10, 1, [0.5, 1, 1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]),
        ("cosine_with_restarts", 0, 12, 3, [1, 0.854, 0.5, 0.146] * 3),
        ("constant", 4, 6, 1, [0.25, 0.5, 0.75, 1, 1, 1]),
    ],
)
def test_curves(
    scheduler: str, warmup: int, steps: int, cycles: int, expected: list[float]
) -> None:
    factor = learning_rate_factor(scheduler, steps=steps, warmup=warmup, cycles=cycles)
    assert [factor(k) for k in range(steps)] == pytest.approx(expected, abs=6e-4)


def test_warmup_by_percent_and_by_count() -> None:
    assert warmup_length(1000, percent=10, count=None) == 100
    assert warmup_length(1000, percent=10, count=7) == 7
    assert warmup_length(5, percent=10, count=50) == 5
    assert warmup_length(1000, percent=10, count=0) == 0
