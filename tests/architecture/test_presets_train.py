"""Every preset, filled for a machine without a GPU, trains: finite losses and a network file."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.events import StepDone
from engine.hardware import Hardware
from engine.plan import Facts, fill
from engine.session import Session, create_run
from engine.settings.check import parse
from lyctui.presets import load_preset
from presets import PRESETS_PATH
from tests.small_run import draw_pictures
from tests.tiny import write_tiny_sd1

NAMES = sorted(path.stem for path in PRESETS_PATH.glob("*.toml"))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("presets")
    write_tiny_sd1(root / "tiny.safetensors")
    draw_pictures(root / "pictures" / "1_vexilo emblem")
    return root


def recipe_values(name: str, place: Path) -> dict[str, Any]:
    """The preset, with what a test must say itself laid over it."""
    values: dict[str, Any] = dict(load_preset(name).values)
    own = {
        "model": {"path": str(place / "tiny.safetensors")},
        "data": {
            "folder": str(place / "pictures"),
            "resolution": [64, 64],
            "bucket_min": 64,
            "bucket_max": 128,
            "workers": 0,
        },
        "train": {"max_steps": 2, "device": "cpu", "threads": 1, "seed": 1},
        "save": {"every_epochs": 0},
        "sample": {"at_start": False, "every_epochs": 0, "prompts": []},
        "run": {"name": name, "folder": str(place / "runs")},
    }
    for section, answers in own.items():
        values[section] = {**values.get(section, {}), **answers}
    return values


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_preset_trains(name: str, place: Path) -> None:
    torch.set_num_threads(1)
    machine = Hardware(gpus=(), cores=1, ram_total=2**34, ram_free=2**33)
    recipe = fill(parse(recipe_values(name, place)), Facts(machine, drawn_seed=1)).recipe
    folder = create_run(recipe)
    seen: list[Any] = []
    session = Session(recipe, folder, cache=place / "cache", on_event=seen.append)
    session.start()
    assert session.wait(60)
    assert session.error is None, session.error
    losses = [event.loss for event in seen if isinstance(event, StepDone)]
    assert len(losses) == 2
    assert all(math.isfinite(loss) for loss in losses)
    assert (folder / f"{folder.name}.safetensors").is_file()
