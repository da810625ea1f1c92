"""A small but genuine run for tests: tiny SD1, a handful of drawn pictures, a filled recipe."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from engine.settings import Recipe
from tests.tiny import write_tiny_sd1

COLOURS = ["red", "green", "blue", "orange", "purple", "black"]


def draw_pictures(folder: Path, count: int = 6, *, captions: bool = True, seed: int = 0) -> Path:
    """Pictures of several shapes and sizes, captions for all but the last."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(seed)
    for index in range(count):
        size = [(128, 128), (192, 96), (96, 192)][index % 3]
        picture = Image.new("RGB", size, "white")
        colour = COLOURS[index % len(COLOURS)]
        x, y = rng.randrange(size[0] // 2), rng.randrange(size[1] // 2)
        ImageDraw.Draw(picture).ellipse((x, y, x + 50, y + 40), fill=colour)
        picture.save(folder / f"{index:02d}.png")
        if captions and index < count - 1:
            (folder / f"{index:02d}.txt").write_text(f"vexilo emblem, {colour}, on white")
    return folder


def small_recipe(root: Path, **sections: dict[str, Any]) -> Recipe:
    """A filled recipe over six pictures and a tiny model below `root`; sections override it."""
    base = root / "tiny.safetensors"
    if not base.exists():
        write_tiny_sd1(base)
    pictures = root / "pictures"
    if not pictures.exists():
        draw_pictures(pictures / "2_vexilo emblem")
    values: dict[str, dict[str, Any]] = {
        "model": {"path": str(base), "clip_skip": 1},
        "data": {
            "folder": str(pictures),
            "resolution": [128, 128],
            "bucket_min": 64,
            "bucket_max": 256,
            "keep_tokens": 1,
            "cache_text": False,
            "workers": 0,
        },
        "network": {"algorithm": "lora", "rank": 4, "alpha": 2.0},
        "optim": {"optimizer": "adamw", "lr": 1e-3, "te_lr": 5e-4},
        "schedule": {"warmup_percent": 10},
        "train": {
            "epochs": 2,
            "batch_size": 2,
            "precision": "no",
            "checkpointing": False,
            "device": "cpu",
            "seed": 7,
            "threads": 1,
        },
        "sample": {"at_start": False, "every_epochs": 0},
        "save": {"precision": "fp32"},
        "run": {"name": "small", "folder": str(root / "runs")},
    }
    for section, changed in sections.items():
        # What one algorithm has another may lack: a network with a name of its own stands alone.
        usual = {} if "algorithm" in changed else values.get(section, {})
        values[section] = {**usual, **changed}
    return Recipe.model_validate(values)


def tensor_bytes(path: Path) -> str:
    """sha256 of everything after a safetensors header: the tensors, without the metadata."""
    body = path.read_bytes()
    length = int.from_bytes(body[:8], "little")
    return hashlib.sha256(body[8 + length :]).hexdigest()
