"""The road of Stable Diffusion XL by learning: pictures held out are told better than before.

`benchmarks/demo_sdxl.py` trains it to the end and looks at the pictures themselves.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.events import Validated
from engine.plan import gather, plan
from engine.session import Session, create_run
from tests.trained_sdxl import sdxl_recipe

STEPS = 32


@pytest.mark.slow
def test_pictures_held_out_are_learnt_too(tmp_path: Path) -> None:
    recipe = sdxl_recipe(
        tmp_path,
        data={"validation": 0.2},
        optim={"te2_lr": 1e-3},
        train={"max_steps": STEPS, "batch_size": 4},
        save={"every_epochs": 0},
    )
    made = plan(recipe, gather(recipe))
    made.raise_errors()
    measured: list[Validated] = []
    session = Session(
        made.recipe,
        create_run(made.recipe, {}),
        on_event=lambda event: measured.append(event) if isinstance(event, Validated) else None,
    )
    session.start()
    session.wait()
    assert session.error is None
    assert [one.step for one in measured] == [0, STEPS]
    before, after = measured
    assert after.held_out < 0.87 * before.held_out
