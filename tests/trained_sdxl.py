"""A tiny Stable Diffusion XL that was trained a little on the demo's scenes, so that learning can be seen.

tests/data/tiny_sdxl.safetensors holds its trained tensors; tools/train_tiny_sdxl.py made them. The
tables of words are drawn from a seed, and the autoencoder is the demo base's at SDXL's latent scale.
"""

from __future__ import annotations

import math
import tomllib
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from presets import DEMO_PATH, PRESETS_PATH
from tests import tiny_families
from tests.tiny_families import FamilyModules, family_modules

if TYPE_CHECKING:
    from engine.settings import Recipe

PATH = Path(__file__).parent / "data" / "tiny_sdxl.safetensors"
KEPT_TABLE = "token_embedding"
SIDE = 128
DEMO_SCALE = 0.18215
WIDER = 8.0
"""The tables are never trained, so words must differ by more than in the demo."""


def starting_modules() -> FamilyModules:
    """The parts before training, with the demo's autoencoder and fixed tables of words."""
    import torch

    from lyctui.demo.asset import token_table

    modules = family_modules("sdxl", seed=0)
    with torch.no_grad():
        for encoder in (modules.text_encoder, modules.text_encoder_2):
            table = encoder.get_input_embeddings().weight
            drawn = token_table(*table.shape).astype(np.float32) * WIDER
            table.copy_(torch.from_numpy(drawn))
        _take_demo_vae(modules.vae)
    return modules


def _take_demo_vae(vae: Any) -> None:
    """Same pictures, latents larger by the quotient of both families' scales."""
    import torch

    from engine.models.load import load_model
    from lyctui.demo.asset import unpack_base

    with TemporaryDirectory() as folder:
        demo = load_model(unpack_base(Path(folder)))
    vae.load_state_dict(demo.vae.state_dict())
    factor = DEMO_SCALE / tiny_families.VAES["sdxl"]["scaling_factor"]
    first, last = vae.quant_conv, vae.post_quant_conv
    with torch.no_grad():
        first.weight[:4] *= factor
        first.bias[:4] *= factor
        first.bias[4:] += 2 * math.log(factor)
        last.weight /= factor


def trained_modules() -> FamilyModules:
    """The parts after training."""
    from safetensors.torch import load_file

    modules = starting_modules()
    stored = load_file(PATH)
    for part in ("unet", "vae", "text_encoder", "text_encoder_2"):
        module = getattr(modules, part)
        own = {name.removeprefix(f"{part}."): value.float() for name, value in stored.items()
               if name.startswith(f"{part}.")}  # fmt: skip
        missing, unknown = module.load_state_dict(own, strict=False)
        assert not unknown and all(KEPT_TABLE in name or "position_ids" in name for name in missing)
    return modules


def write_trained_sdxl(path: Path) -> Path:
    """Write the trained model as one file in the original layout."""
    import json

    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    told = {"format": "pt", "lyctui.model_config": json.dumps(tiny_families.model_config("sdxl"))}
    save_file(tiny_families.family_state(trained_modules()), path, metadata=told)
    return path


def sdxl_recipe(folder: Path, **sections: dict[str, Any]) -> Recipe:
    """The demo's recipe over the tiny SDXL, written below `folder`; sections change it."""
    from engine.settings.check import parse

    values: dict[str, Any] = tomllib.loads((PRESETS_PATH / "demo.toml").read_text("utf-8"))
    values.pop("about")
    values["model"] = {"path": str(write_trained_sdxl(folder / "tiny-sdxl.safetensors"))}
    values["data"] |= {"folder": str(DEMO_PATH / "img"), "reg_folder": str(DEMO_PATH / "reg")}
    values["sample"] |= {"prompts": []}
    values["run"]["folder"] = str(folder / "runs")
    for section, changed in sections.items():
        values[section] = values.get(section, {}) | changed
    return parse(values)
