"""Pictures: what they are, and whether they decode; every failure has a name and a remedy."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import io
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

from PIL import Image, ImageOps, _imaging

from engine.data.bombs import too_many_parts
from engine.data.checks import CHECKS
from engine.data.colour import Colour, foreign_profile, only_numbers, to_rgb
from engine.data.files import open_regular
from engine.data.findings import shown
from engine.errors import DataError, OutOfMemory, Problem

FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "BMP", "DIB", "GIF", "TIFF", "AVIF")
"""Decoders that may run: others (EPS, FITS, ...) call programs or are no pictures for training."""
CONVERTIBLE = frozenset(
    "1 L LA La P PA RGB RGBA RGBa RGBX CMYK YCbCr HSV F I I;16 I;16L I;16B I;16N".split()  # noqa: SIM905
)
ORIENTATION = 0x0112
BYTES_PER_PIXEL = 16
"""A file larger than this for each allowed pixel is no honest picture (16-bit RGBA has 8)."""


class PictureError(DataError):
    """One picture that cannot be used; `check` is the row of the table of checks."""

    def __init__(self, check: str, path: Path, detail: str = "") -> None:
        row = CHECKS[check]
        what = row.message.format(n=1, s="", are="is", were="was", have="has", verb="s")
        if detail:
            what = f"{what.rstrip('.')} ({detail})."
        super().__init__(Problem(what, shown(path), row.remedy))
        self.check = check
        self.path = path
        self.detail = detail


@dataclass(frozen=True, slots=True)
class ImageFact:
    """What is known of a picture. Sizes are sizes after EXIF rotation."""

    path: Path
    width: int
    height: int
    bytes: int
    sha256: str = ""
    """Of the file's bytes; empty where only the header was read."""
    format: str = ""
    exif_rotated: bool = False
    alpha: bool = False
    """Some pixel is not opaque."""
    invisible: bool = False
    """No pixel shows anything at all."""
    animated: bool = False
    converted: str = ""
    """What it is converted from ("16-bit", "CMYK", "palette", "grey", "ICC profile"), or empty."""


# Pillow's limit is a global; ours is a setting, and checked on the header before any decoding.
_PIXELS = re.compile(r"\((\d+) pixels\)")
_OPENING = threading.Lock()


def _open(file: BufferedReader, max_megapixels: float) -> Image.Image:
    _quieten()
    with _OPENING:
        Image.init()  # Registers the decoders; at once from the second time on.
        readable = [name for name in FORMATS if name in Image.OPEN]
        # Some decoders ask for the memory of the whole canvas as soon as they are made: they look at
        # this limit before. It is doubled by Pillow, so that what is said of sizes is said by us.
        ours = max(1, int(max_megapixels * 1e6))
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, ours
        try:
            return Image.open(file, formats=readable)
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _quieten() -> None:
    """Warnings of Pillow and its libraries (odd EXIF, cut strips) would be printed over the screen."""
    warnings.filterwarnings("ignore", module=r"PIL\.")
    _quieten_libtiff()


@functools.cache
def _quieten_libtiff() -> None:
    """libtiff writes to descriptor 2 by itself; Pillow has no way to tell it not to."""
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(_imaging.__file__)
        library.TIFFSetErrorHandler(None)
        library.TIFFSetWarningHandler(None)


@contextmanager
def _decoding(path: Path, max_megapixels: float) -> Iterator[tuple[Image.Image, BufferedReader]]:
    """An opened picture whose size is within the limit; every failure becomes a PictureError.

    All but one: where memory is short the pictures are not to blame, and OutOfMemory says so.
    """
    try:
        with open_regular(path) as file:
            size = file.seek(0, io.SEEK_END)
            file.seek(0)
            if size > max(64e6, max_megapixels * 1e6 * BYTES_PER_PIXEL):
                raise PictureError("bomb", path, f"{size / 1e6:.0f} MB")
            if is_cut_short(file, size):
                raise PictureError("truncated", path)
            if parts := too_many_parts(file, size):
                raise PictureError("not decodable", path, f"{parts}, more than any picture needs")
            file.seek(0)
            with _open(file, max_megapixels) as image:
                _check_size(path, image.width, image.height, max_megapixels)
                yield image, file
    except PictureError:
        raise
    except FileNotFoundError as error:
        raise PictureError("vanished", path) from error
    except PermissionError as error:
        raise PictureError("unreadable", path) from error
    except Image.DecompressionBombError as error:
        told = _PIXELS.search(str(error))
        found = f"{int(told[1]) / 1e6:.1f} megapixels, " if told else ""
        detail = f"{found}the limit is {max_megapixels:g}"
        raise PictureError("bomb", path, detail) from error
    # Decoders meet hostile bytes: besides OSError they raise SyntaxError, struct.error, ValueError,
    # OverflowError and others, each with words of its own.
    except Exception as error:
        words = str(error).lower()
        if isinstance(error, MemoryError) or "out of memory" in words:
            raise OutOfMemory(_too_large(path)) from None
        cut = "truncat" in words or "unexpected end" in words or "broken data stream" in words
        raise PictureError("truncated" if cut else "not decodable", path) from error


def _too_large(path: Path) -> Problem:
    return Problem(
        "There is not enough memory to decode this picture.",
        shown(path),
        "Close other programs. If it is always this picture, leave it out: a damaged file can ask for"
        " any amount.",
    )


