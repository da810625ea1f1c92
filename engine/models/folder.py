"""Finds the files of a diffusers folder. No torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from engine.errors import ModelError, Problem

LARGEST_CONFIG = 1 << 20
WEIGHT_STEMS = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
    "text_encoder_2": "model",
}
PICKLED_STEMS = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "pytorch_model",
    "text_encoder_2": "pytorch_model",
}
VARIANTS = ("", ".fp16", ".non_ema")


def is_model_folder(folder: Path) -> bool:
    """Whether a folder is a model in diffusers' layout."""
    return (folder / "model_index.json").is_file() or (folder / "unet" / "config.json").is_file()


def weight_files(folder: Path, part: str) -> tuple[Path, ...]:
    """Files of one part's weights: safetensors before pickled ones, whole before shards."""
    stems = ((WEIGHT_STEMS[part], ".safetensors"), (PICKLED_STEMS[part], ".bin"))
    for stem, ending in stems:
        for variant in VARIANTS:
            whole = folder / f"{stem}{variant}{ending}"
            if whole.is_file():
                return (whole,)
            shards = tuple(sorted(folder.glob(f"{stem}{variant}-?????-of-?????{ending}")))
            if shards:
                return shards
    return ()


def model_files(path: Path) -> tuple[Path, ...]:
    """The weight files of a model or a VAE: the file itself, or those in its folder and one below."""
    if not path.is_dir():
        return (path,)
    places = [*((path / part, part) for part in WEIGHT_STEMS), (path, "vae")]
    return tuple(
        dict.fromkeys(file for place, part in places for file in weight_files(place, part))
    )


def read_config(path: Path) -> dict[str, Any]:
    """A JSON file of a model folder; empty where there is none."""
    if not path.is_file():
        return {}
    try:
        if path.stat().st_size > LARGEST_CONFIG:
            raise ValueError("too large")
        config = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(
            Problem("The configuration is not readable.", where=str(path), path="model.path")
        ) from error
    return config if isinstance(config, dict) else {}
