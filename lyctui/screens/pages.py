"""The pages by name."""

from __future__ import annotations

from lyctui.screens.dataset import DatasetPage
from lyctui.screens.goal import GoalPage
from lyctui.screens.model import ModelPage
from lyctui.screens.network import NetworkPage
from lyctui.screens.page import WizardPage
from lyctui.screens.review import ReviewPage
from lyctui.screens.samples import SamplesPage
from lyctui.screens.training import TrainingPage
from lyctui.wizard import Wizard

PAGES: dict[str, type[WizardPage]] = {
    "goal": GoalPage,
    "model": ModelPage,
    "dataset": DatasetPage,
    "network": NetworkPage,
    "training": TrainingPage,
    "samples": SamplesPage,
    "review": ReviewPage,
}


def make_page(name: str, wizard: Wizard) -> WizardPage:
    """A page of the wizard; an unknown name leads to the first."""
    return PAGES.get(name, GoalPage)(wizard)
