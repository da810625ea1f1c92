"""Small data sets made for each test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from engine.data.buckets import BucketRules
from engine.data.pictures import Pictures
from engine.data.placing import place_all
from engine.data.survey import SurveyRules, survey

Make = Callable[..., Path]


@pytest.fixture
def picture() -> Make:
    """Writes a picture with content of its own; parents are made."""

    def make(
        path: Path,
        size: tuple[int, int] = (64, 64),
        *,
        mode: str = "RGB",
        orientation: int = 1,
        seed: int = 0,
    ) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.linear_gradient("L").rotate(90 * (seed % 4)).resize(size).convert("RGB")
        image.putpixel((0, 0), (seed * 37 % 256, seed * 11 % 256, 200))
        image = image.convert(mode)
        if orientation != 1:
            exif = Image.Exif()
            exif[0x0112] = orientation
            image.save(path, exif=exif)
        else:
            image.save(path)
        return path

    return make


@pytest.fixture
def one_picture(tmp_path: Path, picture: Make) -> Pictures:
    """A picture of 64x64 in its bucket."""
    picture(tmp_path / "data" / "a.png", seed=1)
    found = survey(SurveyRules(tmp_path / "data", text="x", flip=True), workers=1)
    placements = place_all(found.items, BucketRules(64, 64, 32, 128, 32, no_upscale=False))
    return Pictures(found.items, placements, seed=1)
