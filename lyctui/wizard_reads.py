"""What the wizard reads in its threads: model files, pictures, names of runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.data.survey import Survey, SurveyRules
    from engine.models.facts import ModelFacts
    from engine.settings import Recipe


def inspect(path: Path) -> ModelFacts:
    """What a model file says of itself."""
    from engine.models.detect import inspect_model

    return inspect_model(path)


def whole_survey(
    recipe: Recipe, wanted: Callable[[], None], progress: Callable[[int, int], None]
) -> Survey:
    """Every picture decoded, and the captions that are cut where they are too long."""
    from engine.planning.lengths import with_cut_captions
    from engine.planning.rules import survey_rules

    found = survey_of(survey_rules(recipe.data), True, wanted, progress)
    return with_cut_captions(found, recipe)


def survey_of(
    rules: SurveyRules,
    decode: bool,
    wanted: Callable[[], None],
    progress: Callable[[int, int], None] | None = None,
) -> Survey:
    """The data set of some rules; `wanted` raises where nobody waits for it any more."""
    from engine.data.survey import survey

    def step(done: int, total: int) -> None:
        wanted()
        if progress is not None:
            progress(done, total)

    return survey(rules, decode=decode, progress=step)


def names_in(folder: Path | None) -> frozenset[str]:
    """Names that are taken in a folder; none where it cannot be read."""
    try:
        return (
            frozenset(one.name for one in folder.expanduser().iterdir()) if folder else frozenset()
        )
    except OSError:
        return frozenset()
