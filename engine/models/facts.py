"""The facts of a base model, and what a user's choice makes of them. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from engine.errors import ModelError, Problem
from engine.models.architecture import Architecture
from engine.models.recognise import FAMILY_TITLES, Family

Prediction = Literal["epsilon", "v"]
Layout = Literal["single", "folder", "ckpt"]
SOURCE_CHOSEN = "your choice"
ASSUMED = "assumed epsilon"
CHOICES: dict[str, Prediction] = {"epsilon": "epsilon", "v": "v"}


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What is known of a base model before it is loaded."""

    path: Path
    layout: Layout
    bytes: int
    family: Family | None = None
    """None where the file must be loaded to know (.ckpt), or is no base model."""
    prediction: Prediction | None = None
    prediction_source: str = "after loading"
    """Where the prediction type was found, in words."""
    dtype: str = ""
    inpainting: bool = False
    zero_terminal_snr: bool = False
    """Whether the file says that it was trained with zero terminal SNR; most files do not tell."""
    has_vae: bool = True
    unet_parameters: int = 0
    te_parameters: int = 0
    architecture: Architecture | None = None
    problems: tuple[Problem, ...] = ()
    """Why no network can be trained on it; empty where one can."""

    @property
    def title(self) -> str:
        """Its family in words."""
        if self.family is None:
            return "known after loading" if self.layout == "ckpt" else "not a base model"
        return FAMILY_TITLES[self.family] + (" inpainting" if self.inpainting else "")

    @property
    def prediction_assumed(self) -> bool:
        """Whether nothing in the file tells what it predicts, so that the user should be asked."""
        return self.prediction_source.startswith(ASSUMED)

    @property
    def native_resolution(self) -> int | None:
        """Side in pixels of the pictures it was made for, where known."""
        return self.architecture.native_resolution if self.architecture is not None else None


def settle_choice(
    facts: ModelFacts, *, family: str = "auto", prediction: str = "auto"
) -> tuple[Prediction, str]:
    """Prediction type to train with and its source; ModelError with all that stands against it."""
    problems = list(facts.problems)
    if family != "auto" and facts.family is not None and family != facts.family:
        title = FAMILY_TITLES.get(family, family)
        problems.append(
            Problem(
                f"The file is {facts.title}, not {title}.",
                where=str(facts.path),
                remedy="Set model.family to auto.",
                path="model.family",
            )
        )
    marked = facts.prediction_source.startswith(('"', "the "))
    if prediction != "auto" and marked and prediction != facts.prediction:
        problems.append(
            Problem(
                f"The model predicts {facts.prediction} ({facts.prediction_source}), "
                f"not {prediction}.",
                where=str(facts.path),
                remedy="Set model.prediction to auto.",
                path="model.prediction",
            )
        )
    if problems:
        raise ModelError(*problems)
    chosen = CHOICES.get(prediction)
    if chosen is not None:
        return chosen, facts.prediction_source if marked else SOURCE_CHOSEN
    assert facts.prediction is not None, "families that do not show it are refused above"
    return facts.prediction, facts.prediction_source
