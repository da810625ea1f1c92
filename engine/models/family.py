"""What the rest of the engine sees of a base model, whatever its family.

Shape letters: B samples, T tokens, D width, C channels, H and W height and width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from engine.models.detect import ModelFacts, Prediction


@dataclass(frozen=True, slots=True)
class Conditioning:
    """What a text encoder gives: a row for each caption."""

    text_BTD: Tensor
    pooled_BD: Tensor | None = None
    """One vector for the whole caption, where the family has one."""

    def __len__(self) -> int:
        return len(self.text_BTD)

    def __getitem__(self, rows: int | slice | Sequence[int]) -> Conditioning:
        index: Any = slice(rows, rows + 1 or None) if isinstance(rows, int) else rows
        return Conditioning(
            self.text_BTD[index], None if self.pooled_BD is None else self.pooled_BD[index]
        )

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Conditioning:
        """The same on another device or in another number format."""
        return Conditioning(
            self.text_BTD.to(device=device, dtype=dtype),
            None if self.pooled_BD is None else self.pooled_BD.to(device=device, dtype=dtype),
        )

    def cpu(self) -> Conditioning:
        """The same on the host, without gradients."""
        return self.detach().to("cpu")

    def detach(self) -> Conditioning:
        """The same without gradients."""
        return Conditioning(
            self.text_BTD.detach(), None if self.pooled_BD is None else self.pooled_BD.detach()
        )

    @staticmethod
    def cat(parts: Sequence[Conditioning]) -> Conditioning:
        """All rows of several, in their order."""
        pooled = [part.pooled_BD for part in parts if part.pooled_BD is not None]
        return Conditioning(
            torch.cat([part.text_BTD for part in parts]), torch.cat(pooled) if pooled else None
        )

    def tensors(self) -> dict[str, Tensor]:
        """As named tensors, to be stored."""
        named = {"text": self.text_BTD}
        return named if self.pooled_BD is None else {**named, "pooled": self.pooled_BD}

    @staticmethod
    def from_tensors(tensors: dict[str, Tensor]) -> Conditioning:
        """The inverse of `tensors`."""
        return Conditioning(tensors["text"], tensors.get("pooled"))


class BaseModel(Protocol):
    """A frozen base model. All parts stay in evaluation mode, so its own dropout never acts."""

    family: str
    prediction: Prediction
    prediction_source: str
    facts: ModelFacts
    native_resolution: int
    latent_scale: float
    dtype: torch.dtype
    alphas_cumprod: Tensor
    """In fp64, shape (1000,)."""

    modelspec: str
    """Architecture as modelspec metadata names it, without "/lora"."""

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
        """Of the text encoders' tensors in the number format they run in."""
        ...

    def components(self) -> dict[str, nn.Module]:
        """Parts that a network may change, by the names of `LayerShape.component`."""
        ...

    def encode_images(self, pixels_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the latents of pixels in -1..1, unscaled."""
        ...

    def decode_latents(self, latents_BCHW: Tensor) -> Tensor:
        """Pixels in -1..1 of scaled latents."""
        ...

    def encode_text(self, captions: Sequence[str], clip_skip: int = 1) -> Conditioning:
        """Conditioning of captions, with gradients where the text encoder is trained."""
        ...

    def predict(
        self, noisy_BCHW: Tensor, timesteps_B: Tensor, conditioning: Conditioning
    ) -> Tensor:
        """What the network predicts (noise or velocity), in fp32."""
        ...

    def scheduler(self) -> Any:
        """A fresh DDIM scheduler of the family, trailing spacing."""
        ...

    def latent_shape(self, width: int, height: int) -> tuple[int, int, int]:
        """Channels, height and width of the latents of a picture."""
        ...

    def set_checkpointing(self, on: bool, train_te: bool = False) -> None:
        """Compute activations twice instead of keeping them; touches no dropout."""
        ...

    def park(self, *parts: str) -> None:
        """Move parts ("vae", "te") to the host until they are used again."""
        ...

    def to(self, device: torch.device | str) -> None:
        """Move all parts."""
        ...
