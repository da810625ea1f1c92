"""Stock diffusers pipelines around the same modules: what our models are compared with."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from engine.models.clip_tokenizer import END, FIRST_WORD, clip_tokenizer
from tests.tiny_families import FamilyModules

SEED = 1
"""Of all models that the fixtures write."""


def stock_scheduler(prediction: str = "epsilon") -> Any:
    """DDIM, as both sides of a comparison use it."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        timestep_spacing="trailing",
        prediction_type="v_prediction" if prediction == "v" else "epsilon",
    )


def stock_pipeline(modules: FamilyModules, *, prediction: str = "epsilon") -> Any:
    """The published pipeline of the family; its tokenizers pad as the published ones do."""
    from diffusers import (
        StableDiffusionInpaintPipeline,
        StableDiffusionPipeline,
        StableDiffusionXLPipeline,
    )

    common = {
        "vae": modules.vae,
        "unet": modules.unet,
        "text_encoder": modules.text_encoder,
        "scheduler": stock_scheduler(prediction),
    }
    if modules.family == "sdxl":
        pipeline: Any = StableDiffusionXLPipeline(
            **common,
            text_encoder_2=modules.text_encoder_2,
            tokenizer=clip_tokenizer(END),
            tokenizer_2=clip_tokenizer(FIRST_WORD),
            add_watermarker=False,
        )
    else:
        inpaints = modules.unet.config.in_channels == 9
        cls = StableDiffusionInpaintPipeline if inpaints else StableDiffusionPipeline
        pad = FIRST_WORD if modules.family == "sd2" else END
        pipeline = cls(
            **common,
            tokenizer=clip_tokenizer(pad),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@torch.no_grad()
def painted_by_us(
    model: Any,
    prompt: str,
    negative: str,
    noise_BCHW: Tensor,
    *,
    steps: int,
    guidance: float,
    hole: Any = None,
    sizes_B6: Tensor | None = None,
) -> Tensor:
    """Latents that a plain guided loop makes with the model's own methods."""
    scheduler = stock_scheduler(model.prediction)
    scheduler.set_timesteps(steps)
    conditioning = model.encode_text([negative, prompt])
    if sizes_B6 is not None:
        conditioning = conditioning.sized(sizes_B6)
    latents_BCHW = noise_BCHW
    for timestep in scheduler.timesteps:
        twice_BCHW = torch.cat([latents_BCHW] * 2)
        empty, told = model.predict(twice_BCHW, timestep.expand(2), conditioning, hole).chunk(2)
        guided = empty + guidance * (told - empty)
        latents_BCHW = scheduler.step(guided, timestep, latents_BCHW, return_dict=False)[0]
    return latents_BCHW
