"""Preview pictures: from noise by one of the samplers, with the words and values of a prompt.

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
from engine.models.family import Hole
from engine.prompts import LARGEST_SEED
from engine.samplers import SAMPLERS, build_sampler, prepare

if TYPE_CHECKING:
    from engine.models.family import BaseModel, Conditioning
    from engine.prompts import Prompt
    from engine.sampler_names import SamplerName

WINDOWS = (75, 150, 225)
"""Numbers of tokens that a base reads at once, or in pieces one after the other."""
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
    sampler: SamplerName = "ddim"
    zero_terminal_snr: bool = False
    max_tokens: int = WINDOWS[0]
    """What the base reads of the prompt at least; a longer prompt gets as much as it needs."""


@dataclass(frozen=True, slots=True)
class Defaults:
    """What a prompt does not say for itself. The n-th prompt has the seed `seed` + n."""

    steps: int
    guidance: float
    width: int
    height: int
    seed: int
    clip_skip: int = 1
    negative: str = ""
    sampler: SamplerName = "ddim"
    zero_terminal_snr: bool = False
    max_tokens: int = WINDOWS[0]

    def shots(self, prompts: Sequence[Prompt]) -> list[Shot]:
        """The prompts with every value settled."""
        return [self._shot(prompt, index) for index, prompt in enumerate(prompts)]

    def _shot(self, prompt: Prompt, index: int) -> Shot:
        counted = (self.seed + index) % (LARGEST_SEED + 1)
        return Shot(
            prompt=prompt.text,
            negative=self.negative if prompt.negative is None else prompt.negative,
            width=prompt.width or self.width,
            height=prompt.height or self.height,
            seed=counted if prompt.seed is None else prompt.seed,
            steps=prompt.steps or self.steps,
            guidance=self.guidance if prompt.guidance is None else prompt.guidance,
            clip_skip=self.clip_skip,
            sampler=prompt.sampler or self.sampler,
            zero_terminal_snr=self.zero_terminal_snr,
            max_tokens=self.max_tokens,
        )


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
    sampler: SamplerName = "ddim",
    zero_terminal_snr: bool = False,
    max_tokens: int = WINDOWS[0],
    on_picture: Callable[[int], None] | None = None,
    at_timestep: AtTimestep | None = None,
) -> list[Image.Image]:
    """A picture for each prompt; `on_picture(done)` after each. The n-th has the seed `seed` + n.

    `at_timestep` hears of each timestep before it is predicted, and may raise to break off.

    Each is made alone, so a picture does not depend on its neighbours, and draws only from its own
    generator. A picture's `info` tells how it was made.
    """
    defaults = Defaults(
        steps=steps,
        guidance=guidance,
        width=width,
        height=height,
        seed=seed,
        clip_skip=clip_skip,
        negative=negative,
        sampler=sampler,
        zero_terminal_snr=zero_terminal_snr,
        max_tokens=max_tokens,
    )
    pictures = []
    for number, shot in enumerate(defaults.shots(prompts), start=1):
        pictures.append(paint_one(model, shot, at_timestep))
        if on_picture is not None:
            on_picture(number)
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
    scheduler = build_sampler(
        shot.sampler, prediction=model.prediction, zero_terminal_snr=shot.zero_terminal_snr
    )
    timesteps = prepare(scheduler, shot.steps)
    generator = torch.Generator().manual_seed(shot.seed)
    # The one source of chance: also the samplers that add noise on the way draw from it.
    drawing = {"generator": generator} if SAMPLERS[shot.sampler].draws else {}
    shape = model.latent_shape(shot.width, shot.height)
    latents_BCHW: Tensor = torch.randn((1, *shape), generator=generator).to(model.device)
    latents_BCHW = latents_BCHW * scheduler.init_noise_sigma
    guided = shot.guidance > 1
    conditioning, hole = shot_conditioning(model, shot, guided=guided), whole_hole(model, shot)
    for timestep in timesteps:
        if at_timestep is not None:
            at_timestep(timestep)
        prediction_BCHW = guided_prediction(
            model,
            scheduler.scale_model_input(latents_BCHW, timestep),
            timestep,
            conditioning,
            shot.guidance if guided else None,
            hole,
        )
        latents_BCHW = scheduler.step(
            prediction_BCHW, timestep, latents_BCHW, return_dict=False, **drawing
        )[0]
    return latents_BCHW


def shot_conditioning(model: BaseModel, shot: Shot, *, guided: bool) -> Conditioning:
    """Words and sizes: the negative prompt's row first, then the prompt's; one row without guidance.

    Both are read to the same length, with weights, and as pictures of their own size, uncropped.
    """
    captions = [shot.negative, shot.prompt] if guided else [shot.prompt]
    window = max(shot.max_tokens, needed_window(captions))
    conditioning = model.encode_text(captions, shot.clip_skip, max_tokens=window, weighted=True)
    sizes = (shot.height, shot.width, 0, 0, shot.height, shot.width)
    sizes_B6 = torch.tensor([sizes] * len(captions), dtype=torch.float32, device=model.device)
    return conditioning.sized(sizes_B6)


def needed_window(captions: Sequence[str]) -> int:
    """75, 150 or 225: the least that holds the longest of some prompts; what is beyond 225 is cut."""
    from engine.models.clip_tokenizer import clip_tokenizer
    from engine.models.weighted_text import parse_weighted

    plain = ["".join(part for part, _ in parse_weighted(caption)) for caption in captions]
    ids = clip_tokenizer()(plain, add_special_tokens=False, verbose=False).input_ids
    longest = max(len(each) for each in ids)
    return next((window for window in WINDOWS if longest <= window), WINDOWS[-1])


def whole_hole(model: BaseModel, shot: Shot) -> Hole | None:
    """For a base that inpaints: a hole as large as the picture; None for all others."""
    if not model.inpaints:
        return None
    blank_BCHW = torch.zeros(1, 3, shot.height, shot.width, device=model.device)
    mean_BCHW, _ = model.encode_images(blank_BCHW)
    latents_BCHW = mean_BCHW * model.latent_scale
    return Hole(torch.ones_like(latents_BCHW[:, :1]), latents_BCHW)


def guided_prediction(
    model: BaseModel,
    latents_BCHW: Tensor,
    timestep: Tensor,
    conditioning: Conditioning,
    guidance: float | None,
    hole: Hole | None = None,
) -> Tensor:
    """Classifier-free guidance (Ho and Salimans 2022, arXiv:2207.12598); None leaves it out."""
    rows = len(conditioning)
    prediction_BCHW = model.predict(
        latents_BCHW.expand(rows, -1, -1, -1), timestep.expand(rows), conditioning, hole
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
    schedule = ", Noise Schedule: Zero Terminal SNR" if shot.zero_terminal_snr else ""
    lines.append(
        f"Steps: {shot.steps}, Sampler: {SAMPLERS[shot.sampler].words}, "
        f"CFG scale: {shot.guidance:g}, Seed: {shot.seed}, Size: {shot.width}x{shot.height}, "
        f"Clip skip: {shot.clip_skip}{schedule}"
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
