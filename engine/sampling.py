"""Preview pictures: DDIM (Song et al. 2021, arXiv:2010.02502) with trailing timestep spacing.

Shape letters: B samples, C channels, H and W height and width.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from engine.errors import Problem, TrainingError
from engine.prompts import LARGEST_SEED

if TYPE_CHECKING:
    from engine.models.family import BaseModel, Conditioning
    from engine.prompts import Prompt

SAMPLER = "DDIM trailing"
SETTINGS_FIELD = "lyctui"
"""PNG text field with every value as JSON; "parameters" has them the way other programs show them."""


@dataclass(frozen=True, slots=True)
class Shot:
    """One picture with every value settled."""

    prompt: str
    negative: str
    width: int
    height: int
    seed: int
    steps: int
    guidance: float
    clip_skip: int
    sampler: str = SAMPLER


AtTimestep = Callable[[Tensor], None]


def paint(
    model: BaseModel,
    prompts: Sequence[Prompt],
    *,
    steps: int,
    guidance: float,
    width: int,
    height: int,
    seed: int,
    clip_skip: int = 1,
    negative: str = "",
    on_picture: Callable[[int], None] | None = None,
    at_timestep: AtTimestep | None = None,
) -> list[Image.Image]:
    """A picture for each prompt; `on_picture(done)` after each. The n-th has the seed `seed` + n.

    `at_timestep` hears of each timestep before it is predicted, and may raise to break off.

    Each is made alone, so a picture does not depend on its neighbours, and draws only from its own
    generator. A picture's `info` tells how it was made.
    """
    pictures = []
    for index, prompt in enumerate(prompts):
        shot = Shot(
            prompt=prompt.text,
            negative=negative if prompt.negative is None else prompt.negative,
            width=prompt.width or width,
            height=prompt.height or height,
            seed=(seed + index) % (LARGEST_SEED + 1) if prompt.seed is None else prompt.seed,
            steps=prompt.steps or steps,
            guidance=guidance if prompt.guidance is None else prompt.guidance,
            clip_skip=clip_skip,
        )
        pictures.append(paint_one(model, shot, at_timestep))
        if on_picture is not None:
            on_picture(index + 1)
    return pictures


@torch.no_grad()
def paint_one(model: BaseModel, shot: Shot, at_timestep: AtTimestep | None = None) -> Image.Image:
    """One picture."""
    latents_BCHW = sample_latents(model, shot, at_timestep)
    pixels_BCHW = model.decode_latents(latents_BCHW)
    if not bool(torch.isfinite(pixels_BCHW).all()):
        raise TrainingError(
            Problem(
                "The picture is not made of numbers any more.",
                where=shot.prompt,
                remedy="Lower optim.lr, or set train.precision to bf16 or no.",
            )
        )
    picture = to_picture(pixels_BCHW[0])
    picture.info = picture_info(shot)
    return picture


@torch.no_grad()
def sample_latents(model: BaseModel, shot: Shot, at_timestep: AtTimestep | None = None) -> Tensor:
    """Scaled latents of one picture, shape (1, C, H, W)."""
    scheduler = model.scheduler()
    scheduler.set_timesteps(shot.steps)
    generator = torch.Generator().manual_seed(shot.seed)
    shape = model.latent_shape(shot.width, shot.height)
    latents_BCHW: Tensor = torch.randn((1, *shape), generator=generator).to(model.device)
    latents_BCHW = latents_BCHW * scheduler.init_noise_sigma
    guided = shot.guidance > 1
    captions = [shot.negative, shot.prompt] if guided else [shot.prompt]
    conditioning = model.encode_text(captions, shot.clip_skip)
    for timestep in scheduler.timesteps:
        if at_timestep is not None:
            at_timestep(timestep)
        prediction_BCHW = guided_prediction(
            model, latents_BCHW, timestep, conditioning, shot.guidance if guided else None
        )
        latents_BCHW = scheduler.step(prediction_BCHW, timestep, latents_BCHW, return_dict=False)[0]
    return latents_BCHW


def guided_prediction(
    model: BaseModel,
    latents_BCHW: Tensor,
    timestep: Tensor,
    conditioning: Conditioning,
    guidance: float | None,
) -> Tensor:
    """Classifier-free guidance (Ho and Salimans 2022, arXiv:2207.12598); None leaves it out."""
    rows = len(conditioning)
    prediction_BCHW = model.predict(
        latents_BCHW.expand(rows, -1, -1, -1), timestep.expand(rows), conditioning
    )
    if guidance is None:
        return prediction_BCHW
    empty_BCHW, told_BCHW = prediction_BCHW.chunk(2)
    return empty_BCHW + guidance * (told_BCHW - empty_BCHW)


def to_picture(pixels_CHW: Tensor) -> Image.Image:
    """An 8-bit picture of pixels in -1..1."""
    levels_CHW = ((pixels_CHW.float() / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(levels_CHW.permute(1, 2, 0).cpu().numpy())


def picture_info(shot: Shot) -> dict[str | tuple[int, int], str]:
    """Text fields of the picture's file."""
    lines = [shot.prompt]
    if shot.negative:
        lines.append(f"Negative prompt: {shot.negative}")
    lines.append(
        f"Steps: {shot.steps}, Sampler: {shot.sampler}, CFG scale: {shot.guidance:g}, "
        f"Seed: {shot.seed}, Size: {shot.width}x{shot.height}, Clip skip: {shot.clip_skip}"
    )
    settings = json.dumps(asdict(shot), ensure_ascii=False)
    return {"parameters": "\n".join(lines), SETTINGS_FIELD: settings}


def write_picture(folder: Path, picture: Image.Image, *, prompt_index: int, step: int) -> Path:
    """Write `step-000120_0_42.png` (step, prompt, seed), whole or not at all, with its text fields."""
    try:
        seed = int(json.loads(picture.info[SETTINGS_FIELD])["seed"])
    except (KeyError, ValueError, TypeError):
        seed = 0
    fields = PngInfo()
    for name, value in picture.info.items():
        if isinstance(name, str) and isinstance(value, str):
            fields.add_itxt(name, value)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step-{step:06d}_{prompt_index}_{seed}.png"
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            picture.save(file, format="PNG", pnginfo=fields)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return path
