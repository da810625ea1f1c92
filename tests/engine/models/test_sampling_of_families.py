"""The preview sampler on every family paints what the family's own pipeline paints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from engine.models.load import load_model
from engine.sampling import Shot, sample_latents
from tests.engine.models.stock import SEED, stock_pipeline
from tests.tiny_families import family_modules, write_tiny

SHOT = Shot("a red circle", "blurry", 96, 64, seed=5, steps=3, guidance=5.0, clip_skip=1)
SIZE = {"height": SHOT.height, "width": SHOT.width}


def theirs(pipeline: Any, **more: Any) -> torch.Tensor:
    found: torch.Tensor = pipeline(
        SHOT.prompt,
        negative_prompt=SHOT.negative,
        num_inference_steps=SHOT.steps,
        guidance_scale=SHOT.guidance,
        generator=torch.Generator().manual_seed(SHOT.seed),
        output_type="latent",
        **SIZE,
        **more,
    ).images
    return found


@pytest.mark.parametrize("family", ["sd2", "sdxl"])
@torch.no_grad()
def test_latents_equal_those_of_the_familys_pipeline(
    family: Any, family_models: Any, family_originals: Any
) -> None:
    """For SDXL also the sizes: those of the picture that is asked for, not of the base."""
    expected = theirs(stock_pipeline(family_originals[family]))
    found = sample_latents(family_models[family], SHOT)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_an_inpainting_base_gets_a_hole_as_large_as_the_picture(tmp_path: Path) -> None:
    model = load_model(write_tiny(tmp_path / "i.safetensors", "sd1", seed=SEED, in_channels=9))
    pipeline = stock_pipeline(family_modules("sd1", SEED, in_channels=9))
    blank = Image.new("RGB", (SHOT.width, SHOT.height))
    whole = Image.new("L", blank.size, 255)
    # The mean stands for the encoded picture here; the pipeline would draw around it.
    mean, _ = model.encode_images(torch.zeros(1, 3, SHOT.height, SHOT.width))
    pipeline._encode_vae_image = lambda image, generator: mean * model.latent_scale
    expected = theirs(pipeline, image=blank, mask_image=whole, strength=1.0)
    torch.testing.assert_close(sample_latents(model, SHOT), expected, rtol=1e-4, atol=1e-4)
