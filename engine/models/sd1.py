"""Stable Diffusion 1 (Rombach et al. 2022, arXiv:2112.10752): CLIP-L, 12 layers, 768 wide."""

from __future__ import annotations

from engine.models.stable_diffusion import StableDiffusion


class Sd1(StableDiffusion):
    """A frozen Stable Diffusion 1 model."""

    family = "sd1"

    @property
    def modelspec(self) -> str:
        """Architecture as modelspec metadata names it, without "/lora"."""
        return "stable-diffusion-v1"

    @property
    def base_version(self) -> str:
        """The family as kohya's metadata names it."""
        return "sd_v1" if self.prediction == "epsilon" else "sd_v1_v"
