"""Recipes of the runs that are made to die: small, and with everything on that has a state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engine.settings import Recipe
from tests.small_run import draw_pictures, small_recipe

STEPS, BATCHES = 6, 2
"""Optimizer steps of `rich`, and micro-batches of each."""


def rich(root: Path, **sections: dict[str, Any]) -> Recipe:
    """Three epochs of two steps of two micro-batches; dropouts, an average, pictures, text that stops."""
    pictures = root / "pictures"
    if not pictures.exists():
        draw_pictures(pictures / "1_vexilo emblem", 4)
    values: dict[str, dict[str, Any]] = {
        "data": {"flip": True, "shuffle_tags": True, "caption_dropout": 0.2},
        "network": {
            "algorithm": "lora",
            "rank": 4,
            "alpha": 2.0,
            "dropout": 0.1,
            "rank_dropout": 0.1,
            "targets": "attn-only",
        },
        "optim": {"te_stop_percent": 50},
        "train": {"epochs": 3, "batch_size": 1, "accumulation": 2, "ema_decay": 0.9},
        "sample": {
            "prompts": ["vexilo emblem --d 5"],
            "at_start": True,
            "every_epochs": 2,
            "steps": 2,
            "width": 64,
            "height": 64,
        },
        "save": {"precision": "fp32", "keep_last": 1},
    }
    for section, changed in sections.items():
        values[section] = {**values.get(section, {}), **changed}
    return small_recipe(root, **values)


def brief(root: Path, **sections: dict[str, Any]) -> Recipe:
    """`rich` in two epochs and with a picture at the start alone."""
    values: dict[str, dict[str, Any]] = {
        "train": {"epochs": 2, "batch_size": 1, "accumulation": 2, "ema_decay": 0.9},
        "sample": {"prompts": ["vexilo emblem --d 5"], "at_start": True, "every_epochs": 0,
                   "steps": 1, "width": 64, "height": 64},
        "save": {"precision": "fp32", "keep_last": None},
    }  # fmt: skip
    for section, changed in sections.items():
        values[section] = {**values.get(section, {}), **changed}
    return rich(root, **values)


def measured(root: Path) -> Recipe:
    """`rich` with a held-out picture, whose loss is measured."""
    if not (root / "pictures").exists():
        draw_pictures(root / "pictures" / "1_vexilo emblem", 5)
    return rich(
        root,
        data={"validation": 0.2},
        train={"epochs": 2, "validate_every_epochs": 2},
        sample={"prompts": []},
    )
