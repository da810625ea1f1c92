"""What is to be taught: sets the preset, and what the later pages recommend."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from textual import on
from textual.widget import Widget

from engine.errors import EngineError
from lyctui.paths import paths
from lyctui.presets import GUIDES, Preset, list_presets
from lyctui.readers import listed
from lyctui.screens.page import WizardPage
from lyctui.widgets.menu import Menu, Row

NO_PRESET = "none"
RECIPES, GOALS = "recipes of the guides", "goals"
"""Rows that turn to the other list; no presets."""


def offered() -> tuple[Preset, ...]:
    """The presets, with the person's own; a broken one of theirs must not hide the others."""
    try:
        return list_presets(own=paths().config / "presets")
    except EngineError:
        return list_presets()


class GoalPage(WizardPage):
    """Presets as goals: one key chooses. The guides' own recipes are a list behind a row."""

    # The page has no fields, and the list cuts what the explanation must say in full.
    DEFAULT_CSS = """
    GoalPage GuidePanel { height: 8; }
    GoalPage Menu { max-height: 11; }
    """

    page: ClassVar[str] = "goal"
    INTRODUCTION: ClassVar[str] = (
        "The goal sets starting values for all later pages and what they recommend. "
        "Every value can be changed there; going back keeps your answers."
    )

    def head(self) -> Iterable[Widget]:
        """The goals."""
        yield Menu(id="goals", title_cells=22)

    def on_mount(self) -> None:
        """Fill the list."""
        self.presets: dict[str, Preset] = {preset.name: preset for preset in offered()}
        chosen = self.presets.get(self.wizard.draft.preset)
        self.among_recipes = chosen is not None and chosen.group == GUIDES
        super().on_mount()

    def focus_first(self) -> None:
        """The list."""
        self.query_one(Menu).focus()

    def show_page(self) -> None:
        """Mark the goal that is chosen."""
        rows = self._recipe_rows() if self.among_recipes else self._goal_rows()
        self.query_one(Menu).show_rows(rows)

    def _goal_rows(self) -> list[Row]:
        chosen = self.wizard.draft.preset
        rows = [self._row(preset) for preset in self.presets.values() if preset.group != GUIDES]
        recipes = [preset for preset in self.presets.values() if preset.group == GUIDES]
        rows.append(
            Row(
                RECIPES,
                "Recipes of the guides",
                f"{len(recipes)} of them, as the guides give the numbers",
                chosen=any(preset.name == chosen for preset in recipes),
            )
        )
        bare = "our defaults; you decide the rest"
        return [*rows, Row(NO_PRESET, "Something else", bare, chosen=chosen == NO_PRESET)]

    def _recipe_rows(self) -> list[Row]:
        rows = [self._row(preset) for preset in self.presets.values() if preset.group == GUIDES]
        return [*rows, Row(GOALS, "Back to the goals", "Esc")]

    def _row(self, preset: Preset) -> Row:
        chosen = self.wizard.draft.preset == preset.name
        return Row(preset.name, preset.title, preset.for_whom, chosen=chosen)

    def said(self) -> str:
        """Why the highlighted goal is set up as it is."""
        key = self.query_one(Menu).key_at_highlight()
        preset = self.presets.get(key or "")
        if key == RECIPES:
            return (
                "What the five guides tell their readers to set, number by number, each with where "
                "its meaning differs here from the program of the guide. The goals above take the "
                "best of several guides instead."
            )
        if preset is None:
            return self.INTRODUCTION
        parts = [f"{preset.title}: {preset.for_whom.rstrip('.')}. {preset.why}"]
        if preset.guide:
            parts.append(f"({preset.guide})")
        if preset.differs:
            parts.append(f"Unlike there: {preset.differs}")
        suits = [one.title for one in self.presets.values() if preset.name in one.purpose]
        if suits:
            parts.append(f"Among the recipes of the guides: {listed(suits)}.")
        return " ".join(parts)

    @on(Menu.Moved)
    def _moved(self) -> None:
        self._explain_focus()

    @on(Menu.Chosen)
    def _chosen(self, event: Menu.Chosen) -> None:
        event.stop()
        if event.key in (RECIPES, GOALS):
            self._turn_to(recipes=event.key == RECIPES)
            return
        self.choose(event.key)
        self.leave_forward()

    def _turn_to(self, *, recipes: bool) -> None:
        self.among_recipes = recipes
        self.show_page()
        self._explain_focus()

    def choose(self, key: str) -> None:
        """Lay a preset below the answers."""
        preset = self.presets.get(key)
        if preset is None:
            self.wizard.draft.choose_preset(NO_PRESET, {})
        else:
            self.wizard.draft.choose_preset(preset.name, preset.values)
        self.wizard.update()

    def action_next(self) -> None:
        """Next takes the highlighted goal where none is chosen yet."""
        key = self.query_one(Menu).key_at_highlight()
        if not self.wizard.draft.preset and key in (RECIPES, GOALS):
            self._turn_to(recipes=key == RECIPES)
            return
        if not self.wizard.draft.preset and key is not None:
            self.choose(key)
        self.leave_forward()

    def action_back(self) -> None:
        """From the recipes to the goals, from the goals to the page before."""
        if self.among_recipes:
            self._turn_to(recipes=False)
            return
        super().action_back()
