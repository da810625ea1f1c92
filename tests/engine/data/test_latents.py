"""Latents: keys, exactness, damage, NaN, and the ways of keeping them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from engine.data.buckets import BucketRules
from engine.data.encoding import Encoder
from engine.data.images import PictureError
from engine.data.latents import LatentCache, LiveLatents, encode_latents
from engine.data.pictures import Draw, Pictures
from engine.data.pixels import to_pixels, true_crop
from engine.data.placing import place_all
from engine.data.store import Store
from engine.data.survey import SurveyRules, survey
from engine.errors import DataError

torch.set_num_threads(1)


class CountingVae:
    """Averages 8x8 blocks; counts its work and the sizes of its batches."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, pixels_BCHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        assert pixels_BCHW.shape[0] == 1, "pictures are encoded one at a time"
        assert pixels_BCHW.min() >= -1 and pixels_BCHW.max() <= 1
        self.calls += 1
        mean_BCHW = torch.nn.functional.avg_pool2d(pixels_BCHW, 8)
        return mean_BCHW, mean_BCHW.abs() * 0.1


@pytest.fixture
def pictures(tmp_path: Path, picture) -> Pictures:
    for number, size in enumerate(((64, 64), (96, 64), (64, 100))):
        picture(tmp_path / "data" / f"{number}.png", size, seed=number)
    found = survey(SurveyRules(folder=tmp_path / "data", text="x", flip=True))
    placements = place_all(found.items, BucketRules(64, 64, 32, 128, 32, no_upscale=False))
    return Pictures(found.items, placements)


def draw(index: int = 0, *, flipped: bool = False, crop: tuple[int, int] = (0, 0)) -> Draw:
    return Draw(index, flipped, crop, step=1, sample=0)


def moments(source: LatentCache | LiveLatents, one: Draw) -> tuple[torch.Tensor, torch.Tensor]:
    return source.finish(one, source.prepare(one))[:2]


def test_both_mirrored_ways_are_cached_and_mirror_each_other(
    pictures: Pictures, tmp_path: Path
) -> None:
    vae = CountingVae()
    store = Store(tmp_path / "cache", limit_bytes=10**9)
    cache = encode_latents(pictures, Encoder(vae, "v", "fp32 cpu"), store=store)
    assert vae.calls == 6
    for index in range(3):
        plain, _ = moments(cache, draw(index))
        mirrored, _ = moments(cache, draw(index, flipped=True))
        assert torch.allclose(mirrored, plain.flip(-1), atol=1e-6)
        bucket = pictures.placements[index].bucket
        assert plain.shape == (3, bucket[1] // 8, bucket[0] // 8)
    assert vae.calls == 6


def test_disk_ram_and_off_give_the_same_bytes(pictures: Pictures, tmp_path: Path) -> None:
    encoder = Encoder(CountingVae(), "v", "fp32 cpu")
    store = Store(tmp_path / "cache", limit_bytes=10**9)
    disk = encode_latents(pictures, encoder, mode="disk", store=store)
    ram = encode_latents(pictures, encoder, mode="ram")
    off = encode_latents(pictures, encoder, mode="off")
    for index in range(3):
        one = draw(index, crop=pictures.placements[index].crop)
        made = [moments(source, one) for source in (disk, ram, off)]
        assert all(torch.equal(made[0][part], each[part]) for each in made for part in (0, 1))


def test_a_second_run_encodes_nothing(pictures: Pictures, tmp_path: Path) -> None:
    store = Store(tmp_path / "cache", limit_bytes=10**9)
    encode_latents(pictures, Encoder(CountingVae(), "v", "fp32 cpu"), store=store)
    vae = CountingVae()
    encode_latents(pictures, Encoder(vae, "v", "fp32 cpu"), store=store)
    assert vae.calls == 0


def test_nothing_is_written_into_the_data_set(pictures: Pictures, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "data").rglob("*")}
    store = Store(tmp_path / "cache", limit_bytes=10**9)
    encode_latents(pictures, Encoder(CountingVae(), "v", "fp32 cpu"), store=store)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "data").rglob("*")} == before


