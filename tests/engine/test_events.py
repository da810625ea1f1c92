"""Events survive their JSON."""

import pytest

from engine.events import (
    Acknowledged,
    Ended,
    Event,
    Phase,
    Proved,
    RolledBack,
    Sampled,
    Saved,
    Scored,
    Started,
    StepDone,
    Validated,
    Waiting,
    Warned,
    from_dict,
    to_dict,
)

EXAMPLES: list[Event] = [
    Started("r", 10, (5, 5), 2, 10, notes=("exact: weights",)),
    Phase("caching latents", 3, 12),
    StepDone(1, 1, 0.5, {"unet": 1e-4, "te": 5e-5}, 0.7, 1.5, 2, 100, 200),
    Saved("network", 5, 1, "/r/a.safetensors", 10, True, False),
    Sampled(5, 1, ("a.png",), ("a prompt",)),
    Warned("careful"),
    Acknowledged("pause", 3),
    Scored("before", 0.0, 0.98, 1.0, 0.95),
    Validated(5, 1, 0.25, 0.2),
    RolledBack(8, 5, "the loss is not a number", ("a.png",), 0.5, 1, 3),
    Waiting("The disk is full.", "Free some space."),
    Proved("/r/a.safetensors", 5, True, ("same picture",)),
    Ended("finished", "r", ("a.safetensors",), 10, 0),
    Ended("failed", "r", (), 3, 5, problems=({"what": "memory"},)),
]


@pytest.mark.parametrize("event", EXAMPLES, ids=lambda event: event.name)
def test_events_come_back_from_json_equal(event: Event) -> None:
    import json

    again = from_dict(json.loads(json.dumps(to_dict(event))))
    assert again == event
    assert to_dict(event)["v"] == 1


def test_the_end_is_named_by_its_state() -> None:
    assert to_dict(EXAMPLES[-1])["event"] == "failed"
    assert from_dict({"event": "from a later version"}) is None
