"""From a picture on disk to pixels of its bucket.

Shape letters: C channels, H and W height and width in pixels.
"""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor

from engine.data.buckets import Placement, Size
from engine.data.colour import Colour
from engine.data.images import load_rgb
from engine.data.survey import Item
from engine.draws import rng


def load_pixels(
    item: Item,
    placement: Placement,
    *,
    crop: Size,
    flipped: bool,
    background: Colour,
    max_megapixels: float,
) -> Tensor:
    """Pixels of shape (3, H, W) in -1..1; a file that changed since the survey is refused."""
    image = load_rgb(
        item.image.path,
        background,
        sha256=item.image.sha256,
        max_megapixels=max_megapixels,
    )
    return to_pixels(image, placement, crop=crop, flipped=flipped)


def to_pixels(image: Image.Image, placement: Placement, *, crop: Size, flipped: bool) -> Tensor:
    """Resize, cut at `crop`, mirror: an 8-bit picture as fp32 of shape (3, H, W) in -1..1."""
    if image.size != placement.resized:
        image = image.resize(placement.resized, resize_filter(placement))
    left, top = crop
    width, height = placement.bucket
    image = image.crop((left, top, left + width, top + height))
    if flipped:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    flat = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    pixels_HWC = flat.view(height, width, 3)
    return pixels_HWC.permute(2, 0, 1).float().div(127.5).sub(1.0).contiguous()


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
