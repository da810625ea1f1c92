"""Pictures and captions of strangers: decoded or refused in words, in good time, in silence."""

from __future__ import annotations

import io
import os
import struct
import zlib
from contextlib import suppress
from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from engine.data.caption_files import read_caption
from engine.data.findings import Findings
from engine.data.images import (
    PictureError,
    load_rgb,
    load_rgb_alpha,
    quick_fact,
    read_image_fact,
)
from engine.data.survey import SurveyRules, survey
from tests.trust.bounded import bounded
from tests.trust.hostile import OBEYED

QUIET = settings(
    deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
KINDS = (
    "PNG", "PNG palette", "APNG", "JPEG", "JPEG progressive", "MPO", "WEBP", "WEBP animated", "AVIF",
    "GIF", "TIFF", "TIFF deflate", "TIFF lzw", "TIFF jpeg", "BMP",
)  # fmt: skip
NUMBERS = (b"\xff\xff\xff\xff", bytes(4), b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x80\0\0\0")


@cache
def whole(kind: str) -> bytes:
    """A small honest picture with EXIF where there can be any."""
    image = Image.effect_noise((40, 30), 60).convert("RGB")
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "words"
    form, _, how = kind.removeprefix("A" if kind == "APNG" else "").partition(" ")
    options: dict[str, object] = {}
    if form in ("PNG", "JPEG", "WEBP", "AVIF", "TIFF") and not how:
        options["exif"] = exif
    if kind in ("APNG", "GIF", "MPO", "WEBP animated"):
        options |= {"save_all": True, "append_images": [image.rotate(9)]}
    if form == "TIFF" and how:
        options["compression"] = {"deflate": "tiff_adobe_deflate", "lzw": "tiff_lzw"}.get(how, how)
    if how == "progressive":
        options["progressive"] = True
    if how == "palette":
        image = image.quantize(16)
    made = io.BytesIO()
    image.save(made, form, **options)
    return made.getvalue()


@st.composite
def broken(draw: st.DrawFn) -> bytes:
    """A picture with bytes changed, cut, doubled, spliced with another's, or numbers replaced."""
    body = bytearray(whole(draw(st.sampled_from(KINDS))))
    place = draw(st.integers(0, len(body) - 1))
    match draw(st.sampled_from(["bytes", "cut", "splice", "number", "double"])):
        case "bytes":
            for _ in range(draw(st.integers(1, 5))):
                body[draw(st.integers(0, len(body) - 1))] = draw(st.integers(0, 255))
        case "cut":
            del body[place:]
        case "splice":
            other = whole(draw(st.sampled_from(KINDS)))
            body[place:] = other[draw(st.integers(0, len(other) - 1)) :]
        case "number":
            place = draw(st.integers(0, min(400, len(body) - 4)))
            body[place : place + 4] = draw(st.sampled_from(NUMBERS))
        case _:
            body[place:place] = body[place // 2 : place // 2 + 60]
    return bytes(body)


@given(body=broken())
@QUIET
def test_broken_pictures_are_decoded_or_refused_in_words_and_in_silence(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], body: bytes
) -> None:
    path = tmp_path / "a.img"
    path.write_bytes(body)
    for read in (quick_fact, read_image_fact, load_rgb, load_rgb_alpha):
        try:
            with bounded():
                read(path)
        except PictureError as error:
            assert error.problems[0].remedy or error.check == "animated"
    said = capfd.readouterr()
    assert said.out + said.err == "", "C libraries print by themselves"


# Bombs --------------------------------------------------------------------------------------------


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(
    *chunks: bytes, size: tuple[int, int] = (8, 8), pixels: bytes = b"", end: bytes = b""
) -> bytes:
    body = pixels or zlib.compress(bytes((8 * 3 + 1) * 8))
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0))
    tail = chunk(b"IDAT", body) + end + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunks) + tail


@cache
def swelling(mib: int) -> bytes:
    packer = zlib.compressobj(9)
    return b"".join(packer.compress(bytes(1 << 20)) for _ in range(mib)) + packer.flush()


def tags(size: int, count: int = 20_000) -> bytes:
    """A table whose every entry claims the same large piece of the file."""
    rows = (struct.pack("<HHLL", number + 1, 7, size, 8) for number in range(count))
    return b"II*\0\x08\0\0\0" + struct.pack("<H", count) + b"".join(rows) + bytes(4 + size)


def riff(name: bytes, body: bytes) -> bytes:
    return name + struct.pack("<I", len(body)) + body + bytes(len(body) & 1)


def webp(width: int, height: int, exif: bytes = b"") -> bytes:
    made = io.BytesIO()
    Image.new("RGB", (8, 8)).save(made, "WEBP", lossless=True)
    three = [struct.pack("<I", number)[:3] for number in (0, 0, 7, 7, 100)]
    frame = b"".join(three) + b"\0" + made.getvalue()[12:]
    sides = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    body = b"WEBP" + riff(b"VP8X", bytes([2 | (8 if exif else 0), 0, 0, 0]) + sides)
    body += riff(b"ANIM", bytes(6)) + riff(b"ANMF", frame)
    return riff(b"RIFF", body + (riff(b"EXIF", exif) if exif else b""))


def scans(count: int) -> bytes:
    body = whole("JPEG progressive")
    last = body[body.rfind(b"\xff\xda") : -2]
    return body[:-2] + last * count + b"\xff\xd9"


