"""A tiny Stable Diffusion XL that was trained a little on the demo's scenes, so that learning can be seen.

tests/data/tiny_sdxl.safetensors holds its trained tensors; tools/train_tiny_sdxl.py made them. The
tables of words are drawn from a seed, and the autoencoder is the demo base's at SDXL's latent scale.
"""

from __future__ import annotations

import math
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from tests import tiny_families
from tests.tiny_families import FamilyModules, family_modules

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


def _take_demo_vae(vae: object) -> None:
    """Same pictures, latents larger by the quotient of both families' scales."""
    import torch

    from engine.models.load import load_model
    from lyctui.demo.asset import unpack_base

    with TemporaryDirectory() as folder:
        demo = load_model(unpack_base(Path(folder)))
    vae.load_state_dict(demo.vae.state_dict())  # type: ignore[attr-defined]
    factor = DEMO_SCALE / tiny_families.VAES["sdxl"]["scaling_factor"]
    first, last = vae.quant_conv, vae.post_quant_conv  # type: ignore[attr-defined]
    with torch.no_grad():
        first.weight[:4] *= factor
        first.bias[:4] *= factor
        first.bias[4:] += 2 * math.log(factor)
        last.weight /= factor
