"""Stable Diffusion XL (Podell et al. 2023, arXiv:2307.01952): two text encoders, a vector of sizes.

Shape letters: B samples, N chunks, T tokens, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from engine.models.clip_tokenizer import FIRST_WORD, clip_tokenizer
from engine.models.family import Conditioning
from engine.models.stable_diffusion import StableDiffusion
from engine.models.text import CHUNK, apply_weights, in_chunks, join_chunks, tokenize

LAYER_READ = -2
"""Both encoders give what goes into their last layer, without the final norm."""


class Sdxl(StableDiffusion):
    """A frozen Stable Diffusion XL model. Its clip skip is fixed: another one changes nothing."""

    family = "sdxl"

    @cached_property
    def tokenizer_2(self) -> Any:
        """Of the second text encoder, which fills captions up with the first word's token."""
        return clip_tokenizer(FIRST_WORD)

    @property
    def modelspec(self) -> str:
        """Architecture as modelspec metadata names it, without "/lora"."""
        return "stable-diffusion-xl-v1-base"

    @property
    def base_version(self) -> str:
        """The family as kohya's metadata names it, whatever it predicts."""
        return "sdxl_base_v1-0"

    def encode_text(
        self,
        captions: Sequence[str],
        clip_skip: int = 1,
        *,
        max_tokens: int = CHUNK,
        weighted: bool = False,
    ) -> Conditioning:
        """Second-to-last hidden states of both encoders, side by side; pooled from the first chunk."""
        first, _ = self._encode(
            self.text_encoder, self.tokenizer, captions, max_tokens=max_tokens, weighted=weighted
        )
        second, outputs = self._encode(
            self.text_encoder_2,
            self.tokenizer_2,
            captions,
            max_tokens=max_tokens,
            weighted=weighted,
        )
        # The projected last hidden state at the first end token, final norm included.
        pooled_BD = outputs.text_embeds.unflatten(0, (len(captions), -1))[:, 0]
        return Conditioning(torch.cat([first, second], dim=-1), pooled_BD)

    def _encode(
        self,
        encoder: Any,
        tokenizer: Any,
        captions: Sequence[str],
        *,
        max_tokens: int,
        weighted: bool,
    ) -> tuple[Tensor, Any]:
        chunks = tokenize(tokenizer, captions, max_tokens=max_tokens, weighted=weighted)
        outputs: list[Any] = []

        def encode(ids_BT: Tensor) -> Tensor:
            outputs.append(encoder(ids_BT, output_hidden_states=True))
            hidden_BTD: Tensor = outputs[0].hidden_states[LAYER_READ]
            return hidden_BTD

        device = self._placed(encoder)
        with self._autocast():
            hidden_BNTD = in_chunks(encode, chunks.ids_BNT.to(device))
        return apply_weights(join_chunks(hidden_BNTD), chunks.weights_BT), outputs[0]

    def _added(
        self, conditioning: Conditioning, rows: int, device: torch.device
    ) -> dict[str, Tensor]:
        """Pooled text and sizes; without sizes those of a whole picture of the native resolution."""
        if conditioning.pooled_BD is None:
            raise ValueError("the conditioning of Stable Diffusion XL has a pooled vector")
        sizes_B6 = conditioning.sizes_B6
        if sizes_B6 is None:
            side = float(self.native_resolution)
            sizes_B6 = torch.tensor([[side, side, 0.0, 0.0, side, side]]).expand(rows, -1)
        return {
            "text_embeds": conditioning.pooled_BD.to(device, self.dtype),
            # In fp32: bf16 has no 1023, and the U-Net casts what it makes of them.
            "time_ids": sizes_B6.to(device, torch.float32),
        }
