"""Painted pictures by all that they depend on, so that a sheet is made only once."""

from __future__ import annotations

import os
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from engine.cache_limit import trim

LIMIT_BYTES = 1_000_000_000


class PictureStore:
    """A folder of PNG files named by a key; the ones unused for longest are removed first."""

    def __init__(self, folder: Path, limit_bytes: int = LIMIT_BYTES) -> None:
        self.folder = folder
        self.limit_bytes = limit_bytes

    def path(self, key: str) -> Path:
        """Where the picture of a key lies."""
        return self.folder / key[:2] / f"{key}.png"

    def get(self, key: str) -> Path | None:
        """The picture of a key, or None where there is no whole one."""
        path = self.path(key)
        try:
            with Image.open(path) as picture:
                picture.load()
            os.utime(path)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, SyntaxError):  # What Pillow raises for damaged files.
            path.unlink(missing_ok=True)
            return None
        return path

    def put(self, key: str, picture: Image.Image) -> Path:
        """Write a picture with its text fields, whole or not at all."""
        path = self.path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        fields = PngInfo()
        for name, value in picture.info.items():
            if isinstance(name, str) and isinstance(value, str):
                fields.add_itxt(name, value)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            picture.save(temporary, format="PNG", pnginfo=fields)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        return path

    def trim(self, keep: frozenset[Path]) -> None:
        """Remove the pictures unused for longest until the limit holds; never those of `keep`."""
        trim(self.folder.glob("*/*.png"), self.limit_bytes, lambda path: path in keep)
