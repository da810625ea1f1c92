"""What cannot go together in noise, loss, captions and masks: refused by name, with the way out."""

from __future__ import annotations

from engine.errors import Problem
from engine.settings.recipe import Recipe


def refusals(recipe: Recipe) -> list[Problem]:
    """Every combination that would train something else than it says."""
    return [
        problem
        for rule in (_losses, _weights_in_captions, _masks, _piecewise)
        for problem in rule(recipe)
    ]


def loss_problems(recipe: Recipe, prediction: str) -> list[Problem]:
    """Loss weights of the other prediction type; `prediction` is "epsilon" or "v"."""
    objective = recipe.objective
    if prediction == "epsilon" and objective.scale_v_loss:
        return [
            Problem(
                "Scaling the velocity's loss needs a base for v-prediction, and this one predicts"
                " noise.",
                remedy="Switch objective.scale_v_loss off, or set model.prediction to v if the"
                " base is one.",
                path="objective.scale_v_loss",
            )
        ]
    if prediction == "v" and objective.v_like_loss > 0:
        return [
            Problem(
                "The v-like loss is added to a base that predicts noise, and this one predicts the"
                " velocity already.",
                remedy="Set objective.v_like_loss to 0.",
                path="objective.v_like_loss",
            )
        ]
    return []


def _losses(recipe: Recipe) -> list[Problem]:
    objective = recipe.objective
    if objective.scale_v_loss and objective.v_like_loss > 0:
        return [
            Problem(
                "Scaled v loss is for v-prediction and v-like loss for noise prediction: no base"
                " has both.",
                remedy="Switch objective.scale_v_loss off, or set objective.v_like_loss to 0.",
                path="objective.v_like_loss",
            )
        ]
    # "auto" is settled when the base is known: `plan` looks again.
    return loss_problems(recipe, recipe.model.prediction)


def _weights_in_captions(recipe: Recipe) -> list[Problem]:
    data = recipe.data
    if not recipe.model.weighted_prompts or not (data.shuffle_tags or data.tag_dropout > 0):
        return []
    what = "shuffled" if data.shuffle_tags else "dropped"
    switch = "data.shuffle_tags off" if data.shuffle_tags else "data.tag_dropout to 0"
    return [
        Problem(
            f"Weights in captions and {what} tags do not go together: a weight may span several"
            " tags and would be torn apart.",
            remedy=f"Switch model.weighted_prompts off, or {switch}.",
            path="model.weighted_prompts",
        )
    ]


def _masks(recipe: Recipe) -> list[Problem]:
    if recipe.data.masked_loss != "folder" or recipe.data.mask_folder is not None:
        return []
    return [
        Problem(
            "Masks from a folder are wanted, and no folder is given.",
            remedy="Give data.mask_folder, or set data.masked_loss to alpha or off.",
            path="data.mask_folder",
        )
    ]


def _piecewise(recipe: Recipe) -> list[Problem]:
    if recipe.schedule.scheduler != "piecewise_constant" or recipe.schedule.rules.strip():
        return []
    return [
        Problem(
            "The schedule piecewise_constant needs its steps.",
            remedy='Set schedule.rules, such as "1:500,0.1:800,0.01".',
            path="schedule.rules",
        )
    ]
