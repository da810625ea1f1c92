"""Masks: where they are found, and that they follow the picture through crop, mirror and cache."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from engine.data.buckets import BucketRules
from engine.data.encoding import Encoder
from engine.data.latents import encode_latents
from engine.data.pictures import Draw, Pictures
from engine.data.placing import place_all
from engine.data.store import Store
from engine.data.survey import Survey, SurveyRules, survey

torch.set_num_threads(1)


def vae(pixels_BCHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    mean_BCHW = torch.nn.functional.avg_pool2d(pixels_BCHW, 8)
    return mean_BCHW, mean_BCHW.abs() * 0.1


def half(path: Path, size: tuple[int, int], share: float = 0.5) -> Path:
    """A mask whose left part is white."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = Image.new("L", size)
    mask.paste(255, (0, 0, round(size[0] * share), size[1]))
    mask.save(path)
    return path


def look(folder: Path, masks: Path | None, **rules) -> Survey:
    kind = "alpha" if masks is None else "folder"
    wanted = SurveyRules(folder, text="x", captions=False, masks=kind, mask_folder=masks, **rules)
    return survey(wanted, workers=1)


def pictures_of(found: Survey, **options) -> Pictures:
    rules = BucketRules(64, 64, 32, 128, 32, no_upscale=False)
    return Pictures(found.items, place_all(found.items, rules), **options)


def levels(found: Survey) -> dict[str, str]:
    return {finding.check: finding.level for finding in found.findings}


def test_masks_are_found_by_the_stem_in_any_case_and_any_format(tmp_path: Path, picture) -> None:
    picture(tmp_path / "data" / "A.png", seed=1)
    picture(tmp_path / "data" / "b.jpg", seed=2)
    half(tmp_path / "masks" / "a.webp", (64, 64))
    half(tmp_path / "masks" / "b.png", (64, 64))
    found = look(tmp_path / "data", tmp_path / "masks")
    names = [item.mask and item.mask.path and item.mask.path.name for item in found.items]
    assert names == ["a.webp", "b.png"]
    assert found.findings == ()


def test_a_folder_named_like_the_concept_wins_and_reg_has_no_other(tmp_path: Path, picture) -> None:
    for folder in ("data/1_dog", "data/1_cat", "reg/1_animal"):
        picture(tmp_path / folder / "a.png", seed=len(folder))
    half(tmp_path / "masks" / "a.png", (64, 64))
    own = half(tmp_path / "masks" / "1_dog" / "a.png", (64, 64), 0.25)
    rules = SurveyRules(
        tmp_path / "data",
        tmp_path / "reg",
        masks="folder",
        mask_folder=tmp_path / "masks",
    )
    found = {item.concept: item for item in survey(rules, workers=1).items}
    assert found["1_dog"].mask is not None and found["1_dog"].mask.path == own
    assert found["1_cat"].mask is not None
    assert found["1_cat"].mask.path == tmp_path / "masks" / "a.png"
    assert found["1_animal"].mask is None


def test_a_picture_without_mask_is_named_and_learnt_as_a_whole(tmp_path: Path, picture) -> None:
    picture(tmp_path / "data" / "a.png", seed=1)
    picture(tmp_path / "data" / "b.png", seed=2)
    half(tmp_path / "masks" / "a.png", (64, 64))
    found = look(tmp_path / "data", tmp_path / "masks")
    (finding,) = found.findings
    assert (finding.check, finding.files) == ("mask missing", ("b.png",))
    assert [item.mask is None for item in found.items] == [False, True]


def test_masks_change_the_fingerprint(tmp_path: Path, picture) -> None:
    picture(tmp_path / "data" / "a.png", seed=1)
    half(tmp_path / "masks" / "a.png", (64, 64))
    one = look(tmp_path / "data", tmp_path / "masks").fingerprint()
    half(tmp_path / "masks" / "a.png", (64, 64), 0.25)
    assert look(tmp_path / "data", tmp_path / "masks").fingerprint() != one


@pytest.mark.parametrize("mode", ["disk", "ram", "off"])
def test_the_mask_has_the_crop_and_mirror_of_its_picture(tmp_path: Path, mode) -> None:
    # The picture is white where its mask is: after any crop and mirror both are the same.
    white = Image.new("RGB", (150, 80), "black")
    white.paste((255, 255, 255), (0, 0, 60, 80))
    (tmp_path / "data").mkdir()
    white.save(tmp_path / "data" / "a.png")
    half(tmp_path / "masks" / "a.png", (150, 80), 60 / 150)
    found = look(tmp_path / "data", tmp_path / "masks", flip=True)
    pictures = pictures_of(found)
    store = Store(tmp_path / "cache", limit_bytes=10**9)
    source = encode_latents(pictures, Encoder(vae, "v", "p"), mode=mode, store=store)
    for flipped in (False, True):
        draw = Draw(0, flipped, pictures.placements[0].crop, 1, 0)
        mean_CHW, _, mask_1HW = source.finish(draw, source.prepare(draw))
        assert mask_1HW is not None
        assert torch.allclose(mask_1HW, (mean_CHW[:1] + 1) / 2, atol=0.03)
        left, right = float(mask_1HW[..., 0].mean()), float(mask_1HW[..., -1].mean())
        assert (left > right) is not flipped


