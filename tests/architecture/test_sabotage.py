"""Where the engine is made to ignore a setting, a proof notices, and another test does not."""

from __future__ import annotations

import subprocess
import sys

from engine.planning.rules import survey_rules
from engine.settings import Recipe
from tests.architecture.sabotage import sabotaged
from tests.architecture.test_proof import ROOT

TRIED = """
from tests.architecture.sabotage import noticed
rules = "tests/engine/planning/test_rules.py::"
sizes, captions = rules + "test_how_sizes_are_chosen", rules + "test_what_happens_to_captions"
print(noticed("data.prefix", (sizes, captions)), noticed("data.prefix", (sizes,)))
"""


def test_only_the_engine_and_only_for_a_while_reads_the_default() -> None:
    data = Recipe.model_validate({"data": {"folder": "/a", "repeats": 3, "trigger": "x"}}).data
    with sabotaged("data.repeats"):
        rules = survey_rules(data)
        assert (rules.repeats, rules.trigger, data.repeats) == (1, "x", 3)
    assert survey_rules(data).repeats == 3


def test_settings_of_one_name_in_two_sections_are_told_apart() -> None:
    recipe = Recipe.model_validate({"sample": {"seed": 4}, "train": {"seed": 5}})
    with sabotaged("sample.seed"):
        namespace = {"__name__": "engine.anything", "recipe": recipe}
        found = eval("(recipe.sample.seed, recipe.train.seed)", namespace)
    assert found == (None, 5)


def test_a_proof_notices_and_another_test_does_not() -> None:
    done = subprocess.run(
        [sys.executable, "-c", TRIED], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["True", "False"]
