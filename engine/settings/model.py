"""The base model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Le, MultipleOf

from engine.settings.ask import Ask, Section


class Model(Section):
    """Which base model is trained on, and how it is read."""

    path: Annotated[
        Path | None, Ask("Base model", flag="--model", kind="file", blank="to be chosen")
    ] = None
    """A single .safetensors or .ckpt file, or a diffusers folder."""
    family: Annotated[Literal["auto", "sd1", "sd2", "sdxl"], Ask("Family", "expert")] = "auto"
    """Model family; found in the tensors. A contradiction is refused."""
    prediction: Annotated[Literal["auto", "epsilon", "v"], Ask("Prediction type", "advanced")] = (
        "auto"
    )
    """What the network predicts: the noise (epsilon) or the velocity (v)."""
    vae: Annotated[
        Path | None, Ask("VAE", "advanced", kind="file", blank="the checkpoint's own")
    ] = None
    """Another VAE file or folder of the same family."""
    prompt_style: Annotated[Literal["natural", "danbooru", "e621"], Ask("Prompt style")] = "natural"
    """How captions and prompts are written for this base: sentences, Danbooru tags or e621 tags."""
    clip_skip: Annotated[
        int | None, Ge(1), Le(12), Ask("Clip skip", "advanced", blank="from the prompt style")
    ] = None
    """Which text-encoder layer from the end is read: 1 is the last, anime bases use 2."""
    max_tokens: Annotated[
        int, Ge(75), Le(225), MultipleOf(75), Ask("Longest caption", "advanced", unit="tokens")
    ] = 75
    """Tokens of a caption that are read; longer ones are encoded in pieces of 75."""
    weighted_prompts: Annotated[bool, Ask("Weights in captions", "advanced")] = False
    """Read (word:1.3) and [word] in captions as weights; in preview prompts they always count."""
