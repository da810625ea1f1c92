"""What is to be taught: sets the preset, and what the later pages recommend."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from textual import on
from textual.widget import Widget

from engine.errors import EngineError
from lyctui.paths import paths
from lyctui.presets import Preset, list_presets
from lyctui.screens.page import WizardPage
from lyctui.widgets.menu import Menu, Row

NO_PRESET = "none"


def offered() -> tuple[Preset, ...]:
    """The presets, with the person's own; a broken one of theirs must not hide the others."""
    try:
        return list_presets(own=paths().config / "presets")
    except EngineError:
        return list_presets()


class GoalPage(WizardPage):
    """Presets as goals: one key chooses."""

    # The page has no fields, and the list cuts what the explanation must say in full.
    DEFAULT_CSS = """
    GoalPage GuidePanel { height: 8; }
    """

    page: ClassVar[str] = "goal"
    INTRODUCTION: ClassVar[str] = (
        "The goal sets starting values for all later pages and what they recommend. "
        "Every value can be changed there; going back keeps your answers."
    )

    def head(self) -> Iterable[Widget]:
        """The goals."""
        yield Menu(id="goals", title_cells=20)

    def on_mount(self) -> None:
        """Fill the list."""
        self.presets: dict[str, Preset] = {preset.name: preset for preset in offered()}
        super().on_mount()

    def focus_first(self) -> None:
        """The list."""
        self.query_one(Menu).focus()

    def show_page(self) -> None:
        """Mark the goal that is chosen."""
        draft = self.wizard.draft
        rows = [
            Row(name, preset.title, preset.for_whom, chosen=draft.preset == name)
            for name, preset in self.presets.items()
        ]
        bare = "our defaults; you decide the rest"
        rows.append(Row(NO_PRESET, "Something else", bare, chosen=draft.preset == NO_PRESET))
        self.query_one(Menu).show_rows(rows)

    def said(self) -> str:
        """Why the highlighted goal is set up as it is."""
        key = self.query_one(Menu).key_at_highlight()
        preset = self.presets.get(key or "")
        if preset is None:
            return self.INTRODUCTION
        guide = f" ({preset.guide})" if preset.guide else ""
        return f"{preset.title}: {preset.for_whom.rstrip('.')}. {preset.why}{guide}"

    @on(Menu.Moved)
    def _moved(self) -> None:
        self._explain_focus()

    @on(Menu.Chosen)
    def _chosen(self, event: Menu.Chosen) -> None:
        event.stop()
        self.choose(event.key)
        self.leave_forward()

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
        if not self.wizard.draft.preset and key is not None:
            self.choose(key)
        self.leave_forward()
