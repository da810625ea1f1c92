"""What of a run goes elsewhere, and by whose wish: a preset may come from a stranger."""

from __future__ import annotations

from collections.abc import Mapping

from engine.planning.filler import Origin
from engine.settings import Recipe


def leaving(recipe: Recipe, origins: Mapping[str, Origin]) -> list[str]:
    """A sentence for what leaves the machine, and for copies that nobody here has asked for."""
    said = []
    if recipe.run.wandb:
        said.append(
            f"{_who('run.wandb', origins)} sends this run's numbers, preview pictures and recipe to"
            " Weights & Biases, off this machine."
        )
    if recipe.save.copy_to is not None and _preset("save.copy_to", origins):
        who = _who("save.copy_to", origins)
        said.append(f"{who} copies the finished file to {recipe.save.copy_to}.")
    return said


def _who(path: str, origins: Mapping[str, Origin]) -> str:
    preset = _preset(path, origins)
    return f"The preset {preset} ({path})" if preset else path


def _preset(path: str, origins: Mapping[str, Origin]) -> str:
    """The preset that set a value; empty where it was a person."""
    origin = origins.get(path)
    return origin.reason if origin is not None and origin.source == "preset" else ""