def test_masks_are_averaged_over_the_area_of_latent_pixels(tmp_path: Path, picture) -> None:
    picture(tmp_path / "data" / "a.png", (64, 64))
    half(tmp_path / "masks" / "a.png", (64, 64), 20 / 64)
    pictures = pictures_of(look(tmp_path / "data", tmp_path / "masks"))
    source = encode_latents(pictures, Encoder(vae, "v", "p"), mode="ram")
    mask_1HW = source.finish(draw := Draw(0, False, (0, 0), 1, 0), source.prepare(draw)).mask_1HW
    assert mask_1HW is not None
    assert mask_1HW[0, 0].tolist() == [1, 1, 0.5, 0, 0, 0, 0, 0]


def test_a_mask_of_another_size_is_stretched_over_the_picture(tmp_path: Path, picture) -> None:
    picture(tmp_path / "data" / "a.png", (64, 64))
    half(tmp_path / "masks" / "a.png", (16, 8))
    found = look(tmp_path / "data", tmp_path / "masks")
    assert levels(found) == {"mask size": "warning"}
    loaded = pictures_of(found).load(0, (0, 0), False, (0, 0, 0))
    assert loaded.mask_1HW is not None and loaded.mask_1HW.shape == (1, 64, 64)
    assert loaded.mask_1HW[0, 0, :28].min() > 0.9 and loaded.mask_1HW[0, 0, 36:].max() < 0.1


def test_another_mask_misses_the_cache(tmp_path: Path, picture) -> None:
    picture(tmp_path / "data" / "a.png", (64, 64))
    store = Store(tmp_path / "cache", limit_bytes=10**9)
    seen = []
    for share in (0.5, 0.25):
        half(tmp_path / "masks" / "a.png", (64, 64), share)
        pictures = pictures_of(look(tmp_path / "data", tmp_path / "masks"))
        source = encode_latents(pictures, Encoder(vae, "v", "p"), store=store)
        draw = Draw(0, False, (0, 0), 1, 0)
        mask_1HW = source.finish(draw, source.prepare(draw)).mask_1HW
        assert mask_1HW is not None
        seen.append(float(mask_1HW.mean()))
    assert seen == [0.5, 0.25]


# Alpha --------------------------------------------------------------------------------------------


def clear_right(folder: Path) -> None:
    """Green all over, opaque on the left half only."""
    folder.mkdir(parents=True)
    image = Image.new("RGBA", (64, 64), (0, 255, 0, 255))
    image.paste((0, 255, 0, 0), (32, 0, 64, 64))
    image.save(folder / "a.png")


def test_alpha_as_mask_is_not_composited_as_well(tmp_path: Path) -> None:
    clear_right(tmp_path / "data")
    found = look(tmp_path / "data", None)
    assert levels(found) == {}  # Nothing is said of a background.
    loaded = pictures_of(found, background=(255, 0, 0)).load(0, (0, 0), False, (255, 0, 0))
    assert loaded.mask_1HW is not None
    assert loaded.mask_1HW[0, 5].tolist() == [1.0] * 32 + [0.0] * 32
    assert (loaded.pixels_CHW[0] == -1).all() and (loaded.pixels_CHW[1] == 1).all()


def test_without_masks_alpha_is_composited(tmp_path: Path) -> None:
    clear_right(tmp_path / "data")
    found = survey(SurveyRules(tmp_path / "data", text="x"), workers=1)
    loaded = pictures_of(found).load(0, (0, 0), False, (255, 0, 0))
    assert loaded.mask_1HW is None
    assert loaded.pixels_CHW[:, 5, 60].tolist() == [1, -1, -1]


def test_alpha_as_mask_has_a_key_of_its_own_and_needs_no_background(tmp_path: Path) -> None:
    clear_right(tmp_path / "data")
    plain = survey(SurveyRules(tmp_path / "data", text="x"), workers=1)
    masked = look(tmp_path / "data", None)
    keys = {}
    for name, found in (("plain", plain), ("masked", masked)):
        for background in ((0, 0, 0), (255, 0, 0)):
            pictures = pictures_of(found, background=background)
            cache = encode_latents(pictures, Encoder(vae, "v", "p"), mode="ram")
            keys[name, background] = cache.key(0, False)  # type: ignore[union-attr]
    assert keys["masked", (0, 0, 0)] == keys["masked", (255, 0, 0)]
    assert len(set(keys.values())) == 3


def test_opaque_pictures_have_no_alpha_mask_and_are_named(tmp_path: Path, picture) -> None:
    picture(tmp_path / "data" / "a.png")
    found = look(tmp_path / "data", None)
    assert found.items[0].mask is None
    assert levels(found) == {"mask missing": "warning"}
