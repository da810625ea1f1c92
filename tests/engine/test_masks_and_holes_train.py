"""An inpainting base with masks, wildcards and two resolutions trains, the same with any workers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from engine.assemble import Training, assemble
from engine.checkpoint.state import Place
from engine.step import train_step
from tests.small_run import draw_pictures, small_recipe
from tests.tiny_families import write_tiny

torch.set_num_threads(1)

NETWORK = {"algorithm": "lora", "rank": 2, "alpha": 2.0}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An inpainting base, pictures with captions of several lines, and a mask for each."""
    root = tmp_path_factory.mktemp("painting")
    write_tiny(root / "painting.safetensors", "sd1", in_channels=9)
    folder = draw_pictures(root / "pictures" / "2_vexilo emblem", 4)
    for number, path in enumerate(sorted(folder.glob("*.png"))):
        path.with_suffix(".txt").write_text("vexilo, {red|blue}\nvexilo emblem")
        with Image.open(path) as image:
            mask = Image.new("L", image.size)
            mask.paste(255, (0, 0, image.width // 2, image.height))
        (root / "masks").mkdir(exist_ok=True)
        mask.save(root / "masks" / f"{number:02d}.png")
    return root


def trained(root: Path, *, workers: int, steps: int = 3) -> tuple[Training, list[float]]:
    recipe = small_recipe(
        root,
        model={"path": str(root / "painting.safetensors")},
        data={
            "workers": workers,
            "masked_loss": "folder",
            "mask_folder": str(root / "masks"),
            "wildcards": True,
            "more_resolutions": [64],
        },
        network=NETWORK,
        train={"accumulation": 2},
    )
    training = assemble(recipe, root / "cache", lambda *_: None)
    training.network.train()
    losses = []
    for number in range(1, steps + 1):
        plan = training.order.epoch(1)[number - 1]
        losses.append(float(train_step(training, plan, Place(number, 1, number)).loss))
    training.loader.close()
    return training, losses


def test_an_inpainting_base_trains_with_masks_at_two_resolutions(root: Path) -> None:
    training, losses = trained(root, workers=0)
    assert all(0 < loss < 100 for loss in losses)
    assert len(training.items) == 2 * len(training.survey.items)
    sizes = {batch.bucket for step in training.order.epoch(1) for batch in step.batches}
    assert min(sizes)[0] <= 64 < max(sizes)[0]
    assert any("latent cache does not cover" in notice for notice in training.notices)
    number = len(training.items) - 1
    assert training.picture_name(number) == training.items[number].image.path.name
    assert trained(root, workers=2)[1] == losses