def key(pictures: Pictures, *, vae: str = "v", precision: str = "fp32 cpu", **change) -> str:
    item = change.pop("item", pictures.items[1])
    placement = replace(pictures.placements[1], **change.pop("placement", {}))
    one = replace(pictures, items=[item], placements=[placement], **change)
    return LatentCache(one, Encoder(CountingVae(), vae, precision), None).key(0, False)


def test_the_key_follows_everything_that_changes_the_numbers(pictures: Pictures) -> None:
    item = pictures.items[1]
    clear = replace(item, image=replace(item.image, alpha=True))
    keys = [
        key(pictures),
        key(pictures, vae="w"),
        key(pictures, precision="bf16 cuda"),
        key(pictures, item=replace(item, image=replace(item.image, sha256="00"))),
        key(pictures, placement={"bucket": (32, 64)}),
        key(pictures, placement={"resized": (97, 65)}),
        key(pictures, placement={"crop": (1, 0)}),
        key(pictures, placement={"scale": 1.5 if pictures.placements[1].scale < 1 else 0.5}),
        key(pictures, item=clear),
        key(pictures, item=clear, background=(0, 0, 0)),
        key(pictures, item=clear, background=None),
        key(pictures, item=clear, background=None, seed=1),
        LatentCache(pictures, Encoder(CountingVae(), "v", "fp32 cpu"), None).key(1, True),
    ]
    assert len(set(keys)) == len(keys)


def test_the_key_ignores_what_changes_nothing(pictures: Pictures) -> None:
    item = pictures.items[1]
    elsewhere = replace(item, image=replace(item.image, path=Path("/moved/other name.png")))
    same = key(pictures)
    assert key(pictures, item=elsewhere) == same
    assert key(pictures, item=replace(item, repeats=9, caption_raw="new")) == same
    assert key(pictures, background=(0, 0, 0)) == same  # Nothing is transparent.


def test_a_damaged_entry_is_made_again_even_in_the_run(pictures: Pictures, tmp_path: Path) -> None:
    vae = CountingVae()
    store = Store(tmp_path / "cache", limit_bytes=10**9)
    cache = encode_latents(pictures, Encoder(vae, "v", "fp32 cpu"), store=store)
    assert isinstance(cache, LatentCache)
    good = moments(cache, draw(0))
    path = store.path(cache.key(0, False))
    data = bytearray(path.read_bytes())
    data[-3] ^= 0xFF
    path.write_bytes(data)
    again = moments(cache, draw(0))
    assert torch.equal(again[0], good[0]) and vae.calls == 7
    assert store.get(cache.key(0, False)) is not None


