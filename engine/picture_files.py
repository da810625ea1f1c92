"""Pictures that were sampled, as files: with text fields that say how they were made.

Shape letters: C channels, H and W height and width.
"""

from __future__ import annotations

import io
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from engine.checkpoint.atomic import write_whole
from engine.samplers import SAMPLERS

if TYPE_CHECKING:
    from engine.sampling import Shot

SETTINGS_FIELD = "lyctui"
"""PNG text field with every value as JSON; "parameters" has them the way other programs show them."""
NOTE_FIELD = "note"
"""PNG text field that says what was unusual about making the picture."""


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
    body = io.BytesIO()
    picture.save(body, format="PNG", pnginfo=fields)
    write_whole(path, body.getvalue())
    return path
