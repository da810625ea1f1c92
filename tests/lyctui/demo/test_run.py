"""The demo as a job: its recipe is whole, its judge judges, its pictures are kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from engine.events import Scored
from engine.plan import gather, plan
from lyctui.demo.prompts import TRIGGER
from lyctui.demo.run import TRIGGER_PICTURES, demo_recipe, examiner, grid, verdict


@pytest.fixture
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LYCTUI_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LYCTUI_RUNS", str(tmp_path / "runs"))
    return tmp_path


def test_the_recipe_can_start(own_folders: Path) -> None:
    recipe = demo_recipe()
    made = plan(recipe, gather(recipe))
    made.raise_errors()
    assert made.images == 12
    assert made.reg_samples_per_epoch > 0
    assert made.recipe.data.resolution == (128, 128)
    assert recipe.run.folder == own_folders / "runs"
    assert {row.width % 64 for row in made.buckets} == {0}
    quick = demo_recipe(quick=True)
    assert plan(quick, gather(quick)).steps < made.steps


def test_the_judge_asks_for_both_and_keeps_a_sheet(tmp_path: Path) -> None:
    asked: list[list[str]] = []

    def paint(prompts: Sequence[str]) -> list[Image.Image]:
        asked.append(list(prompts))
        return [Image.new("RGB", (128, 128), "white") for _ in prompts]

    score = examiner(lambda: tmp_path)("before", paint)
    assert isinstance(score, Scored)
    assert score.concept == 0
    assert (tmp_path / "before.png").is_file()
    with_trigger, without = asked
    assert len(with_trigger) == TRIGGER_PICTURES
    assert all(TRIGGER in prompt for prompt in with_trigger)
    assert not any(TRIGGER in prompt for prompt in without)
    with Image.open(tmp_path / "before.png") as sheet:
        assert sheet.size == (4 * 128, 2 * 128)


def test_a_grid_is_filled_row_by_row() -> None:
    colours = ["red", "lime", "blue"]
    sheet = grid([Image.new("RGB", (10, 10), colour) for colour in colours], 2)
    assert sheet.size == (20, 20)
    assert [sheet.getpixel(at) for at in ((5, 5), (15, 5), (5, 15), (15, 15))] == [
        (255, 0, 0),
        (0, 255, 0),
        (0, 0, 255),
        (255, 255, 255),
    ]


def test_the_verdict_names_what_changed_and_what_did_not() -> None:
    before = Scored("before", 0.0, 0.98, 1.0, 0.95)
    after = Scored("after", 0.75, 0.9, 0.96, 0.9)
    text = verdict(before, after)
    for part in ("0%", "75%", "90%", "96%"):
        assert part in text
