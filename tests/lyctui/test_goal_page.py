"""The goals, and behind a row the guides' own recipes."""

from __future__ import annotations

from pathlib import Path

import pytest
from textual.pilot import Pilot

from lyctui.draft import Draft
from lyctui.presets import GUIDES, list_presets
from lyctui.screens.goal import GOALS, RECIPES, GoalPage
from lyctui.widgets.guide_panel import GuidePanel
from lyctui.widgets.menu import Menu
from tests.lyctui.test_wizard_pages import SIZE, App, at, opened
from tests.lyctui.wizard_parts import settled, until


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Drafts and a person's own presets are those of the test."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr("lyctui.wizard.Wizard.warm_up", lambda self: None)


def keys(pilot: Pilot[int]) -> list[str]:
    return [row.key for row in pilot.app.screen.query_one(Menu).rows]


async def shown(pilot: Pilot[int]) -> GoalPage:
    await until(pilot, at(pilot, "goal"))
    screen = pilot.app.screen
    assert isinstance(screen, GoalPage)
    return screen


async def test_every_preset_is_one_or_two_keys_away_and_every_row_fits_the_smallest_screen() -> (
    None
):
    app: App = opened("goal", settled(Draft()))
    async with app.run_test(size=SIZE) as pilot:
        screen = await shown(pilot)
        goals = keys(pilot)
        menu = screen.query_one(Menu)
        assert goals[-2] == RECIPES and menu.max_scroll_y == 0
        await pilot.press("0")
        await pilot.pause()
        recipes = keys(pilot)
        assert recipes[-1] == GOALS and menu.max_scroll_y == 0
        assert {*goals[:-2], *recipes[:-1]} == {preset.name for preset in list_presets()}
        await pilot.press("escape")
        await pilot.pause()
        assert keys(pilot) == goals, "Esc turns back to the goals"


async def test_a_recipe_is_explained_in_full_and_chosen_like_a_goal() -> None:
    wizard = settled(Draft())
    app: App = opened("goal", wizard)
    async with app.run_test(size=SIZE) as pilot:
        screen = await shown(pilot)
        await pilot.press("0")
        for preset in (one for one in list_presets() if one.group == GUIDES):
            await pilot.pause()
            panel = screen.query_one(GuidePanel)
            assert preset.differs in panel.said and preset.guide in panel.said
            assert panel.max_scroll_y == 0, f"{preset.name} does not fit below the list"
            await pilot.press("down")
        await pilot.press("2")
        await until(pilot, at(pilot, "model"))
    assert wizard.draft.preset == "self-tuning"
    assert wizard.effective("optim.optimizer") == "prodigy"


async def test_coming_back_shows_the_list_that_holds_the_choice() -> None:
    wizard = settled(Draft())
    wizard.draft.choose_preset("native", {"network": {"algorithm": "full"}})
    app: App = opened("goal", wizard)
    async with app.run_test(size=SIZE) as pilot:
        screen = await shown(pilot)
        rows = screen.query_one(Menu).rows
        assert [row.key for row in rows if row.chosen] == ["native"]
        await pilot.press("escape")
        await pilot.pause()
        assert [row.key for row in screen.query_one(Menu).rows if row.chosen] == [RECIPES]
        assert "What the five guides" in screen.said()


async def test_a_goal_names_the_recipes_that_suit_it() -> None:
    app: App = opened("goal", settled(Draft()))
    async with app.run_test(size=SIZE) as pilot:
        screen = await shown(pilot)
        await pilot.press("down")
        await pilot.pause()
        assert "Photo LoCon" in screen.said(), "the person's photographs have a guide of their own"
