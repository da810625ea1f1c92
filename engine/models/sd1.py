"""Stable Diffusion 1: a U-Net conditioned by CLIP-L, an 8x VAE with 4 channels.

Shape letters: B samples, T tokens, D width, C channels, H and W height and width.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from engine.models.architecture import CONFIGS_PATH
from engine.models.clip_tokenizer import MAX_TOKENS, clip_tokenizer
from engine.models.detect import ModelFacts, Prediction
from engine.models.family import Conditioning
from engine.models.folder import read_config, weight_files
from engine.models.hashes import file_hash, tensors_hash

BETA_START, BETA_END, TIMESTEPS = 0.00085, 0.012, 1000


class Sd1:
    """A frozen Stable Diffusion 1 model; the parts stay in evaluation mode whatever is trained."""

    family = "sd1"

    def __init__(
        self,
        unet: Any,
        vae: Any,
        text_encoder: Any,
        *,
        facts: ModelFacts,
        prediction: Prediction,
        prediction_source: str,
        dtype: torch.dtype,
    ) -> None:
        self.unet = unet
        self.vae = vae
        self.text_encoder = text_encoder
        self.tokenizer = clip_tokenizer()
        self.facts = facts
        self.prediction: Prediction = prediction
        self.prediction_source = prediction_source
        self.dtype = dtype
        self.latent_scale = float(vae.config.scaling_factor)
        self.alphas_cumprod = alphas_cumprod()
        assert facts.architecture is not None, "only a file whose structure is known is loaded"
        self.native_resolution = facts.architecture.native_resolution
        # Named now: a network that is injected later must not change the hash.
        self._te_tensors = dict(text_encoder.state_dict())
        self._device = torch.device("cpu")

    # What it is ---------------------------------------------------------------------------

    modelspec = "stable-diffusion-v1"

    @property
    def base_version(self) -> str:
        """The family as kohya's metadata names it."""
        return "sd_v1" if self.prediction == "epsilon" else "sd_v1_v"

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self._device

    @cached_property
    def sha256(self) -> str:
        """Of the file, or of all weight files of a folder."""
        path = self.facts.path
        if self.facts.layout != "folder":
            return file_hash((path,))
        parts = ("unet", "vae", "text_encoder")
        return file_hash(tuple(f for part in parts for f in weight_files(path / part, part)))

    @cached_property
    def vae_hash(self) -> str:
        """Of the VAE's tensors."""
        return tensors_hash(self.vae.state_dict())

    @cached_property
    def te_hash(self) -> str:
        """Of the text encoder's tensors in the number format it runs in."""
        return tensors_hash(self._te_tensors)

    def components(self) -> dict[str, nn.Module]:
        """Parts that a network may change."""
        return {"unet": self.unet, "te": self.text_encoder}

    # What it does -------------------------------------------------------------------------

    def encode_images(self, pixels_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the latents of pixels in -1..1, unscaled, in fp32."""
        pixels_BCHW = pixels_BCHW.to(self._placed(self.vae), torch.float32)
        with torch.no_grad(), self._full_precision():
            distribution = self.vae.encode(pixels_BCHW).latent_dist
        return distribution.mean, distribution.std

    def decode_latents(self, latents_BCHW: Tensor) -> Tensor:
        """Pixels in -1..1 of scaled latents, in fp32; in tiles where memory is short."""
        latents_BCHW = latents_BCHW.to(self._placed(self.vae), torch.float32) / self.latent_scale
        with torch.no_grad(), self._full_precision():
            try:
                return _decoded(self.vae, latents_BCHW)
            except torch.OutOfMemoryError:
                torch.cuda.empty_cache()
            self.vae.enable_tiling()
            try:
                return _decoded(self.vae, latents_BCHW)
            finally:
                self.vae.disable_tiling()

    def encode_text(self, captions: Sequence[str], clip_skip: int = 1) -> Conditioning:
        """Hidden states of the n-th layer from the end, then the final norm; 75 tokens, then cut."""
        device = self._placed(self.text_encoder)
        tokens_BT = self.tokenizer(
            list(captions),
            padding="max_length",
            max_length=MAX_TOKENS,
            truncation=True,
            return_tensors="pt",
        ).input_ids.to(device)
        with self._autocast():
            if clip_skip == 1:
                hidden_BTD = self.text_encoder(tokens_BT).last_hidden_state
            else:
                hidden = self.text_encoder(tokens_BT, output_hidden_states=True).hidden_states
                hidden_BTD = self.text_encoder.final_layer_norm(hidden[-clip_skip])
        return Conditioning(hidden_BTD)

    def predict(
        self, noisy_BCHW: Tensor, timesteps_B: Tensor, conditioning: Conditioning
    ) -> Tensor:
        """What the U-Net predicts (noise or velocity), in fp32."""
        device = self._placed(self.unet)
        text_BTD = conditioning.text_BTD.to(device, self.dtype)
        noisy_BCHW = noisy_BCHW.to(device, self.dtype)
        with self._autocast():
            output_BCHW: Tensor = self.unet(
                noisy_BCHW, timesteps_B.to(device), text_BTD, return_dict=False
            )[0]
        return output_BCHW.float()

    def scheduler(self) -> Any:
        """A fresh DDIM scheduler with trailing spacing, for this model's prediction type."""
        from diffusers import DDIMScheduler

        config = read_config(CONFIGS_PATH / self.family / "scheduler" / "scheduler_config.json")
        word = "v_prediction" if self.prediction == "v" else "epsilon"
        return DDIMScheduler.from_config(config | {"prediction_type": word})

    def latent_shape(self, width: int, height: int) -> tuple[int, int, int]:
        """Channels, height and width of the latents of a picture."""
        factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        return int(self.vae.config.latent_channels), height // factor, width // factor

    # How it runs --------------------------------------------------------------------------

    def set_checkpointing(self, on: bool, train_te: bool = False) -> None:
        """Compute activations twice instead of keeping them; touches no dropout.

        transformers looks at a layer's own `training` flag, so that alone is set: the modules inside,
        which hold the dropouts, stay in evaluation mode.
        """
        again = partial(checkpoint, use_reentrant=False, preserve_rng_state=False)
        if on:
            self.unet.enable_gradient_checkpointing(again)
        else:
            self.unet.disable_gradient_checkpointing()
        for layer in self.text_encoder.encoder.layers:
            layer.gradient_checkpointing = layer.training = on and train_te
            layer._gradient_checkpointing_func = again

    def park(self, *parts: str) -> None:
        """Move parts ("vae", "te") to the host until they are used again."""
        for name in parts:
            self._parts()[name].to("cpu")

    def to(self, device: torch.device | str) -> None:
        """Move all parts."""
        self._device = torch.device(device)
        for part in self._parts().values():
            part.to(self._device)

    def _parts(self) -> Mapping[str, Any]:
        return {"unet": self.unet, "vae": self.vae, "te": self.text_encoder}

    def _placed(self, part: Any) -> torch.device:
        if next(part.parameters()).device != self._device:
            part.to(self._device)
        return self._device

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Networks hold fp32 weights, so a base in half precision needs it in sampling too."""
        if self.dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self._device.type, self.dtype)

    def _full_precision(self) -> contextlib.AbstractContextManager[Any]:
        return torch.autocast(self._device.type, enabled=False)


def _decoded(vae: Any, latents_BCHW: Tensor) -> Tensor:
    pixels_BCHW: Tensor = vae.decode(latents_BCHW, return_dict=False)[0]
    return pixels_BCHW


def alphas_cumprod() -> Tensor:
    """Cumulative alphas of the scaled-linear schedule (Rombach et al. 2022), in fp64."""
    betas_S = torch.linspace(BETA_START**0.5, BETA_END**0.5, TIMESTEPS, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas_S, dim=0)
