"""Answers that follow from the family of the base: what it is, and what it does without. No torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from engine.models.detect import ModelFacts
from engine.models.recognise import FAMILY_TITLES
from engine.settings.model import Model

TEXT_UNTRAINED = frozenset({"sdxl"})
"""Families whose text encoders stay as they are, unless a rate is given for them."""

MARKED = ('"', "the ")
"""How a source begins that is a mark in the file or a folder's own configuration."""


class Answer(NamedTuple):
    """A setting, its value and why."""

    path: str
    value: object
    reason: str


def how_told(model: ModelFacts) -> str:
    """What a base's family was told by."""
    return "the parts of the folder" if model.layout == "folder" else "the names of its tensors"


def told_by_base(model: ModelFacts | None, given: Model) -> Iterator[Answer]:
    """Family and prediction type, as far as the base tells and nobody chose."""
    if model is None or model.problems or model.family is None:
        return
    if given.family == "auto":
        title = FAMILY_TITLES[model.family]
        yield Answer("model.family", model.family, f"{title}, by {how_told(model)}")
    if given.prediction == "auto" and model.prediction is not None:
        # What the file does not tell stays open, so that it is never taken for somebody's choice.
        told = model.prediction_source.startswith(MARKED)
        reason = model.prediction_source
        if not (told or model.prediction_assumed):
            reason = f"{model.prediction}: {reason}"
        yield Answer("model.prediction", model.prediction if told else "auto", reason)


def clip_skip(family: str, style: str) -> Answer:
    """Which layer of the text encoder is read where nobody says."""
    path = "model.clip_skip"
    if family == "sdxl":
        return Answer(path, 1, "SDXL always reads the last layer but one")
    if family == "sd2":
        return Answer(path, 1, "Stable Diffusion 2 was made with the last layer its encoder has")
    if style == "natural":
        return Answer(path, 1, "bases for natural language use the last layer")
    return Answer(path, 2, f"bases for {style} tags use the last but one")


def prediction_notice(model: ModelFacts | None, given: Model) -> str:
    """That nobody knows what the base predicts; empty where the file or the user tells."""
    if model is None or not model.prediction_assumed or given.prediction != "auto":
        return ""
    doubt = model.prediction_source.partition("; ")[2]
    return (
        f"What the base predicts is assumed to be noise (epsilon): {doubt}. A wrong guess trains"
        " noise. Set model.prediction to what its page says, epsilon or v."
    )
