"""The recipe: every setting of a run."""

from __future__ import annotations

from pydantic import Field

from engine.settings.ask import Section
from engine.settings.data import Data
from engine.settings.model import Model
from engine.settings.network import Lora, Network
from engine.settings.objective import Objective
from engine.settings.optim import Optim
from engine.settings.run import Run
from engine.settings.sample import Sample
from engine.settings.save import Save
from engine.settings.schedule import Schedule
from engine.settings.train import Train

RECIPE_VERSION = 1


class Recipe(Section):
    """Every setting of a run."""

    version: int = Field(default=RECIPE_VERSION, ge=1, le=RECIPE_VERSION)
    """Version of this file's layout."""
    model: Model = Field(default_factory=Model)
    data: Data = Field(default_factory=Data)
    network: Network = Field(default_factory=Lora)
    optim: Optim = Field(default_factory=Optim)
    schedule: Schedule = Field(default_factory=Schedule)
    objective: Objective = Field(default_factory=Objective)
    train: Train = Field(default_factory=Train)
    sample: Sample = Field(default_factory=Sample)
    save: Save = Field(default_factory=Save)
    run: Run = Field(default_factory=Run)