def nan(pixels_BCHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    mean_BCHW, std_BCHW = CountingVae()(pixels_BCHW)
    return mean_BCHW * float("nan"), std_BCHW


def test_nan_is_tried_again_in_fp32(pictures: Pictures) -> None:
    fp32 = CountingVae()
    cache = encode_latents(pictures, Encoder(nan, "v", "fp16 cpu", fp32), mode="ram")
    assert fp32.calls == 6
    assert bool(torch.isfinite(moments(cache, draw(2))[0]).all())


@pytest.mark.parametrize("second", [None, nan])
def test_nan_in_fp32_stops_and_names_the_picture(
    pictures: Pictures, tmp_path: Path, second
) -> None:
    store = Store(tmp_path / "cache", limit_bytes=10**9)
    with pytest.raises(DataError, match=r"0\.png"):
        encode_latents(pictures, Encoder(nan, "v", "fp16 cpu", second), store=store)
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


def test_infinite_deviation_is_refused_too(pictures: Pictures) -> None:
    def infinite(pixels_BCHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean_BCHW, std_BCHW = CountingVae()(pixels_BCHW)
        return mean_BCHW, std_BCHW + float("inf")

    with pytest.raises(DataError):
        encode_latents(pictures, Encoder(infinite, "v", "fp16 cpu"), mode="ram")


def test_a_full_disk_keeps_latents_in_memory_and_says_so(
    pictures: Pictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Store, "put", full)
    vae = CountingVae()
    store = Store(tmp_path / "cache", limit_bytes=10**9)
    cache = encode_latents(pictures, Encoder(vae, "v", "fp32 cpu"), store=store)
    assert isinstance(cache, LatentCache)
    moments(cache, draw(1))
    assert vae.calls == 6
    assert len(cache.notices) == 1 and "No space left" in cache.notices[0]


def test_a_limit_below_the_data_set_is_told(pictures: Pictures, tmp_path: Path) -> None:
    store = Store(tmp_path / "cache", limit_bytes=10)
    cache = encode_latents(pictures, Encoder(CountingVae(), "v", "fp32 cpu"), store=store)
    assert isinstance(cache, LatentCache)
    assert "data.cache_gigabytes" in cache.notices[0]
    assert len(list((tmp_path / "cache").rglob("*.safetensors"))) == 6


def test_a_picture_changed_since_the_survey_is_named(
    pictures: Pictures, tmp_path: Path, picture
) -> None:
    picture(tmp_path / "data" / "1.png", (96, 64), seed=50)
    with pytest.raises(PictureError, match=r"1\.png"):
        encode_latents(pictures, Encoder(CountingVae(), "v", "fp32 cpu"), mode="ram")


def test_progress_counts_every_entry(pictures: Pictures) -> None:
    seen: list[tuple[int, int]] = []
    encoder = Encoder(CountingVae(), "v", "fp32 cpu")
    encode_latents(pictures, encoder, mode="ram", progress=lambda *pair: seen.append(pair))
    assert seen == [(done, 6) for done in range(1, 7)]


# Pixels -------------------------------------------------------------------------------------------


def test_pixels_are_resized_cut_and_mirrored(pictures: Pictures) -> None:
    placement = replace(
        pictures.placements[0], bucket=(2, 2), resized=(4, 2), crop=(1, 0), scale=1.0
    )
    image = Image.new("RGB", (4, 2))
    for x in range(4):
        for y in range(2):
            image.putpixel((x, y), (x * 85, y * 255, 0))
    plain = to_pixels(image, placement, crop=(1, 0), flipped=False)
    assert plain.shape == (3, 2, 2)
    assert torch.allclose(plain[0, 0], torch.tensor([85.0, 170.0]) / 127.5 - 1)
    assert torch.allclose(plain[1, :, 0], torch.tensor([-1.0, 1.0]))
    mirrored = to_pixels(image, placement, crop=(1, 0), flipped=True)
    assert torch.equal(mirrored, plain.flip(-1))


def test_shrinking_averages_areas(pictures: Pictures) -> None:
    placement = replace(
        pictures.placements[0], bucket=(1, 1), resized=(1, 1), crop=(0, 0), scale=0.5
    )
    image = Image.new("RGB", (2, 2), "black")
    image.putpixel((0, 0), (200, 200, 200))
    pixels = to_pixels(image, placement, crop=(0, 0), flipped=False)
    assert pixels[0, 0, 0].item() == pytest.approx(50 / 127.5 - 1)


def test_the_true_crop_is_mirrored_with_the_picture(pictures: Pictures) -> None:
    placement = replace(pictures.placements[0], bucket=(10, 10), resized=(17, 12))
    assert true_crop(placement, (2, 1), flipped=False) == (2, 1)
    assert true_crop(placement, (2, 1), flipped=True) == (5, 1)


def test_random_backgrounds_are_one_for_each_picture_when_cached(pictures: Pictures) -> None:
    drawn = replace(pictures, background=None)
    first, second, _ = drawn.items
    assert drawn.colour(first) == drawn.colour(first) != drawn.colour(second)
    assert drawn.colour(first, 1, 0) != drawn.colour(first, 2, 0)
