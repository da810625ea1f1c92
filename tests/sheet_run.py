"""The folder of a run with two small network files, as a finished run leaves it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from engine.networks.choice import Choice
from engine.networks.files import write_network
from engine.networks.network import build
from engine.settings.toml import portable, write_recipe
from tests.engine.networks.layers import stir
from tests.small_run import small_recipe

PROMPTS = ("vexilo emblem", "<script>alert(1)</script> --d 9")


def write_sheet_run(root: Path) -> Path:
    """A run below `root`: tiny base, two files of 64 x 64 in two steps; its folder."""
    from engine.models.load import load_model

    sample = {"prompts": list(PROMPTS), "steps": 1, "guidance": 1.0, "width": 64, "height": 64}
    recipe = small_recipe(root, sample={**sample, "sampler": "euler_a"})
    folder = root / "runs" / "small"
    folder.mkdir(parents=True)
    (folder / "run.toml").write_text(write_recipe(recipe))
    model = load_model(root / "tiny.safetensors")
    entries: list[dict[str, Any]] = []
    for epoch, name in enumerate(("small-000001", "small"), start=1):
        choice = Choice("lora", 2, 2.0)
        network = stir(build(model.components(), choice, seed=0), 0.03, seed=epoch)
        path = folder / f"{name}.safetensors"
        write_network(path, network.tensors(), {"lyctui.recipe": portable(recipe)})
        entries.append({"file": path.name, "step": 3 * epoch, "epoch": epoch, "final": epoch == 2})
    (folder / "manifest.json").write_text(json.dumps(entries))
    return folder
