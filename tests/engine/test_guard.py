"""What a run learns of its numbers: kept exactly over a resume, and when a loss is a spike."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from engine.guard import Guard
from engine.spikes import EDGES, FEWEST, WINDOW, Spikes, bin_of


def test_its_state_is_exact_also_through_json():
    guard = Guard(0.25, 2, 4, 7, 3)
    rng = random.Random(1)
    for _ in range(40):
        guard.spikes.add([rng.random(), rng.random()], [rng.randrange(1000), 500], 5.0)
    again = Guard()
    again.load_state(json.loads(json.dumps(guard.state())))
    assert again == guard
    assert again.state() == guard.state()


@pytest.mark.parametrize("older", [{}, {"spikes": {"means": [1.0], "counts": [9], "running": 2}}])
def test_what_an_older_state_lacks_is_as_in_a_new_run(older: dict[str, Any]) -> None:
    """Also in a run that goes back to it: what led there would else count again."""
    guard = Guard(0.5, 1, 2, 30, 20)
    guard.spikes.learn([1.0], [500])
    guard.spikes.running = 3
    guard.load_state(older)
    assert guard == Guard()
    guard.load_state({"skipped_steps": 2, "rate_factor": 0.25})
    assert (guard.rate_factor, guard.skipped_steps, guard.rows) == (0.25, 2, None)


def test_bins_begin_at_the_edges():
    assert EDGES == (10, 25, 50, 100, 200, 400, 700)
    assert [bin_of(timestep) for timestep in (0, 9, 10, 24, 25, 399, 400, 699, 700, 999)] == [
        0, 0, 1, 1, 2, 5, 6, 6, 7, 7,
    ]  # fmt: skip


def known(loss: float = 1.0, times: int = FEWEST) -> Spikes:
    """Two bins that have seen enough: a loss at large timesteps, fifty times that at small ones."""
    spikes = Spikes()
    for _ in range(times):
        spikes.add([loss, 50 * loss], [800, 5], 5.0)
    return spikes


def test_a_loss_is_compared_with_those_of_its_own_timesteps():
    spikes = known()
    assert spikes.ratio([50.0, 50.0], [5, 5]) == pytest.approx(1.0)
    assert spikes.ratio([2.0, 50.0], [900, 0]) == pytest.approx(1.5)
    assert spikes.ratio([50.0], [800]) == pytest.approx(50.0)


def test_a_bin_counts_once_it_has_seen_enough():
    spikes = known(times=FEWEST - 1)
    assert spikes.ratio([100.0], [800]) is None
    spikes.add([1.0], [800], 5.0)
    assert spikes.ratio([100.0], [800]) == pytest.approx(100.0)
    assert spikes.ratio([100.0, 7.0], [800, 30]) == pytest.approx(100.0), "the other bin is unknown"


def test_three_steps_above_the_limit_one_after_the_other_are_a_spike():
    spikes = known()
    assert [spikes.add([6.0], [800], 5.0) for _ in range(3)] == [False, False, True]
    spikes = known()
    found = [spikes.add([loss], [800], 5.0) for loss in (6.0, 6.0, 1.0, 6.0, 6.0, 6.0)]
    assert found == [False] * 5 + [True]


def test_a_step_that_nothing_can_be_said_of_neither_counts_nor_ends_a_row():
    spikes = known()
    steps = [(6.0, 800), (6.0, 800), (9.0, 30), (6.0, 800)]
    assert [spikes.add([loss], [t], 5.0) for loss, t in steps] == [False, False, False, True]


def test_a_spike_is_never_usual():
    spikes = known()
    before = spikes.state()
    spikes.add([1e6, 1e6], [800, 30], 5.0)
    spikes.add([1.0], [800], 5.0)
    assert spikes.means == pytest.approx(before["means"])


def test_losses_that_change_slowly_are_followed():
    spikes = known(times=WINDOW)
    rows = [spikes.add([1.0 + step / WINDOW], [800], 5.0) for step in range(10 * WINDOW)]
    assert not any(rows)
    assert spikes.means[-1] == pytest.approx(10.0, abs=1.5)


def test_a_limit_of_0_ends_a_row():
    """Else a state would look for ever as if a spike had begun."""
    spikes = Spikes(running=2)
    assert not spikes.add([1.0], [500], 0.0)
    assert spikes.running == 0


def test_a_limit_of_0_is_none():
    spikes = known()
    assert not any(spikes.add([1e6], [800], 0.0) for _ in range(9))
