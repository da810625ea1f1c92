"""What the Stable Diffusion families have in common: a U-Net that reads CLIP's text, an 8x VAE.

One class for each family derives from this (sd1.py, sd2.py, sdxl.py); only what differs is there.

Shape letters: B samples, T tokens, D width, C channels, H and W height and width.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from engine.models.attention import set_unet_attention
from engine.models.clip_tokenizer import END, clip_tokenizer
from engine.models.detect import ModelFacts, Prediction
from engine.models.family import Attention, Conditioning, Hole
from engine.models.folder import weight_files
from engine.models.hashes import file_hash, tensors_hash
from engine.models.recognise import INPAINTING_CHANNELS, TEXT_PARTS
from engine.models.text import (
    CHUNK,
    apply_weights,
    clip_layers,
    in_chunks,
    join_chunks,
    tokenize,
)

COMPONENTS = ("te", "te2")
"""Names of the text encoders as parts of a network."""
BETA_START, BETA_END, TIMESTEPS = 0.00085, 0.012, 1000


@dataclass(frozen=True, slots=True)
class Parts:
    """The modules of a base model, as their libraries build them."""

    unet: Any
    vae: Any
    text_encoder: Any
    text_encoder_2: Any = None
    """Where the family has a second one."""


class StableDiffusion(ABC):
    """A frozen base model; the parts stay in evaluation mode whatever is trained."""

    family: str
    pad_token: ClassVar[str] = END
    """What the tokenizer of the first text encoder fills captions up with."""

    def __init__(
        self,
        parts: Parts,
        *,
        facts: ModelFacts,
        prediction: Prediction,
        prediction_source: str,
        dtype: torch.dtype,
    ) -> None:
        self.unet = parts.unet
        self.vae = parts.vae
        self.text_encoder = parts.text_encoder
        self.text_encoder_2 = parts.text_encoder_2
        self.tokenizer = clip_tokenizer(self.pad_token)
        self.facts = facts
        self.prediction: Prediction = prediction
        self.prediction_source = prediction_source
        self.dtype = dtype
        self.latent_scale = float(parts.vae.config.scaling_factor)
        self.alphas_cumprod = alphas_cumprod()
        self.inpaints = int(parts.unet.config.in_channels) == INPAINTING_CHANNELS
        assert facts.architecture is not None, "only a file whose structure is known is loaded"
        self.native_resolution = facts.architecture.native_resolution
        self._text_encoders: tuple[Any, ...] = tuple(
            encoder for encoder in (parts.text_encoder, parts.text_encoder_2) if encoder is not None
        )
        # Named now: a network that is injected later must not change the hash.
        self._te_tensors = _text_tensors(self._text_encoders)
        self._device = torch.device("cpu")

    # What it is ---------------------------------------------------------------------------

    @property
    @abstractmethod
    def modelspec(self) -> str:
        """Architecture as modelspec metadata names it, without "/lora"."""

    @property
    @abstractmethod
    def base_version(self) -> str:
        """The family as kohya's metadata names it."""

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
        parts = ("unet", "vae", *TEXT_PARTS[self.family])
        return file_hash(tuple(f for part in parts for f in weight_files(path / part, part)))

    @cached_property
    def vae_hash(self) -> str:
        """Of the VAE's tensors."""
        return tensors_hash(self.vae.state_dict())

    @cached_property
    def te_hash(self) -> str:
        """Of all text encoders' tensors in the number format they run in."""
        return tensors_hash(self._te_tensors)

    def components(self) -> dict[str, nn.Module]:
        """Parts that a network may change."""
        return {"unet": self.unet, **dict(zip(COMPONENTS, self._text_encoders, strict=False))}

    # What it does -------------------------------------------------------------------------

    def encode_images(self, pixels_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the latents of pixels in -1..1, unscaled, in fp32."""
        pixels_BCHW = pixels_BCHW.to(self._placed(self.vae), torch.float32)
        with torch.no_grad(), self._full_precision():
            distribution = self.vae.encode(pixels_BCHW).latent_dist
        return distribution.mean, distribution.std

    def decode_latents(self, latents_BCHW: Tensor, tile: int | None = None) -> Tensor:
        """Pixels in -1..1 of scaled latents, in fp32; in one piece, or in tiles of that side."""
        latents_BCHW = latents_BCHW.to(self._placed(self.vae), torch.float32) / self.latent_scale
        with torch.no_grad(), self._full_precision(), _tiles(self.vae, tile):
            pixels_BCHW: Tensor = self.vae.decode(latents_BCHW, return_dict=False)[0]
        return pixels_BCHW

    def encode_text(
        self,
        captions: Sequence[str],
        clip_skip: int = 1,
        *,
        max_tokens: int = CHUNK,
        weighted: bool = False,
    ) -> Conditioning:
        """Hidden states of the n-th layer from the end, then the final norm, chunk by chunk."""
        chunks = tokenize(self.tokenizer, captions, max_tokens=max_tokens, weighted=weighted)
        device = self._placed(self.text_encoder)
        with self._autocast():
            hidden_BNTD = in_chunks(
                lambda ids_BT: self._hidden(ids_BT, clip_skip), chunks.ids_BNT.to(device)
            )
        return Conditioning(apply_weights(join_chunks(hidden_BNTD), chunks.weights_BT))

    def _hidden(self, ids_BT: Tensor, clip_skip: int) -> Tensor:
        if clip_skip == 1:
            last_BTD: Tensor = self.text_encoder(ids_BT).last_hidden_state
            return last_BTD
        hidden = self.text_encoder(ids_BT, output_hidden_states=True).hidden_states
        normed_BTD: Tensor = self.text_encoder.final_layer_norm(hidden[-clip_skip])
        return normed_BTD

    def predict(
        self,
        noisy_BCHW: Tensor,
        timesteps_B: Tensor,
        conditioning: Conditioning,
        hole: Hole | None = None,
    ) -> Tensor:
        """What the U-Net predicts (noise or velocity), in fp32; `hole` where the base inpaints."""
        device = self._placed(self.unet)
        with self._autocast():
            output_BCHW: Tensor = self.unet(
                self._unet_input(noisy_BCHW, hole).to(device, self.dtype),
                timesteps_B.to(device),
                conditioning.text_BTD.to(device, self.dtype),
                added_cond_kwargs=self._added(conditioning, len(noisy_BCHW), device),
                return_dict=False,
            )[0]
        return output_BCHW.float()

    def _unet_input(self, noisy_BCHW: Tensor, hole: Hole | None) -> Tensor:
        """Noisy latents; of an inpainting base with mask and masked latents behind them."""
        if self.inpaints != (hole is not None):
            needed = "needs a hole" if self.inpaints else "does not inpaint"
            raise ValueError(f"the base {needed}")
        if hole is None:
            return noisy_BCHW
        rows = hole.rows(len(noisy_BCHW))
        extra = [part.to(noisy_BCHW) for part in (rows.mask_B1HW, rows.latents_BCHW)]
        return torch.cat([noisy_BCHW, *extra], dim=1)

    def _added(
        self, conditioning: Conditioning, rows: int, device: torch.device
    ) -> dict[str, Tensor] | None:
        """Conditions of the U-Net beside the text, where the family has some."""
        return None

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
        for encoder in self._text_encoders:
            for layer in clip_layers(encoder):
                layer.gradient_checkpointing = layer.training = on and train_te
                layer._gradient_checkpointing_func = again

    def set_attention(self, kind: Attention) -> None:
        """How attention is computed; EnvironmentFault where xformers is not installed.

        The text encoders use torch's own attention, or the plain formula with "math".
        """
        set_unet_attention(self.unet, kind)
        for encoder in self._text_encoders:
            encoder.set_attn_implementation("eager" if kind == "math" else "sdpa")

    def park(self, *parts: str) -> None:
        """Move parts ("unet", "vae", "te": all text encoders) to the host until they are used again."""
        for name in parts:
            for module in self._parts()[name]:
                module.to("cpu")

    def to(self, device: torch.device | str) -> None:
        """Move all parts."""
        self._device = torch.device(device)
        for modules in self._parts().values():
            for module in modules:
                module.to(self._device)

    def _parts(self) -> Mapping[str, tuple[Any, ...]]:
        return {"unet": (self.unet,), "vae": (self.vae,), "te": self._text_encoders}

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


def _text_tensors(encoders: tuple[Any, ...]) -> dict[str, Tensor]:
    """Tensors of the text encoders; those of a second one under a name of its own."""
    first, *others = (dict(encoder.state_dict()) for encoder in encoders)
    second = {f"{COMPONENTS[1]}.{name}": tensor for own in others for name, tensor in own.items()}
    return first | second


@contextlib.contextmanager
def _tiles(vae: Any, side: int | None) -> Iterator[None]:
    """Decoding in overlapping tiles of `side` x `side` latent pixels; None leaves the VAE as it is."""
    if side is None:
        yield
        return
    before = vae.use_tiling, vae.tile_latent_min_size, vae.tile_sample_min_size
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    vae.use_tiling, vae.tile_latent_min_size, vae.tile_sample_min_size = True, side, side * factor
    try:
        yield
    finally:
        vae.use_tiling, vae.tile_latent_min_size, vae.tile_sample_min_size = before


def alphas_cumprod() -> Tensor:
    """Cumulative alphas of the scaled-linear schedule (Rombach et al. 2022), in fp64."""
    betas_S = torch.linspace(BETA_START**0.5, BETA_END**0.5, TIMESTEPS, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas_S, dim=0)
