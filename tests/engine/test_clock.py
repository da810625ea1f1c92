"""A clock that is set while a run lives changes no duration that is told."""

import time

import pytest

from engine.events import Ended, Started, StepDone
from engine.outputs import Tally
from engine.snapshot import Reducer


@pytest.mark.parametrize("jump", [-86_400.0, 86_400.0])
def test_elapsed_time_and_the_rest_ignore_a_clock_that_jumps(monkeypatch, jump):
    wall, steady = 1_000_000.0, 50.0
    monkeypatch.setattr(time, "time", lambda: wall)
    monkeypatch.setattr(time, "monotonic", lambda: steady)
    tally = Tally(wall, steady, seconds_before=7.0)
    reducer = Reducer("r")
    reducer.apply(Started("r", 10, (10,), 1, 10, time=wall))
    wall, steady = wall + jump + 30, steady + 30
    reducer.apply(StepDone(1, 1, 0.1, {"unet": 1e-4}, 1.0, 30.0, 1, time=wall))
    assert reducer.snapshot.elapsed_seconds == 30
    assert reducer.snapshot.remaining_seconds == (270.0, 270.0)
    assert tally.seconds() == 37
    reducer.apply(Ended("finished", "r", (), 10, 0, seconds=300.0, time=wall))
    assert reducer.snapshot.elapsed_seconds == 300
    reducer.apply(Ended("finished", "r", (), 10, 0, time=wall))
    assert reducer.snapshot.elapsed_seconds >= 0


def test_who_comes_later_sees_what_has_elapsed_before(monkeypatch):
    wall, steady = 1_000_000.0, 50.0
    monkeypatch.setattr(time, "time", lambda: wall)
    monkeypatch.setattr(time, "monotonic", lambda: steady)
    reducer = Reducer("r")
    reducer.apply(Started("r", 10, (10,), 1, 10, time=wall - 600))
    steady += 5
    assert reducer.snapshot.elapsed_seconds == 605
