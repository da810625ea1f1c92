"""Colours: backgrounds for transparency, and the way of any picture to 8-bit sRGB."""

from __future__ import annotations

import io
import math

from PIL import Image, ImageCms, ImageColor

from engine.data.findings import shown
from engine.draws import rng
from engine.errors import Problem, RecipeError

Colour = tuple[int, int, int]


def parse_background(text: str) -> Colour | None:
    """The colour that `data.background` names; None for "random"."""
    if text.strip().lower() == "random":
        return None
    try:
        red, green, blue = ImageColor.getrgb(text.strip())[:3]
    except ValueError:
        problem = Problem(
            f"{shown(text)!r} is no colour.",
            remedy="Write a name like white, #rrggbb, or random.",
            path="data.background",
        )
        raise RecipeError(problem) from None
    return red, green, blue


def random_background(seed: int, *place: int) -> Colour:
    """A background colour drawn for one place: a picture (cached latents), or a step and sample."""
    draw = rng(seed, "background", *place)
    return draw.randrange(256), draw.randrange(256), draw.randrange(256)


def to_rgb(image: Image.Image, background: Colour | None) -> Image.Image:
    """8-bit sRGB: deep pictures scaled, profiles applied, transparency put on `background`.

    Without a background the colours below transparent pixels stay as they are.
    """
    alpha = image.convert("RGBA").getchannel("A") if image.has_transparency_data else None
    profile = foreign_profile(image)
    eight_bit = _scaled_to_8_bit(image) if image.mode.startswith(("I", "F")) else image
    rgb = _with_profile(eight_bit, profile) if profile is not None else None
    rgb = rgb or eight_bit.convert("RGBA" if alpha is not None else "RGB").convert("RGB")
    if alpha is None or background is None:
        return rgb
    return Image.composite(rgb, Image.new("RGB", rgb.size, background), alpha)


def _with_profile(image: Image.Image, profile: ImageCms.ImageCmsProfile) -> Image.Image | None:
    """The picture in sRGB, or None where the profile does not fit its mode."""
    source = image if image.mode in ("L", "CMYK", "RGB") else image.convert("RGB")
    try:
        srgb = ImageCms.createProfile("sRGB")
        return ImageCms.profileToProfile(source, profile, srgb, outputMode="RGB")
    except (OSError, ValueError, ImageCms.PyCMSError):
        return None


def _scaled_to_8_bit(image: Image.Image) -> Image.Image:
    """Grey of 16 or 32 bits or floats as 8 bits: scaled, since a plain conversion would clip."""
    wide = image if image.mode in ("I", "F") else image.convert("I")
    high = max(float(str(bound)) for bound in wide.getextrema())
    floats = 1.0 if high <= 1.0 else max(high, 255.0)
    full = floats if image.mode == "F" else max(high, 65535.0)
    scale = 255.0 / full
    return wide.point(lambda value: value * scale + 0.5).convert("L")


def only_numbers(image: Image.Image) -> bool:
    """Whether no value is NaN or infinite, which only a picture of floats can have."""
    if image.mode != "F":
        return True
    # One of them is enough to make the mean of all one.
    mean = image.resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))
    return math.isfinite(float(str(mean)))


def foreign_profile(image: Image.Image) -> ImageCms.ImageCmsProfile | None:
    """The embedded colour profile, unless it is missing, unreadable or sRGB itself."""
    data = image.info.get("icc_profile")
    if not isinstance(data, bytes) or not data:
        return None
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(data))
        name = ImageCms.getProfileDescription(profile)
    except (OSError, ImageCms.PyCMSError, ValueError):
        return None
    return None if "srgb" in name.lower() else profile
