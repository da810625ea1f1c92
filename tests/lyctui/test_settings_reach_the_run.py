"""What a recipe says of the run itself is what the started run has."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.runs import RunFolder
from engine.settings.toml import read_recipe
from lyctui.monitor import LiveRun, open_run, reopen_run
from tests.small_run import small_recipe


@pytest.fixture
def made(tmp_path: Path) -> LiveRun:
    """A run that is not started: nothing is loaded."""
    recipe = small_recipe(
        tmp_path,
        run={"name": "other", "folder": str(tmp_path / "mine"), "on_disconnect": "stop"},
    )
    return open_run(recipe)


def test_a_run_lies_where_the_recipe_says(made: LiveRun, tmp_path: Path) -> None:
    assert made.folder == tmp_path / "mine" / "other"
    kept = read_recipe(RunFolder(made.folder).recipe).run
    assert (kept.folder, kept.name) == (tmp_path / "mine", "other")


def test_a_run_ends_with_its_terminal_where_the_recipe_says(made: LiveRun) -> None:
    assert made.on_disconnect == "stop"
    assert reopen_run(made.folder).on_disconnect == "stop"
