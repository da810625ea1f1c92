"""What would train something else than it says is refused by name, with a way out that works."""

from __future__ import annotations

from typing import Any

import pytest

from engine.errors import RecipeError
from engine.settings.check import parse

REFUSED: list[tuple[dict[str, Any], str, dict[str, Any]]] = [
    # The recipe, the setting that is named, and what the remedy makes of it.
    (
        {"model": {"prediction": "epsilon"}, "objective": {"scale_v_loss": True}},
        "objective.scale_v_loss",
        {"model": {"prediction": "v"}, "objective": {"scale_v_loss": True}},
    ),
    (
        {"model": {"prediction": "v"}, "objective": {"v_like_loss": 0.5}},
        "objective.v_like_loss",
        {"model": {"prediction": "epsilon"}, "objective": {"v_like_loss": 0.5}},
    ),
    (
        {"objective": {"v_like_loss": 0.5, "scale_v_loss": True}},
        "objective.v_like_loss",
        {"objective": {"scale_v_loss": True}},
    ),
    (
        {"model": {"weighted_prompts": True}, "data": {"shuffle_tags": True}},
        "model.weighted_prompts",
        {"model": {"weighted_prompts": True}},
    ),
    (
        {"model": {"weighted_prompts": True}, "data": {"tag_dropout": 0.1}},
        "model.weighted_prompts",
        {"data": {"tag_dropout": 0.1}},
    ),
    (
        {"data": {"masked_loss": "folder"}},
        "data.mask_folder",
        {"data": {"masked_loss": "folder", "mask_folder": "/masks"}},
    ),
    (
        {"schedule": {"scheduler": "piecewise_constant"}},
        "schedule.rules",
        {"schedule": {"scheduler": "piecewise_constant", "rules": "1:500,0.1:800,0.01"}},
    ),
]


@pytest.mark.parametrize(("values", "path", "mended"), REFUSED)
def test_a_contradiction_is_refused_and_its_remedy_accepted(values, path, mended):
    with pytest.raises(RecipeError) as caught:
        parse(values)
    (problem,) = caught.value.problems
    assert problem.path == path and problem.remedy
    assert parse(mended)


def test_while_the_prediction_is_not_known_its_loss_weights_wait_for_the_base():
    assert parse({"objective": {"scale_v_loss": True}}).objective.scale_v_loss
    assert parse({"objective": {"v_like_loss": 0.5}}).objective.v_like_loss == 0.5
