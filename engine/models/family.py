"""What the rest of the engine sees of a base model, whatever its family.

Shape letters: B samples, T tokens, D width, C channels, H and W height and width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from engine.models.detect import ModelFacts, Prediction

SIZES = 6
"""Original height and width, crop top and left, target height and width."""
Attention = Literal["sdpa", "xformers", "math"]


@dataclass(frozen=True, slots=True)
class Conditioning:
    """What a text encoder gives: a row for each caption."""

    text_BTD: Tensor
    pooled_BD: Tensor | None = None
    """One vector for the whole caption, where the family has one."""
    sizes_B6: Tensor | None = None
    """Original height and width, crop top and left, target height and width in pixels, in fp32.

    Of the picture, not of the caption: `sized` adds it, and it is never stored with a caption.
    """

    def __len__(self) -> int:
        return len(self.text_BTD)

    def __getitem__(self, rows: int | slice | Sequence[int]) -> Conditioning:
        index: Any = slice(rows, rows + 1 or None) if isinstance(rows, int) else rows
        return self._each(lambda tensor: tensor[index])

    def sized(self, sizes_B6: Tensor) -> Conditioning:
        """A copy that also tells the sizes of the pictures; families without that condition ignore it.

        Raises ValueError where there are not six numbers a row.
        """
        if tuple(sizes_B6.shape) != (len(self), SIZES):
            told = tuple(sizes_B6.shape)
            raise ValueError(f"sizes are of shape {told}, not {(len(self), SIZES)}")
        return replace(self, sizes_B6=sizes_B6.to(self.text_BTD.device, torch.float32))

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Conditioning:
        """The same on another device or in another number format; sizes stay fp32, they are pixels."""
        moved = self._each(lambda tensor: tensor.to(device=device))
        pooled_BD = moved.pooled_BD
        return replace(
            moved,
            text_BTD=moved.text_BTD.to(dtype=dtype),
            pooled_BD=None if pooled_BD is None else pooled_BD.to(dtype=dtype),
        )

    def cpu(self) -> Conditioning:
        """The same on the host, without gradients."""
        return self.detach().to("cpu")

    def detach(self) -> Conditioning:
        """The same without gradients."""
        return self._each(torch.Tensor.detach)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Conditioning:
        return Conditioning(
            change(self.text_BTD),
            None if self.pooled_BD is None else change(self.pooled_BD),
            None if self.sizes_B6 is None else change(self.sizes_B6),
        )

    @staticmethod
    def cat(parts: Sequence[Conditioning]) -> Conditioning:
        """All rows of several, in their order; what only some of them have is left out."""
        pooled = [part.pooled_BD for part in parts if part.pooled_BD is not None]
        sizes = [part.sizes_B6 for part in parts if part.sizes_B6 is not None]
        return Conditioning(
            torch.cat([part.text_BTD for part in parts]),
            torch.cat(pooled) if len(pooled) == len(parts) else None,
            torch.cat(sizes) if len(sizes) == len(parts) else None,
        )

    def tensors(self) -> dict[str, Tensor]:
        """As named tensors, to be stored with the caption: without the sizes."""
        named = {"text": self.text_BTD}
        return named if self.pooled_BD is None else {**named, "pooled": self.pooled_BD}

    @staticmethod
    def from_tensors(tensors: dict[str, Tensor]) -> Conditioning:
        """The inverse of `tensors`."""
        return Conditioning(tensors["text"], tensors.get("pooled"))


@dataclass(frozen=True, slots=True)
class Hole:
    """What an inpainting base sees besides the noisy latents; one row serves a whole batch."""

    mask_B1HW: Tensor
    """1 where it is to be painted, at the latents' size."""
    latents_BCHW: Tensor
    """Scaled latents of the picture with the hole blanked (pixels 0 in -1..1)."""

    def rows(self, count: int) -> Hole:
        """The same for `count` rows, where it has one."""
        return Hole(
            self.mask_B1HW.expand(count, -1, -1, -1), self.latents_BCHW.expand(count, -1, -1, -1)
        )


class BaseModel(Protocol):
    """A frozen base model. All parts stay in evaluation mode, so its own dropout never acts."""

    family: str
    prediction: Prediction
    prediction_source: str
    inpaints: bool
    """Whether `predict` needs a `Hole`: the U-Net has 9 input channels."""
    facts: ModelFacts
    native_resolution: int
    latent_scale: float
    dtype: torch.dtype
    alphas_cumprod: Tensor
    """In fp64, shape (1000,)."""

    @property
    def modelspec(self) -> str:
        """Architecture as modelspec metadata names it, without "/lora"."""
        ...

    @property
    def base_version(self) -> str:
        """The family as kohya's metadata names it."""
        ...

    @property
    def device(self) -> torch.device: ...

    @property
    def sha256(self) -> str:
        """Of the file, or of all weight files of a folder; computed when first asked for."""
        ...

    @property
    def vae_hash(self) -> str:
        """Of the VAE's tensors."""
        ...

    @property
    def te_hash(self) -> str:
        """Of all text encoders' tensors in the number format they run in."""
        ...

    def components(self) -> dict[str, nn.Module]:
        """Parts that a network may change, by the names of `LayerShape.component`.

        "unet" and "te"; "te2" too where there are two text encoders.
        """
        ...

    def encode_images(self, pixels_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the latents of pixels in -1..1, unscaled."""
        ...

    def decode_latents(self, latents_BCHW: Tensor, tile: int | None = None) -> Tensor:
        """Pixels in -1..1 of scaled latents.

        With `tile`, in overlapping tiles of so many latent pixels a side: they need less memory, and
        the picture differs a little.
        """
        ...

    def encode_text(
        self,
        captions: Sequence[str],
        clip_skip: int = 1,
        *,
        max_tokens: int = 75,
        weighted: bool = False,
    ) -> Conditioning:
        """Conditioning of captions, with gradients where a text encoder is trained.

        `max_tokens` is 75, 150 or 225, read in pieces of 75; what is longer is cut. `weighted` reads
        "(word:1.3)", "(word)" and "[word]" as weights.
        """
        ...

    def predict(
        self,
        noisy_BCHW: Tensor,
        timesteps_B: Tensor,
        conditioning: Conditioning,
        hole: Hole | None = None,
    ) -> Tensor:
        """What the network predicts (noise or velocity), in fp32; `hole` where the base inpaints.

        Raises ValueError where the base inpaints and gets no hole, or does not and gets one.
        """
        ...

    def latent_shape(self, width: int, height: int) -> tuple[int, int, int]:
        """Channels, height and width of the latents of a picture."""
        ...

    def set_checkpointing(self, on: bool, train_te: bool = False) -> None:
        """Compute activations twice instead of keeping them; touches no dropout."""
        ...

    def set_attention(self, kind: Attention) -> None:
        """How the U-Net's attention is computed; EnvironmentFault where xformers is not installed."""
        ...

    def park(self, *parts: str) -> None:
        """Move parts ("unet", "vae", "te": all text encoders) to the host until they are used again."""
        ...

    def to(self, device: torch.device | str) -> None:
        """Move all parts."""
        ...
