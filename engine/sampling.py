"""Preview pictures: from noise by one of the samplers, with the words and values of a prompt.

Shape letters: B samples, C channels, H and W height and width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from engine.errors import Problem, TrainingError
from engine.memory import free_memory, in_words, is_out_of_memory, tried_again
from engine.models.family import Hole
from engine.picture_files import NOTE_FIELD, picture_info, to_picture
from engine.prompts import LARGEST_SEED
from engine.samplers import SAMPLERS, build_sampler, prepare

if TYPE_CHECKING:
    from PIL import Image

    from engine.models.family import BaseModel, Conditioning
    from engine.prompts import Prompt
    from engine.sampler_names import SamplerName

WINDOWS = (75, 150, 225)
"""Numbers of tokens that a base reads at once, or in pieces one after the other."""
TILES = (64, 32)
"""Sides in latent pixels of the tiles that a picture is decoded in where it does not fit whole."""
TILED = (
    "Decoded in tiles of {side} x {side} for want of memory: it differs a little from a picture that "
    "is decoded in one piece."
)


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
    spare: Sequence[str] = (),
) -> list[Image.Image]:
    """A picture for each prompt; `on_picture(done)` after each. The n-th has the seed `seed` + n.

    `at_timestep` hears of each timestep before it is predicted, and may raise to break off.

    Each is made alone, so a picture does not depend on its neighbours, and draws only from its own
    generator. A picture's `info` tells how it was made. `spare` and the errors are those of
    `paint_one`.
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
        pictures.append(paint_one(model, shot, at_timestep, spare=spare))
        if on_picture is not None:
            on_picture(number)
    return pictures


@torch.no_grad()
def paint_one(
    model: BaseModel,
    shot: Shot,
    at_timestep: AtTimestep | None = None,
    *,
    spare: Sequence[str] = (),
) -> Image.Image:
    """One picture.

    What runs out of memory is tried again, with the `spare` parts of the base on the host while they
    are not needed. What still cannot be decoded in one piece is decoded in tiles, and says so in its
    `info`. Raises OutOfMemory where nothing helps, and TrainingError for what is no picture.
    """
    problem = Problem(
        f"There is not enough memory for {shot.width} x {shot.height}.",
        remedy="Make the picture smaller (sample.width, sample.height), or close other programs.",
    )
    put_away: list[str] = []

    def make_room() -> None:
        put_away[:] = spare
        model.park(*spare)

    latents_BCHW = in_words(
        lambda: tried_again(
            lambda: sample_latents(model, shot, at_timestep, put_away=put_away), make_room
        ),
        problem,
    )
    pixels_BCHW, tile = in_words(lambda: _decoded(model, latents_BCHW, make_room), problem)
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
    if tile is not None:
        picture.info[NOTE_FIELD] = TILED.format(side=tile * shot.height // latents_BCHW.shape[2])
    return picture


def _decoded(
    model: BaseModel, latents_BCHW: Tensor, make_room: Callable[[], None]
) -> tuple[Tensor, int | None]:
    """Pixels, and the side of the tiles where the picture did not fit in one piece, twice tried."""
    longest = max(latents_BCHW.shape[2:])
    ways = [None, *(side for side in TILES if side < longest)]
    for side in ways:
        try:
            if side is None:
                return tried_again(lambda: model.decode_latents(latents_BCHW), make_room), None
            return model.decode_latents(latents_BCHW, side), side
        except Exception as error:
            if side == ways[-1] or not is_out_of_memory(error):
                raise
        free_memory()
    raise AssertionError("the last way gives pixels or raises")


@torch.no_grad()
def sample_latents(
    model: BaseModel,
    shot: Shot,
    at_timestep: AtTimestep | None = None,
    *,
    put_away: Sequence[str] = (),
) -> Tensor:
    """Scaled latents of one picture, shape (1, C, H, W).

    The parts `put_away` go to the host once the words are read.
    """
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
    model.park(*put_away)
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