def is_cut_short(file: BufferedReader, size: int) -> bool:
    """Whether the file ends before its format says; for what decoders let pass or misname."""
    head = file.read(12)
    if head.startswith(b"RIFF"):
        return int.from_bytes(head[4:8], "little") + 8 > size
    if not head.startswith(b"\x89PNG"):
        return size == 0
    place = 8
    while place + 12 <= size:
        file.seek(place)
        length, name = int.from_bytes(file.read(4), "big"), file.read(4)
        if name == b"IEND":
            return False
        place += 12 + length
    return True


def _check_size(path: Path, width: int, height: int, max_megapixels: float) -> None:
    if width < 1 or height < 1:
        raise PictureError("not decodable", path, "its size is 0")
    megapixels = width * height / 1e6
    if megapixels > max_megapixels:
        detail = f"{width}x{height} is {megapixels:.1f} megapixels, the limit is {max_megapixels:g}"
        raise PictureError("bomb", path, detail)


def _orientation(image: Image.Image) -> int:
    """EXIF orientation that is still to be applied, 1 where there is none."""
    if image.format == "TIFF":
        return (
            1  # Pillow turns TIFF itself while it loads, and tells the turned size from the start.
        )
    try:
        value = image.getexif().get(ORIENTATION, 1)
    except Exception:  # Broken EXIF is no reason to refuse a picture that decodes.
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def quick_size(path: Path, *, max_megapixels: float = 100.0) -> tuple[int, int]:
    """Width and height after EXIF rotation, from the header alone."""
    fact = quick_fact(path, max_megapixels=max_megapixels)
    return fact.width, fact.height


def quick_fact(path: Path, *, max_megapixels: float = 100.0) -> ImageFact:
    """What the header tells: quick, but a damaged picture can pass."""
    with _decoding(path, max_megapixels) as (image, file):
        # Asking a PNG for EXIF that is not in its header would decode the whole picture.
        late = image.format == "PNG" and "exif" not in image.info
        turned = 1 if late else _orientation(image)
        width, height = image.size if turned < 5 else (image.height, image.width)
        size = file.seek(0, io.SEEK_END)
        return ImageFact(path, width, height, size, "", image.format or "", turned != 1)


def read_image_fact(path: Path, *, max_megapixels: float = 100.0) -> ImageFact:
    """Decode the whole picture and tell what it is; raises PictureError for one that is refused."""
    with _decoding(path, max_megapixels) as (image, file):
        animated = image.format not in ("MPO", "TIFF") and getattr(image, "is_animated", False)
        deep = ";16" in str(getattr(image, "tile", "")) or image.mode.startswith(("I", "F"))
        tiff_turned = image.format == "TIFF" and _tiff_orientation(image) != 1
        image.load()
        if image.mode not in CONVERTIBLE:
            raise PictureError("not decodable", path, f"colour mode {image.mode}")
        if not only_numbers(image):
            raise PictureError("not decodable", path, "some of its values are no numbers")
        turned = _orientation(image)
        width, height = image.size if turned < 5 else (image.height, image.width)
        opacity = _opacity(image)
        return ImageFact(
            path=path,
            width=width,
            height=height,
            bytes=file.seek(0, io.SEEK_END),
            sha256=_sha256(file),
            format=image.format or "",
            exif_rotated=turned != 1 or tiff_turned,
            alpha=opacity is not None and any(opacity[:255]),
            invisible=opacity is not None and not any(opacity[1:]),
            animated=animated,
            converted=_conversion(image, deep),
        )


def _tiff_orientation(image: Image.Image) -> int:
    tags = getattr(image, "tag_v2", {})
    return int(tags.get(ORIENTATION, 1) or 1)


def _sha256(file: BufferedReader) -> str:
    file.seek(0)
    return hashlib.file_digest(file, "sha256").hexdigest()


def _opacity(image: Image.Image) -> list[int] | None:
    """How many pixels have which opacity, 0 to 255; None where all are opaque by their kind."""
    if not image.has_transparency_data:
        return None
    return image.convert("RGBA").getchannel("A").histogram()


def _conversion(image: Image.Image, deep: bool) -> str:
    if deep:
        return "16-bit"
    if image.mode in ("CMYK", "YCbCr", "HSV"):
        return image.mode
    if foreign_profile(image) is not None:
        return "ICC profile"
    return {"P": "palette", "PA": "palette", "L": "grey", "LA": "grey", "1": "grey"}.get(
        image.mode, ""
    )


def load_rgb(
    path: Path,
    background: Colour = (255, 255, 255),
    *,
    sha256: str = "",
    max_megapixels: float = 100.0,
) -> Image.Image:
    """Decode as upright 8-bit sRGB; with `sha256`, a file with other bytes is refused by name."""
    with _upright(path, sha256, max_megapixels) as image:
        return to_rgb(image, background)


def load_rgb_alpha(
    path: Path, *, sha256: str = "", max_megapixels: float = 100.0
) -> tuple[Image.Image, Image.Image]:
    """As `load_rgb`, with the colours below transparent pixels as they are, and the opacity (L)."""
    with _upright(path, sha256, max_megapixels) as image:
        return to_rgb(image, None), image.convert("RGBA").getchannel("A")


@contextmanager
def _upright(path: Path, sha256: str, max_megapixels: float) -> Iterator[Image.Image]:
    with _decoding(path, max_megapixels) as (image, file):
        image.load()
        if sha256 and _sha256(file) != sha256:
            raise PictureError("vanished", path)
        turned = _orientation(image)
        yield ImageOps.exif_transpose(image) if turned != 1 else image
