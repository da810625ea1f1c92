"""Pictures: what is told of them, what is refused, and how they become 8-bit sRGB."""

from __future__ import annotations

import hashlib
import io
import os
import struct
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from engine.data.colour import parse_background, random_background
from engine.data.images import PictureError, load_rgb, quick_size, read_image_fact
from engine.errors import OutOfMemory, RecipeError

FORMATS = ["png", "jpg", "webp", "bmp", "gif", "tif", "avif"]


@pytest.mark.parametrize("extension", FORMATS)
def test_every_format_is_read(tmp_path: Path, picture, extension: str) -> None:
    path = picture(tmp_path / f"a.{extension}", (40, 24))
    fact = read_image_fact(path)
    assert (fact.width, fact.height) == (40, 24)
    assert fact.bytes == path.stat().st_size
    assert fact.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert quick_size(path) == (40, 24)
    assert load_rgb(path).mode == "RGB"


def test_the_decoder_decides_not_the_extension(tmp_path: Path, picture) -> None:
    path = picture(tmp_path / "a.png").rename(tmp_path / "b.jpg")
    assert read_image_fact(path).format == "PNG"


@pytest.mark.parametrize("extension", ["png", "jpg", "webp", "tif", "avif"])
@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_exif_rotation_is_applied(
    tmp_path: Path, picture, extension: str, orientation: int
) -> None:
    path = picture(tmp_path / f"a.{extension}", (40, 24), orientation=orientation)
    size = (24, 40) if orientation >= 5 else (40, 24)
    fact = read_image_fact(path)
    assert fact.exif_rotated
    assert (fact.width, fact.height) == size
    assert load_rgb(path).size == size
    assert quick_size(path) == size