def gif(rest: bytes, side: int = 9) -> bytes:
    return b"GIF89a" + struct.pack("<HHBBB", side, side, 0, 0, 0) + rest + b";"


FRAME = b",\0\0\0\0\1\0\1\0\0\2\2\x44\1\0"
BOMBS = {
    "PNG of any size": lambda: png(size=(2**31 - 1, 2**31 - 1)),
    "PNG of 900 megapixels": lambda: png(size=(30_000, 30_000)),
    "PNG with a packed text": lambda: png(chunk(b"zTXt", b"a\0\0" + swelling(400))),
    "PNG with a packed text of today": lambda: png(chunk(b"iTXt", b"a\0\1\0\0\0" + swelling(400))),
    "PNG with a packed profile": lambda: png(chunk(b"iCCP", b"a\0\0" + swelling(400))),
    "PNG with packed pixels": lambda: png(pixels=swelling(400)),
    "PNG of a million parts": lambda: png(chunk(b"tEXt", b"a\0b") * 1_000_000),
    "PNG with claiming EXIF": lambda: png(chunk(b"eXIf", tags(1 << 22))),
    "PNG with claiming EXIF at its end": lambda: png(end=chunk(b"eXIf", tags(1 << 22))),
    "APNG of 2**31 frames": lambda: png(chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0))),
    "WebP with a wide canvas": lambda: webp(16_383, 16_383),
    "WebP with claiming EXIF": lambda: webp(8, 8, tags(1 << 22)),
    "JPEG of 3000 scans": lambda: scans(3000),
    "TIFF with claiming tags": lambda: tags(1 << 22),
    "TIFF that leads to itself": lambda: b"II*\0\x08\0\0\0\1\0" + bytes(12) + b"\x08\0\0\0",
    "GIF with a wide canvas": lambda: gif(FRAME, 65_535),
    "GIF of a million frames": lambda: gif(FRAME * 1_000_000),
    "GIF of a million remarks": lambda: gif(b"!\xfe\1a\0" * 1_000_000 + FRAME),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_bombs_take_neither_memory_nor_time(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(BOMBS[kind]())
    for read in (quick_fact, load_rgb):
        # OutOfMemory would say that it was tried.
        with suppress(PictureError), bounded(mib=400):
            read(path)


REFUSED = ("PNG of any size", "PNG of a million parts", "WebP with a wide canvas", "JPEG of 3000 scans",
           "GIF with a wide canvas", "GIF of a million remarks")  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_bombs_are_refused_from_what_can_be_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(BOMBS[kind]())
    monkeypatch.setattr(Image.Image, "load", lambda _: pytest.fail("it was decoded"))
    with pytest.raises(PictureError, match=r"limit|more than any picture needs|decoded"):
        read_image_fact(path)


def test_honest_pictures_of_many_parts_are_read(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), (n, 0, 0)) for n in range(200)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    Image.effect_noise((900, 900), 90).save(tmp_path / "b.jpg", progressive=True, quality=98)
    Image.effect_noise((900, 900), 90).save(tmp_path / "c.png", compress_level=0)
    for name in ("a.gif", "b.jpg", "c.png"):
        assert read_image_fact(tmp_path / name).width


# Captions and folders -----------------------------------------------------------------------------

CAPTIONS = {
    "a gigabyte": None,
    "zeros": bytes(100),
    "escapes": b"\x1b]52;c;x\x07\x9b31m",
    "directions": "a\u202eb\u2066c\u200f".encode(),
    "joined": "👩‍👩‍👧‍👦".encode() * 50,
    "half characters": b"\xed\xa0\x80\xed\xbf\xbf",
    "UTF-16": "cat".encode("utf-16"),
    "braces": b"{" * 30_000,
    "braces in braces": b"{a|" * 10_000 + b"}" * 10_000,
    "marks over marks": ("a" + "\u0301" * 10_000).encode(),
    "a brace for each word": b"{a|b}" * 10_000,
}


@pytest.mark.parametrize("kind", CAPTIONS)
@pytest.mark.parametrize("wildcards", [False, True])
def test_captions_of_strangers(tmp_path: Path, kind: str, wildcards: bool) -> None:
    path, body = tmp_path / "a.txt", CAPTIONS[kind]
    with path.open("wb") as file:
        file.truncate(1 << 30) if body is None else file.write(body)
    findings = Findings()
    with bounded(mib=256):
        read_caption(tmp_path, path, findings, wildcards=wildcards)
    for finding in findings.done():
        assert OBEYED.search(str(finding.problem())) is None


def test_a_folder_of_traps_is_looked_at_and_left(tmp_path: Path) -> None:
    folder = tmp_path / "10_a b"
    folder.mkdir()
    Image.new("RGB", (512, 512)).save(folder / "good.png")
    for name in ("pipe.png", "good.txt", "pipe.toml", "pipe"):
        os.mkfifo(folder / name)
    (folder / "zero.png").symlink_to("/dev/zero")
    (folder / "self.png").symlink_to(folder / "self.png")
    (folder / "up").symlink_to(tmp_path)
    (folder / "round").symlink_to(folder)
    outside = tmp_path / "outside.txt"
    outside.write_text("of the user")
    (folder / "zero.txt").symlink_to(outside)
    with bounded():
        found = survey(SurveyRules(folder=folder))
    assert [item.image.path.name for item in found.items] in ([], ["good.png"])
    assert {finding.check for finding in found.findings} >= {"special picture", "broken link"}
    assert outside.read_text() == "of the user"
