"""From a picture on disk to pixels of its bucket, and its mask with it.

Shape letters: C channels, H and W height and width in pixels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from engine.data.buckets import Placement, Size
from engine.data.colour import Colour
from engine.data.images import load_rgb, load_rgb_alpha
from engine.data.masks import load_mask
from engine.data.survey import Item
from engine.draws import rng


class Loaded(NamedTuple):
    """A picture as it is trained."""

    pixels_CHW: Tensor
    """In -1..1."""
    mask_1HW: Tensor | None = None
    """What is learnt, 0..1, in the size of the pixels; None where the picture has no mask."""


def load_pixels(
    item: Item,
    placement: Placement,
    *,
    crop: Size,
    flipped: bool,
    background: Colour,
    max_megapixels: float,
) -> Loaded:
    """Pixels of shape (3, H, W); a file that changed since the survey is refused."""
    image, mask = _decoded(item, background, max_megapixels)
    return Loaded(
        to_pixels(image, placement, crop=crop, flipped=flipped),
        None if mask is None else to_mask(mask, placement, crop=crop, flipped=flipped),
    )


def _decoded(
    item: Item, background: Colour, max_megapixels: float
) -> tuple[Image.Image, Image.Image | None]:
    """The picture in RGB and its mask in L, in the size of the picture."""
    path, sha256 = item.image.path, item.image.sha256
    if item.mask is not None and item.mask.path is None:
        # What is learnt only where it is opaque needs no background behind it.
        return load_rgb_alpha(path, sha256=sha256, max_megapixels=max_megapixels)
    image = load_rgb(path, background, sha256=sha256, max_megapixels=max_megapixels)
    if item.mask is None or item.mask.path is None:
        return image, None
    mask = load_mask(item.mask.path, sha256=item.mask.sha256, max_megapixels=max_megapixels)
    return image, mask


def to_pixels(image: Image.Image, placement: Placement, *, crop: Size, flipped: bool) -> Tensor:
    """Resize, cut at `crop`, mirror: an 8-bit picture as fp32 of shape (3, H, W) in -1..1."""
    if image.size != placement.resized:
        image = image.resize(placement.resized, resize_filter(placement))
    pixels_HWC = _cut(image, placement, crop, flipped).view(*placement.bucket[::-1], 3)
    return pixels_HWC.permute(2, 0, 1).float().div(127.5).sub(1.0).contiguous()


def to_mask(mask: Image.Image, placement: Placement, *, crop: Size, flipped: bool) -> Tensor:
    """The same cut of a mask (mode L, any size) as fp32 of shape (1, H, W) in 0..1."""
    if mask.size != placement.resized:
        wide, high = placement.resized
        shrinks = mask.width >= wide and mask.height >= high
        # Lanczos would make rims darker than black and lighter than white.
        kind = Image.Resampling.BOX if shrinks else Image.Resampling.BILINEAR
        mask = mask.resize(placement.resized, kind)
    mask_HW = _cut(mask, placement, crop, flipped).view(*placement.bucket[::-1])
    return mask_HW.unsqueeze(0).float().div(255)


def _cut(image: Image.Image, placement: Placement, crop: Size, flipped: bool) -> Tensor:
    """The bytes of the cut, flat, row by row."""
    left, top = crop
    width, height = placement.bucket
    image = image.crop((left, top, left + width, top + height))
    if flipped:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)


def at_latent_size(mask_1HW: Tensor, height: int, width: int) -> Tensor:
    """A mask averaged over the area of each latent pixel, shape (1, height, width)."""
    return torch.nn.functional.adaptive_avg_pool2d(mask_1HW, (height, width))


def resize_filter(placement: Placement) -> Image.Resampling:
    """Area (box) averaging when shrinking, Lanczos when enlarging."""
    return Image.Resampling.BOX if placement.scale < 1 else Image.Resampling.LANCZOS


def draw_flip(item: Item, *, seed: int, step: int, sample: int) -> bool:
    """Whether this draw of the picture is mirrored: half of the draws where mirroring is on."""
    return item.flip and rng(seed, "flip", step, sample).random() < 0.5


def draw_crop(placement: Placement, *, seed: int, step: int, sample: int) -> Size:
    """Left and top of a cut at a random place of the resized picture."""
    draw = rng(seed, "crop", step, sample)
    left = draw.randint(0, placement.resized[0] - placement.bucket[0])
    top = draw.randint(0, placement.resized[1] - placement.bucket[1])
    return left, top


def true_crop(placement: Placement, crop: Size, *, flipped: bool) -> Size:
    """Left and top of the cut in the picture that the model sees: mirrored with it."""
    left, top = crop
    if flipped:
        left = placement.resized[0] - placement.bucket[0] - left
    return left, top