def test_rotation_turns_the_pixels_too(tmp_path: Path) -> None:
    image = Image.new("RGB", (4, 2), "black")
    image.putpixel((0, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # To be turned clockwise: the upper left corner becomes the upper right one.
    image.save(tmp_path / "a.png", exif=exif)
    turned = load_rgb(tmp_path / "a.png")
    assert turned.size == (2, 4)
    assert turned.getpixel((1, 0)) == (255, 255, 255)


@pytest.mark.parametrize("extension", FORMATS)
def test_pictures_cut_short_are_refused_by_name(tmp_path: Path, extension: str) -> None:
    whole = io.BytesIO()
    image = Image.effect_noise((120, 90), 60).convert("RGB")
    kind = {"jpg": "JPEG", "tif": "TIFF"}.get(extension, extension.upper())
    image.save(whole, kind)
    data = whole.getvalue()
    for length in (0, 12, len(data) // 2, len(data) - 20):
        path = tmp_path / f"cut{length}.{extension}"
        path.write_bytes(data[:length])
        with pytest.raises(PictureError) as caught:
            read_image_fact(path)
        assert caught.value.check in ("truncated", "not decodable")
        assert path.name in str(caught.value)
        assert caught.value.problems[0].remedy
    assert caught.value.check == "truncated"


def test_png_without_its_end_is_cut_short(tmp_path: Path, picture) -> None:
    path = picture(tmp_path / "a.png")
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(PictureError) as caught:
        read_image_fact(path)
    assert caught.value.check == "truncated"


@pytest.mark.parametrize(
    "data", [b"<html>not found</html>", b"\x89PNG\r\n\x1a\n" + bytes(200), b"\xff\xd8\xff" * 50]
)
def test_what_is_no_picture_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(data)
    with pytest.raises(PictureError) as caught:
        read_image_fact(path)
    assert caught.value.check in ("not decodable", "truncated")
    # The words are ours, not the library's.
    assert "cannot identify" not in str(caught.value)


@given(data=st.data())
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_flipped_bytes_never_end_in_another_exception(tmp_path: Path, data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"]))
    whole = io.BytesIO()
    Image.linear_gradient("L").resize((32, 24)).convert("RGB").save(whole, kind)
    broken = bytearray(whole.getvalue())
    for _ in range(3):
        broken[data.draw(st.integers(0, len(broken) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "a.img"
    path.write_bytes(broken)
    for read in (read_image_fact, quick_size, load_rgb):
        try:
            read(path)
        except PictureError as error:
            assert error.problems[0].where


def bomb(width: int, height: int) -> bytes:
    """A PNG whose header promises far more than the file holds."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def test_bombs_are_refused_before_decoding(tmp_path: Path) -> None:
    path = tmp_path / "big.png"
    path.write_bytes(bomb(30_000, 30_000))
    for read in (read_image_fact, quick_size):
        with pytest.raises(PictureError, match="900"):
            read(path)


def test_the_pixel_limit_is_a_setting(tmp_path: Path, picture) -> None:
    path = picture(tmp_path / "a.png", (1200, 1000))
    with pytest.raises(PictureError) as caught:
        read_image_fact(path, max_megapixels=1)
    assert caught.value.check == "bomb"
    assert "data.max_megapixels" in str(caught.value)
    assert read_image_fact(path, max_megapixels=1.2).width == 1200


def test_our_limit_stands_alone_and_leaves_pillows(
    tmp_path: Path, picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert read_image_fact(picture(tmp_path / "a.png", (64, 64))).width == 64
    assert Image.MAX_IMAGE_PIXELS == 100


def test_pipes_are_never_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    os.mkfifo(path)
    monkeypatch.setattr(os, "open", lambda *_: pytest.fail("it was opened"))
    with pytest.raises(PictureError):  # And not a test that hangs.
        read_image_fact(path)


def test_a_changed_picture_is_refused_by_name(tmp_path: Path, picture) -> None:
    path = picture(tmp_path / "a.png")
    known = read_image_fact(path).sha256
    assert load_rgb(path, sha256=known).size == (64, 64)
    picture(path, seed=1)
    with pytest.raises(PictureError) as caught:
        load_rgb(path, sha256=known)
    assert caught.value.check == "vanished"
    path.unlink()
    with pytest.raises(PictureError) as caught:
        load_rgb(path, sha256=known)
    assert caught.value.check == "vanished"


# Colours ------------------------------------------------------------------------------------------


def test_transparent_pixels_get_the_background_not_hidden_colours(tmp_path: Path) -> None:
    image = Image.new("RGBA", (2, 1), (255, 0, 0, 0))
    image.putpixel((1, 0), (0, 0, 200, 255))
    image.save(tmp_path / "a.png")
    assert read_image_fact(tmp_path / "a.png").alpha
    assert load_rgb(tmp_path / "a.png").getpixel((0, 0)) == (255, 255, 255)
    assert load_rgb(tmp_path / "a.png", (0, 128, 0)).getpixel((0, 0)) == (0, 128, 0)
    assert load_rgb(tmp_path / "a.png", (0, 128, 0)).getpixel((1, 0)) == (0, 0, 200)


def test_an_opaque_alpha_channel_is_not_reported(tmp_path: Path) -> None:
    Image.new("RGBA", (2, 2), (9, 9, 9, 255)).save(tmp_path / "a.png")
    assert not read_image_fact(tmp_path / "a.png").alpha


def test_palette_transparency(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1), 0)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "a.png", transparency=0)
    fact = read_image_fact(tmp_path / "a.png")
    assert fact.alpha and fact.converted == "palette"
    rgb = load_rgb(tmp_path / "a.png")
    assert [rgb.getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), (0, 0, 255)]


@pytest.mark.parametrize("extension", ["png", "tif"])
def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path, extension: str) -> None:
    image = Image.new("I;16", (3, 1))
    for x, value in enumerate((0, 100 * 257, 65535)):
        image.putpixel((x, 0), value)
    path = tmp_path / f"a.{extension}"
    image.save(path)
    assert read_image_fact(path).converted == "16-bit"
    rgb = load_rgb(path)
    assert [rgb.getpixel((x, 0))[0] for x in range(3)] == [0, 100, 255]


def test_cmyk_grey_and_animation_are_told(tmp_path: Path, picture) -> None:
    assert read_image_fact(picture(tmp_path / "c.jpg", mode="CMYK")).converted == "CMYK"
    assert read_image_fact(picture(tmp_path / "g.png", mode="L")).converted == "grey"
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    for name in ("a.gif", "a.webp"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], lossless=True)
        assert read_image_fact(tmp_path / name).animated
        assert load_rgb(tmp_path / name).getpixel((4, 4))[0] > 200  # The first frame, red.


def test_a_foreign_colour_profile_is_applied(tmp_path: Path) -> None:
    linear = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    Image.new("RGB", (4, 4), (200, 30, 30)).save(tmp_path / "s.png", icc_profile=linear.tobytes())
    assert read_image_fact(tmp_path / "s.png").converted == ""
    assert load_rgb(tmp_path / "s.png").getpixel((0, 0)) == (200, 30, 30)
    path = tmp_path / "grey.png"
    xyz = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ"))
    Image.new("RGB", (4, 4), (200, 30, 30)).save(path, icc_profile=xyz.tobytes())
    # A profile of another colour space does not fit the picture: it is decoded plainly.
    assert load_rgb(path).getpixel((0, 0)) == (200, 30, 30)


def test_backgrounds() -> None:
    assert parse_background("white") == (255, 255, 255)
    assert parse_background("#102030") == (16, 32, 48)
    assert parse_background(" Random ") is None
    with pytest.raises(RecipeError, match="no colour"):
        parse_background("whiteish")
    assert random_background(1, 5) == random_background(1, 5)
    assert len({random_background(1, place) for place in range(20)}) > 15


@pytest.mark.parametrize("place", [(0, 0), (7, 3)])
@pytest.mark.parametrize("wrong", ["nan", "inf", "-inf"])
def test_a_picture_of_floats_is_refused_where_one_is_no_number(
    tmp_path: Path, wrong: str, place: tuple[int, int]
) -> None:
    image = Image.new("F", (20, 10), 0.5)
    image.save(tmp_path / "good.tif")
    image.putpixel(place, float(wrong))
    image.save(tmp_path / "bad.tif")
    assert read_image_fact(tmp_path / "good.tif").converted == "16-bit"
    assert load_rgb(tmp_path / "good.tif").getpixel((0, 0)) == (128, 128, 128)
    with pytest.raises(PictureError, match=r"bad\.tif.*some of its values are no numbers"):
        read_image_fact(tmp_path / "bad.tif")


@pytest.mark.parametrize("error", [MemoryError(), OSError("out of memory error when reading")])
def test_a_machine_without_memory_is_no_fault_of_the_picture(
    tmp_path: Path, picture, monkeypatch, error: Exception
) -> None:
    path = picture(tmp_path / "a.png")

    def none_left(_: object) -> None:
        raise error

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", none_left)
    with pytest.raises(OutOfMemory, match=r"a\.png: There is not enough memory"):
        load_rgb(path)
