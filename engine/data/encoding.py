"""What the VAE makes of pictures: mean and deviation, never NaN, one picture or a group at a time.

Shape letters: B pictures, C channels, H and W height and width (of pixels or latents).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from engine.data.findings import shown
from engine.data.pixels import Loaded, at_latent_size
from engine.data.survey import Item
from engine.errors import DataError, Problem
from engine.memory import in_words, tried_again

Moments = tuple[Tensor, Tensor]
Encode = Callable[[Tensor], Moments]
"""Pixels (B, 3, H, W) in -1..1 to mean and deviation (B, C, H, W), unscaled."""


class Encoded(NamedTuple):
    """One picture in latents, on the CPU in fp32."""

    mean_CHW: Tensor
    std_CHW: Tensor
    mask_1HW: Tensor | None = None
    """What is learnt, 0..1, at latent size; None where the picture has no mask."""


@dataclass(frozen=True, slots=True)
class Encoder:
    """The VAE as the cache sees it."""

    encode: Encode
    vae_hash: str
    precision: str
    """What its numbers depend on besides the weights: precision and kind of device ("fp32 cpu")."""
    encode_fp32: Encode | None = None
    """Second try for a picture whose latents are not finite."""

    def encoded(self, items: Sequence[Item], loaded: Sequence[Loaded]) -> list[Encoded]:
        """Pictures of one size, encoded together.

        Several that do not fit together raise what torch raises, a single one OutOfMemory in words.
        """
        pixels = [each.pixels_CHW for each in loaded]
        found = (
            self._group(items, pixels) if len(items) > 1 else [self.moments(items[0], pixels[0])]
        )
        return [_with_mask(*each) for each in zip(found, loaded, strict=True)]

    def moments(self, item: Item, pixels_CHW: Tensor) -> Moments:
        """Mean and deviation (C, H, W) on the CPU in fp32; never NaN, Inf or silent zeros.

        Raises OutOfMemory, naming the picture, where it does not fit twice.
        """
        _, height, width = pixels_CHW.shape
        too_large = Problem(
            f"There is not enough memory to encode this picture at {width} x {height}.",
            where=shown(item.image.path),
            remedy="Lower data.resolution or data.bucket_max, close other programs, or leave the "
            "picture out. What is encoded so far is kept.",
        )
        for encode in (self.encode, self.encode_fp32):
            if encode is None:
                continue
            run = partial(_run, encode, pixels_CHW.unsqueeze(0))
            found = in_words(partial(tried_again, run), too_large)[0]
            if finite(found):
                return found
        raise DataError(
            Problem(
                "The VAE gives no finite latents for this picture, in fp32 neither.",
                where=shown(item.image.path),
                remedy="Choose another VAE with model.vae, or leave the picture out.",
            )
        )

    def _group(self, items: Sequence[Item], pixels: Sequence[Tensor]) -> list[Moments]:
        # The second error goes on as it is: smaller groups are for the caller to decide.
        found = tried_again(lambda: _run(self.encode, torch.stack(list(pixels))))
        # A picture that fails in the group is tried as if it were alone.
        return [
            one if finite(one) else self.moments(item, pixels_CHW)
            for one, item, pixels_CHW in zip(found, items, pixels, strict=True)
        ]


def _run(encode: Encode, pixels_BCHW: Tensor) -> list[Moments]:
    with torch.no_grad():
        mean_BCHW, std_BCHW = encode(pixels_BCHW)
    pairs = zip(mean_BCHW.float().cpu(), std_BCHW.float().cpu(), strict=True)
    # Copies: a row of a batch would keep the whole batch in memory.
    return [(mean_CHW.clone(), std_CHW.clone()) for mean_CHW, std_CHW in pairs]


def finite(moments: Moments) -> bool:
    """Whether mean and deviation are numbers throughout."""
    mean_CHW, std_CHW = moments
    return bool(torch.isfinite(mean_CHW).all() & torch.isfinite(std_CHW).all())


def _with_mask(moments: Moments, loaded: Loaded) -> Encoded:
    mask_1HW = loaded.mask_1HW
    if mask_1HW is not None:
        mask_1HW = at_latent_size(mask_1HW, *moments[0].shape[1:])
    return Encoded(*moments, mask_1HW)
