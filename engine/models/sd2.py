"""Stable Diffusion 2: OpenCLIP-H, of whose 24 layers the last is never read, 1024 wide.

The 512 models predict the noise, the 768 models the velocity; nothing but that tells them apart.
"""

from __future__ import annotations

from engine.models.clip_tokenizer import FIRST_WORD
from engine.models.stable_diffusion import StableDiffusion


class Sd2(StableDiffusion):
    """A frozen Stable Diffusion 2 model."""

    family = "sd2"
    pad_token = FIRST_WORD

    @property
    def modelspec(self) -> str:
        """Architecture as modelspec metadata names it, without "/lora"."""
        kind = "512" if self.prediction == "epsilon" else "768-v"
        return f"stable-diffusion-v2-{kind}"

    @property
    def base_version(self) -> str:
        """The family as kohya's metadata names it."""
        return "sd_v2" if self.prediction == "epsilon" else "sd_v2_v"
