"""What leaves the machine is said before everything else, and by whose wish."""

from __future__ import annotations

from typing import Any

import pytest

from engine.hardware import Hardware
from engine.plan import Facts, Origin, Plan, plan
from engine.settings.check import parse

WANDB = {"run": {"wandb": True}}
COPY = {"save": {"copy_to": "/models/loras"}}


def planned(values: dict[str, Any], origin: Origin) -> Plan:
    given = {f"{name}.{key}": origin for name, section in values.items() for key in section}
    facts = Facts(Hardware(gpus=(), cores=2, ram_total=8 << 30, ram_free=6 << 30), drawn_seed=1)
    return plan(parse(values), facts, given)


@pytest.mark.parametrize(
    ("values", "origin", "words"),
    [
        (
            WANDB,
            Origin("preset", "theirs"),
            "The preset theirs (run.wandb) sends this run's numbers",
        ),
        (WANDB, Origin("you"), "run.wandb sends this run's numbers"),
        (
            COPY,
            Origin("preset", "theirs"),
            "(save.copy_to) copies the finished file to /models/loras.",
        ),
    ],
)
def test_it_is_the_first_notice(values: dict[str, Any], origin: Origin, words: str) -> None:
    notices = planned(values, origin).notices
    assert words in notices[0]
    assert len(notices) > 1, "others come after it"


def test_a_copy_that_one_has_asked_for_oneself_is_no_news() -> None:
    assert "copies the finished file" not in " ".join(planned(COPY, Origin("you")).notices)


def test_nothing_is_said_where_nothing_leaves() -> None:
    assert "Weights & Biases" not in " ".join(
        planned({"run": {"csv": True}}, Origin("you")).notices
    )
