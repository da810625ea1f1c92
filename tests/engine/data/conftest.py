"""Small data sets made for each test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

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
